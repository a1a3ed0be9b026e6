/** JSON lines: a JSON value on each line of a text. Documents, rows, products and queries are all read by this. */
import { createReadStream } from "node:fs";

/** A line that is not blank, by its number from 1, and its value, or what is wrong with it. */
export type JsonLine =
  | { readonly line: number; readonly value: unknown }
  | { readonly line: number; readonly fault: "is not JSON" | "is not UTF-8" };

const LINE_FEED = 0x0a;

/**
 * The lines of a text. A line ends at a line feed and nowhere else, because JSON may hold U+2028 and U+2029 as they are; a byte order mark before it is left
 * out.
 */
export function jsonLines(text: string): JsonLine[] {
  return text.split("\n").flatMap((content, index) => parsed(index + 1, content));
}

/** The same of a file, a line at a time: an archive may be larger than the memory. */
export async function* jsonLinesIn(path: string): AsyncGenerator<JsonLine> {
  let line = 0;
  let begun: Uint8Array[] = [];
  const chunks: AsyncIterable<Uint8Array> = createReadStream(path);
  for await (const bytes of chunks) {
    let from = 0;
    for (let end = bytes.indexOf(LINE_FEED); end >= 0; end = bytes.indexOf(LINE_FEED, from)) {
      line += 1;
      yield* decoded(line, [...begun, bytes.subarray(from, end)]);
      begun = [];
      from = end + 1;
    }
    begun.push(bytes.subarray(from));
  }
  yield* decoded(line + 1, begun);
}

function decoded(line: number, bytes: readonly Uint8Array[]): JsonLine[] {
  try {
    return parsed(line, new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(bytes)));
  } catch {
    return [{ line, fault: "is not UTF-8" }];
  }
}

function parsed(line: number, text: string): JsonLine[] {
  const content = text.replace(/^\uFEFF/, "");
  if (content.trim() === "") return [];
  try {
    return [{ line, value: JSON.parse(content) }];
  } catch {
    return [{ line, fault: "is not JSON" }];
  }
}
