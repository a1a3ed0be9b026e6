/** A shop's products in a file: JSON lines, a product a line, or CSV, an image a line. */
import { CsvError, parse } from "csv-parse/sync";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type JsonLine, jsonLines } from "./json-lines.ts";

const optionalText = (longest: number) =>
  z
    .string()
    .trim()
    .max(longest, `must have at most ${longest} characters`)
    .transform((text) => (text === "" ? null : text))
    .nullish()
    .transform((text) => text ?? null);

const id = z.int("must be a whole number").min(1, "must be 1 or more").max(2_147_483_647, "is too large");

const image = z
  .strictObject({
    column_number: id.nullish().transform((number) => number ?? null),
    image_url: optionalText(4_000).refine(
      (text) => text === null || /^https?:\/\//i.test(text),
      "must be an http(s) URL; a file's name belongs into image_filename",
    ),
    image_filename: optionalText(1_000),
  })
  .refine(
    ({ image_url, image_filename }) => image_url !== null || image_filename !== null,
    "must have an image_url or an image_filename",
  );

const product = z
  .strictObject({
    id,
    name: z.string().trim().min(1, "must not be empty").max(1_000, "must have at most 1000 characters"),
    article: optionalText(200),
    url: optionalText(4_000),
    images: z.array(image).max(200, "must be at most 200").optional(),
  })
  .refine(({ images = [] }) => {
    const numbers = images.map(({ column_number }, place) => column_number ?? place + 1);
    return new Set(numbers).size === numbers.length;
  }, "two images have the same column_number");

/** A product as `reembed.ingest_products` takes it; without `images` it keeps those that it has. */
export type Product = z.output<typeof product>;

const MOST_FAULTS = 10;

/**
 * Reads a file's products, all or none.
 * @param name the file's name, whose ending says what it is: `.csv`, or `.jsonl`, `.ndjson`, `.json` for JSON lines
 * @throws ReembedError `invalid_request` that lists the faults by their lines, at most ten
 */
export function parseProducts(name: string, text: string): Product[] {
  const faults: string[] = [];
  const lines = /\.csv$/i.test(name) ? csvLines(name, text) : jsonLines(text);
  const products: Product[] = [];
  const lineOf = new Map<number, number>();
  for (const { line, ...read } of lines) {
    if ("fault" in read) {
      faults.push(`line ${line}: it ${read.fault}; a product stands on one line`);
      continue;
    }
    const parsed = product.safeParse(read.value);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      const field = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
      faults.push(`line ${line}: ${field}${issue?.message ?? "does not fit"}`);
      continue;
    }
    const earlier = lineOf.get(parsed.data.id);
    if (earlier !== undefined) {
      faults.push(`line ${line}: product ${parsed.data.id} stands at line ${earlier} already`);
      continue;
    }
    lineOf.set(parsed.data.id, line);
    products.push(parsed.data);
  }
  if (faults.length > 0) {
    const more = faults.length > MOST_FAULTS ? `; and ${faults.length - MOST_FAULTS} more` : "";
    throw invalid(`${name}: ${faults.slice(0, MOST_FAULTS).join("; ")}${more}`);
  }
  if (products.length === 0) throw invalid(`${name}: there is no product in it`);
  return products;
}

const COLUMNS = ["id", "name", "article", "url", "column_number", "image_url", "image_filename"] as const;
type Column = (typeof COLUMNS)[number];

/** Lines of one id are one product, whose name, article and url stand on its first line; a line without an image adds none. */
function csvLines(name: string, text: string): JsonLine[] {
  let records: { info: { lines: number }; record: Partial<Record<Column, string>> }[];
  try {
    records = parse(text, {
      bom: true,
      columns: checkedHeader(name),
      info: true,
      trim: true,
      skip_empty_lines: true,
    });
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    // The library's message quotes the line.
    throw invalid(`${name}: line ${error.lines ?? "?"}: it is no CSV of these columns (${error.code})`);
  }
  const products = new Map<string, { line: number; value: Record<string, unknown>; images: object[] }>();
  for (const { info, record } of records) {
    const { id = "", name, article, url, column_number, image_url, image_filename } = record;
    const known = products.get(id) ?? {
      line: info.lines,
      value: { id: wholeOrText(id), name, article, url },
      images: [],
    };
    products.set(id, known);
    if (!column_number && !image_url && !image_filename) continue;
    known.images.push({
      ...(column_number && { column_number: wholeOrText(column_number) }),
      image_url,
      image_filename,
    });
  }
  return [...products.values()].map(({ line, value, images }) => ({
    line,
    value: images.length > 0 ? { ...value, images } : value,
  }));
}

function checkedHeader(file: string) {
  return (header: string[]): string[] => {
    const unknown = header.filter((column) => !COLUMNS.some((known) => known === column));
    const missing = ["id", "name"].filter((column) => !header.includes(column));
    if (unknown.length > 0 || missing.length > 0) {
      const what =
        missing.length > 0
          ? `the column ${missing[0]} is missing`
          : `the column ${unknown[0]?.slice(0, 60)} is unknown`;
      throw invalid(
        `${file}: line 1: ${what}`,
        `Its columns: ${COLUMNS.join(", ")}; all but id and name may be left out.`,
      );
    }
    return header;
  };
}

const wholeOrText = (text: string): number | string => (/^-?\d+$/.test(text) ? Number(text) : text);

function invalid(
  message: string,
  hint = "Mend the lines and run it again: nothing was written.",
): ReembedError {
  return new ReembedError("invalid_request", message, hint);
}
