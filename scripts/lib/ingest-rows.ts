/** Rows from files into a collection's table: `reembed ingest` for what is no document of its own. */
import { basename } from "node:path";
import type { Database } from "./connection.ts";
import { withDatabase } from "./database.ts";
import type { DatabaseOptions } from "./options.ts";
import { type Output, table } from "./output.ts";
import { type FileRow, faultText, type RowFault, RowFaults, type RowField, readRows } from "./rows-file.ts";

/** Rows in one statement: it holds its locks for a moment only. */
const ROWS_AT_ONCE = 500;

const ROW_COUNTS = ["rows", "inserted", "updated", "unchanged"] as const;
type RowCounts = Record<(typeof ROW_COUNTS)[number], number>;

/**
 * Reads all files, then writes what is new or has changed, and prints the counts.
 * @throws RowFaults where any line of any file is wrong: nothing is written then
 */
export async function ingestRows(
  paths: readonly string[],
  collection: string,
  options: DatabaseOptions,
  out: Output,
): Promise<void> {
  const results = await withDatabase(options, async (db) => {
    const [row] = await db.query<{ fields: RowField[] }>("select reembed.row_fields($1) as fields", [
      collection,
    ]);
    const files = await readAll(paths, row?.fields ?? [], out);
    const results: (RowCounts & { file: string })[] = [];
    for (const { file, rows } of files) results.push({ file, ...(await writeRows(db, collection, rows)) });
    return results;
  });
  const totals: RowCounts = { rows: 0, inserted: 0, updated: 0, unchanged: 0 };
  for (const result of results) for (const count of ROW_COUNTS) totals[count] += result[count];
  const lines = [...results, { file: "total", ...totals }];
  for (const line of table(
    ["file", ...ROW_COUNTS],
    lines.map((result) => [basename(result.file), ...ROW_COUNTS.map((count) => String(result[count]))]),
  ))
    out.say(line);
  out.result({ collection, files: results, totals });
}

/** All files before one is written; whatever is wrong in any of them is told. */
async function readAll(paths: readonly string[], fields: readonly RowField[], out: Output) {
  const files: { file: string; rows: FileRow[] }[] = [];
  const faults: RowFault[] = [];
  for (const file of paths) {
    try {
      files.push({ file, rows: await readRows(file, fields) });
    } catch (error) {
      if (!(error instanceof RowFaults)) throw error;
      faults.push(...error.faults);
    }
  }
  if (faults.length === 0) return files;
  for (const fault of faults.slice(1, MOST_FAULTS)) out.note(faultText(fault));
  throw new RowFaults(faults);
}

/** Faults that are printed. */
const MOST_FAULTS = 20;

async function writeRows(db: Database, collection: string, rows: readonly FileRow[]): Promise<RowCounts> {
  const fields = [...new Set(rows.flatMap(({ values }) => Object.keys(values)))];
  const counts: RowCounts = { rows: rows.length, inserted: 0, updated: 0, unchanged: 0 };
  for (let from = 0; from < rows.length; from += ROWS_AT_ONCE) {
    const some = rows.slice(from, from + ROWS_AT_ONCE).map(({ values }) => values);
    const [row] = await db.query<{ written: Omit<RowCounts, "rows"> }>(
      "select reembed.ingest_rows($1, $2, $3::jsonb) as written",
      [collection, fields, JSON.stringify(some)],
    );
    for (const count of ["inserted", "updated", "unchanged"] as const)
      counts[count] += row?.written[count] ?? 0;
  }
  return counts;
}
