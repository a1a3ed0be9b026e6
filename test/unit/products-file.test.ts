/** A shop's products in a file: what is taken, and how faults are told. */
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { parseProducts } from "../../scripts/lib/products.ts";

const image = (more: object) => ({ column_number: null, image_url: null, image_filename: null, ...more });
const product = (more: object) => ({ article: null, url: null, ...more });
const failure = (name: string, text: string) => {
  try {
    parseProducts(name, text);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("it was taken");
};

describe("JSON lines", () => {
  test("the example's file is taken", async () => {
    const text = await readFile(
      new URL("../../examples/product-photos/products.jsonl", import.meta.url),
      "utf8",
    );
    expect(parseProducts("products.jsonl", text)).toHaveLength(35);
  });

  test("a product without images keeps those it has; blank texts are none; a byte order mark is no text", () => {
    const text = `\uFEFF{"id":1,"name":" Mug ","article":" "}\r\n\r\n{"id":2,"name":"Cup","images":[{"image_url":"https://x.example/2.jpg"},{"image_filename":"2b.jpg"}]}\n`;
    expect(parseProducts("p.jsonl", text)).toEqual([
      product({ id: 1, name: "Mug" }),
      product({
        id: 2,
        name: "Cup",
        images: [image({ image_url: "https://x.example/2.jpg" }), image({ image_filename: "2b.jpg" })],
      }),
    ]);
  });

  test.each([
    ["", "there is no product in it"],
    ["[", "line 1: it is not JSON"],
    ['{"id":1,"name":"a"}\n{"id":1,"name":"b"}', "line 2: product 1 stands at line 1 already"],
    ['{"id":"1","name":"a"}', "line 1: id: must be a whole number"],
    ['{"id":0,"name":"a"}', "line 1: id: must be 1 or more"],
    ['{"id":1}', "line 1: name: "],
    ['{"id":1,"name":"a","price":3}', 'line 1: Unrecognized key: "price"'],
    [
      '{"id":1,"name":"a","images":[{"column_number":1}]}',
      "line 1: images.0: must have an image_url or an image_filename",
    ],
    [
      '{"id":1,"name":"a","images":[{"image_url":"file:///etc/passwd"}]}',
      "line 1: images.0.image_url: must be an http(s) URL",
    ],
    [
      '{"id":1,"name":"a","images":[{"column_number":2,"image_filename":"a"},{"image_filename":"b"}]}',
      "line 1: two images have the same column_number",
    ],
  ])("%s", (text, message) => {
    expect(failure("p.jsonl", text)).toContain(message);
  });

  test("ten faults are told, and how many more there are", () => {
    const told = failure("p.jsonl", "x\n".repeat(25));
    expect(told.match(/line \d+/g)).toHaveLength(10);
    expect(told).toMatch(/and 15 more$/);
  });
});

describe("CSV", () => {
  test("is an image a line", () => {
    const text =
      'id,name,url,column_number,image_filename\n1,"A ""mug"", red",https://x.example/1,1,a.jpg\n1,,,2,"b,c.jpg"\n2,Cup,,,\n';
    expect(parseProducts("p.csv", text)).toEqual([
      product({
        id: 1,
        name: 'A "mug", red',
        url: "https://x.example/1",
        images: [
          image({ column_number: 1, image_filename: "a.jpg" }),
          image({ column_number: 2, image_filename: "b,c.jpg" }),
        ],
      }),
      product({ id: 2, name: "Cup" }),
    ]);
  });

  test.each([
    ["name,image_url\na,b", "line 1: the column id is missing"],
    ["id,name,price\n1,a,3", "line 1: the column price is unknown"],
    ["id,name\n1,a,b", "line 2: it is no CSV of these columns"],
    ['id,name\n1,"a', "it is no CSV of these columns"],
    ["id,name\nx,a", "line 2: id: must be a whole number"],
    [
      "id,name,column_number,image_url\n1,a,first,https://x.example",
      "line 2: images.0.column_number: must be a whole number",
    ],
  ])("%s", (text, message) => {
    expect(failure("p.csv", text)).toContain(message);
  });
});
