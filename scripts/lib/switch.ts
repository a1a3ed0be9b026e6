/** What cutover and rollback tell: from where to where, how many rows are stale there, and how long it took. */
import { z } from "zod";
import type { Database } from "./connection.ts";
import type { Output } from "./output.ts";

const switched = z.object({ collection: z.string(), from: z.number(), to: z.number(), stale: z.number() });

/** Runs the one statement that switches a collection's active version and prints what it did. Throws ReembedError when it is refused. */
export async function switchVersion(
  db: Database,
  out: Output,
  sql: string,
  values: readonly unknown[],
): Promise<void> {
  const began = performance.now();
  const [row] = await db.query<{ answer: unknown }>(sql, values);
  const milliseconds = Math.round((performance.now() - began) * 10) / 10;
  const { collection, from, to, stale } = switched.parse(row?.answer);
  out.say(
    `${collection}: v${from} -> v${to} in ${milliseconds} ms; ${stale === 0 ? "none" : stale} of its rows ${stale === 1 ? "is" : "are"} stale`,
  );
  out.result({ collection, from, to, stale, milliseconds });
}
