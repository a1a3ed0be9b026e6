/**
 * Rows from files: JSON lines and CSV, checked whole against the fields that a collection's table takes, before anything is written. Whatever is wrong names
 * file, line, field and rule.
 */
import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import { CsvError, parse } from "csv-parse/sync";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type JsonLine, jsonLines } from "./json-lines.ts";

/** A column that a row may give, as reembed.row_fields lists them. */
export interface RowField {
  readonly name: string;
  readonly type: string;
  /** Part of the natural key, by which a row is known again. */
  readonly key: boolean;
  readonly required: boolean;
}

/** A row as it is written, and where it stands. */
export interface FileRow {
  readonly line: number;
  readonly values: Readonly<Record<string, unknown>>;
}

/** Something wrong in a file. */
export interface RowFault {
  readonly file: string;
  readonly line: number;
  /** The field, or nothing where the line itself is wrong. */
  readonly field?: string;
  readonly rule: string;
}

export class RowFaults extends ReembedError {
  readonly faults: readonly RowFault[];

  constructor(faults: readonly RowFault[]) {
    const [first] = faults;
    const others = faults.length > 1 ? ` (and ${faults.length - 1} more)` : "";
    super(
      "invalid_request",
      `${first === undefined ? "nothing to ingest" : faultText(first)}${others}`,
      "Nothing was written. Mend the file and run the same again.",
    );
    this.faults = faults;
  }
}

export const faultText = ({ file, line, field, rule }: RowFault) =>
  `${file}, line ${line}${field === undefined ? "" : `, ${field}`}: ${rule}`;

/** An index holds no longer key. */
const LONGEST_KEY = 500;
const LONGEST_TEXT = 1_000_000;

/**
 * Reads the rows of a file: `.jsonl`, `.ndjson` (an object a line) or `.csv` (the first line names the fields; an empty cell is no value).
 * Texts are taken in Unicode NFC and without blanks at their ends; a list of texts becomes one text, one a line.
 * @throws RowFaults with all that is wrong in it
 */
export async function readRows(file: string, fields: readonly RowField[]): Promise<FileRow[]> {
  const format = extname(file).toLowerCase();
  const records =
    format === ".csv"
      ? csvRecords(file, await textOf(file))
      : format === ".jsonl" || format === ".ndjson"
        ? jsonLines(await textOf(file))
        : undefined;
  if (records === undefined) {
    throw new ReembedError(
      "invalid_request",
      `${file}: rows are read from .jsonl, .ndjson and .csv`,
      "Name the file by its format.",
    );
  }
  return checkRows(file, records, fields);
}

async function textOf(file: string): Promise<string> {
  const bytes = await readFile(file).catch(() => undefined);
  if (bytes === undefined)
    throw new ReembedError("invalid_request", `there is no file ${file} to read`, "Check the path.");
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ReembedError("invalid_request", `${file}: is not UTF-8`, "Save it in UTF-8.");
  }
}

const csvRow = z.object({ info: z.object({ lines: z.number() }), record: z.record(z.string(), z.string()) });

function csvRecords(file: string, text: string): JsonLine[] {
  try {
    // `lines` is where a record ends: one with line breaks in its cells begins further up.
    const rows: unknown[] = parse(text, { bom: true, columns: true, info: true, skip_empty_lines: true });
    return z
      .array(csvRow)
      .parse(rows)
      .map(({ info, record }) => ({
        line: info.lines,
        value: Object.fromEntries(Object.entries(record).filter(([, cell]) => cell.trim() !== "")),
      }));
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const line = "lines" in error && typeof error.lines === "number" ? error.lines : 1;
    throw new RowFaults([{ file, line, rule: `is not CSV: ${error.message}` }]);
  }
}

function checkRows(file: string, records: readonly JsonLine[], fields: readonly RowField[]): FileRow[] {
  const faults: RowFault[] = [];
  const rows: FileRow[] = [];
  const seen = new Map<string, number>();
  const names = fields.map(({ name }) => name);
  const keys = fields.filter(({ key }) => key).map(({ name }) => name);
  for (const record of records) {
    const { line } = record;
    const wrong = (rule: string, field?: string) =>
      faults.push({ file, line, rule, ...(field === undefined ? {} : { field }) });
    if ("fault" in record) {
      wrong(record.fault);
      continue;
    }
    const { value } = record;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      wrong("is not a JSON object");
      continue;
    }
    const before = faults.length;
    const given = new Map<string, unknown>(Object.entries(value));
    for (const name of given.keys()) {
      if (!names.includes(name)) wrong(`is no field: there are ${names.join(", ")}`, name.slice(0, 63));
    }
    const values: Record<string, unknown> = {};
    for (const field of fields) {
      const checked = checkValue(field, given.get(field.name));
      if ("rule" in checked) wrong(checked.rule, field.name);
      else if (checked.value !== undefined) values[field.name] = checked.value;
    }
    if (faults.length > before) continue;
    const key = JSON.stringify(keys.map((name) => values[name] ?? null));
    const other = seen.get(key);
    if (other !== undefined) {
      wrong(`is the same as in line ${other}`, keys.join(", "));
      continue;
    }
    seen.set(key, line);
    rows.push({ line, values });
  }
  if (faults.length > 0) throw new RowFaults(faults);
  return rows;
}

type Checked = { readonly value: unknown } | { readonly rule: string };

function checkValue({ type, required, key }: RowField, given: unknown): Checked {
  const isText = type === "text" || type.startsWith("character");
  const value = typeof given === "string" ? given.normalize("NFC").trim() : given;
  if (value === undefined || value === null || value === "")
    return required
      ? { rule: value === undefined ? "is missing" : "must not be empty" }
      : { value: undefined };
  if (isText) {
    const text =
      Array.isArray(value) && value.every((one) => typeof one === "string")
        ? value
            .map((one) => one.normalize("NFC").trim())
            .filter((one) => one !== "")
            .join("\n")
        : value;
    if (typeof text !== "string") return { rule: "must be a text, or a list of texts" };
    if (text.includes("\u0000")) return { rule: "holds a NUL character, which PostgreSQL does not take" };
    const longest = key ? LONGEST_KEY : LONGEST_TEXT;
    return text.length > longest
      ? { rule: `must have at most ${longest.toLocaleString("en")} characters` }
      : { value: text === "" ? undefined : text };
  }
  if (/^(small|big)?int(eger)?$/.test(type)) {
    const number = Number(value);
    return Number.isSafeInteger(number) && typeof value !== "boolean"
      ? { value: number }
      : { rule: "must be a whole number" };
  }
  if (type === "uuid") {
    return z.guid().safeParse(value).success ? { value } : { rule: "must be a UUID" };
  }
  return { value };
}
