/** JSON lines from a text and from a file: where a line ends, and what is told of one that is not JSON. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type JsonLine, jsonLines, jsonLinesIn } from "../../scripts/lib/json-lines.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "json-lines-test-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function fromFile(content: string | Uint8Array): Promise<JsonLine[]> {
  const path = join(folder, "lines.jsonl");
  await writeFile(path, content);
  return Array.fromAsync(jsonLinesIn(path));
}

describe.each([
  ["in memory", async (text: string) => jsonLines(text)],
  ["in a file", fromFile],
])("%s", (_, read) => {
  test("a byte order mark, carriage returns, blank lines and a last line without an end are no matter", async () => {
    expect(await read('\uFEFF{"a":1}\r\n\n  \n[2]\n3')).toEqual([
      { line: 1, value: { a: 1 } },
      { line: 4, value: [2] },
      { line: 5, value: 3 },
    ]);
    expect(await read("\n")).toEqual([]);
  });

  test("line and paragraph separators within a text end no line", async () => {
    expect(await read('{"a":"one\u2028two\u2029three\u0085four"}\n{"b":1}')).toEqual([
      { line: 1, value: { a: "one\u2028two\u2029three\u0085four" } },
      { line: 2, value: { b: 1 } },
    ]);
  });

  test("what is not JSON is told by its line, and those after it are read", async () => {
    expect(await read('{"a":\nnull\n')).toEqual([
      { line: 1, fault: "is not JSON" },
      { line: 2, value: null },
    ]);
  });
});

test("a file is read in parts, which may end within a character", async () => {
  const text = "ɨ€𝔸".repeat(30_000);
  expect(await fromFile(`x\n${JSON.stringify(text)}\n${JSON.stringify(text)}`)).toEqual([
    { line: 1, fault: "is not JSON" },
    { line: 2, value: text },
    { line: 3, value: text },
  ]);
});

test.each([
  ["a byte that UTF-8 does not have", [0x22, 0xff, 0x22]],
  ["an end within a character", [0x22, 0xe2, 0x82]],
])("%s is the fault of its line alone", async (_, bytes) => {
  expect(await fromFile(new Uint8Array([0x31, 0x0a, ...bytes, 0x0a, 0x33]))).toEqual([
    { line: 1, value: 1 },
    { line: 2, fault: "is not UTF-8" },
    { line: 3, value: 3 },
  ]);
});
