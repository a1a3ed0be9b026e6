/** pgTAP files and what they print. */
import { Query, type QueryArrayConfig } from "pg";
import { connect } from "./postgres.ts";

/**
 * What is wrong in the output of a TAP producer: the failing tests with their diagnostics, a plan that is missing or was not kept, a
 * bail-out. Empty when all is well. Tests marked SKIP or TODO do not fail.
 */
export function tapFailures(lines: readonly string[]): string[] {
  const failures: string[] = [];
  let planned: number | undefined;
  let ran = 0;
  let failing = false;
  for (const line of lines) {
    const result = /^(not )?ok\b(?!.*# (?:SKIP|TODO)\b)/i.exec(line);
    if (/^(?:not )?ok\b/.test(line)) {
      ran++;
      failing = result?.[1] !== undefined;
      if (failing) failures.push(line);
    } else if (/^Bail out!/.test(line)) {
      failures.push(line);
    } else if (/^1\.\.\d+/.test(line)) {
      planned = Number.parseInt(line.slice(3), 10);
    } else if (failing && line.startsWith("#")) {
      failures.push(line);
    }
  }
  if (planned === undefined) failures.push("no plan: the file must call plan() or no_plan() and finish()");
  else if (planned !== ran) failures.push(`planned ${planned} tests and ran ${ran}`);
  return failures;
}

/** The lines a script prints, up to its end or its first error, which becomes the last line. */
export async function runTap(url: string, sql: string): Promise<string[]> {
  const client = await connect(url);
  const lines: string[] = [];
  const config: QueryArrayConfig = { text: sql, rowMode: "array" };
  const query = new Query<unknown[]>(config);
  query.on("row", (row) => {
    if (Array.isArray(row)) lines.push(...String(row[0] ?? "").split("\n"));
  });
  const error = await new Promise<Error | undefined>((resolve) => {
    query.on("error", resolve);
    query.on("end", () => resolve(undefined));
    client.query(query);
  });
  await client.end();
  return error === undefined ? lines : [...lines, `Bail out! ${error.message}`];
}
