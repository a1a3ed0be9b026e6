/**
 * A version's way from prepared to ready: make it maintained, enqueue the rows that exist, work the jobs off, build its index.
 * Each step can be repeated: running a move again goes on where the last run ended.
 */
import { constants, setPriority } from "node:os";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Pace } from "../../supabase/functions/_shared/pace.ts";
import { createQueue } from "../../supabase/functions/_shared/queue.ts";
import {
  paceOf,
  type SliceOptions,
  type SliceReport,
  workSlice,
} from "../../supabase/functions/_shared/worker.ts";
import type { Database } from "./connection.ts";
import { type BuildOptions, buildIndex } from "./index-build.ts";

/** Claims that a CLI works on at once: enough to hide a provider's latency, each on a connection of its own. */
export const LANES = 6;

export interface MoveTarget {
  readonly collection: string;
  readonly version: number;
}

/** Rows that a version still has to load, and how many of them failed for good. */
export interface Remaining {
  readonly pending: number;
  readonly failed: number;
}

interface EnqueueStep {
  readonly enqueued: number;
  readonly busy: readonly string[];
  readonly last: string | null;
}

/**
 * Makes a version maintained and enqueues the rows that exist, a chunk a transaction; rows that the application is writing are waited for
 * one at a time. Returns how many jobs were added.
 * @param chunkRows how many rows a transaction looks at and may hold
 * @throws ReembedError `busy` when the table or one of its rows stayed locked.
 */
export async function startLoading(
  db: Database,
  { collection, version }: MoveTarget,
  chunkRows = 2_000,
): Promise<number> {
  await db.query("select reembed.start_loading($1, $2)", [collection, version]);
  const [row] = await db.query<{ id: number }>("select (reembed.version_numbered($1, $2)).id", [
    collection,
    version,
  ]);
  if (row === undefined)
    throw new ReembedError("unknown_version", `${collection} has no version ${version}`, "");
  let enqueued = 0;
  let after: string | null = null;
  do {
    const [answer]: { step: EnqueueStep }[] = await db.query<{ step: EnqueueStep }>(
      "select reembed.enqueue_missing($1, $2, $3) as step",
      [row.id, after, chunkRows],
    );
    if (answer === undefined) break;
    enqueued += answer.step.enqueued;
    for (const busy of answer.step.busy) enqueued += await enqueueRow(db, row.id, busy);
    after = answer.step.last;
  } while (after !== null);
  await db.query("select reembed.finish_enqueueing($1, $2)", [collection, version]);
  return enqueued;
}

async function enqueueRow(db: Database, versionId: number, rowId: string): Promise<number> {
  for (let tries = 1; ; tries += 1) {
    try {
      const [answer] = await db.query<{ added: boolean }>("select reembed.enqueue_row($1, $2) as added", [
        versionId,
        rowId,
      ]);
      return answer?.added ? 1 : 0;
    } catch (error) {
      // Each try waits half a second for whoever holds the row.
      if (!(error instanceof ReembedError && error.code === "busy" && tries < 60)) throw error;
    }
  }
}

/** How much a version still has to load. */
export async function remaining(db: Database, { collection, version }: MoveTarget): Promise<Remaining> {
  const [row] = await db.query<{ pending: number; failed: number }>(
    `select (count(*) filter (where j.failed_at is null))::int as pending, (count(*) filter (where j.failed_at is not null))::int as failed
       from reembed.jobs j where j.version_id = (reembed.version_numbered($1, $2)).id`,
    [collection, version],
  );
  return row ?? { pending: 0, failed: 0 };
}

/** Works off due jobs on this connection; the same engine as the backfill function's. */
export function work(
  db: Database,
  embedderFor: (space: Space) => Embedder,
  options: SliceOptions,
  pace?: Pace,
): Promise<SliceReport> {
  return workSlice({ queue: createQueue(db.rpc, db.vectorForm), embedderFor, pace }, options);
}

/**
 * The pace of one run over this connection: as fast as the database takes vectors, sparing searches.
 * @param rate rows a second at most; undefined: no such bound. Under one this process gives way to whatever runs beside it on its machine, as `nice` does: it has
 * time, and the database may run there
 */
export function paceOn(db: Database, signal: AbortSignal | undefined, rate?: number): Pace {
  if (rate !== undefined) setPriority(constants.priority.PRIORITY_BELOW_NORMAL);
  return paceOf({ queue: createQueue(db.rpc, db.vectorForm) }, signal, rate);
}

/**
 * Moves a version on as far as the facts allow, building its index when that is what is missing. Returns its state.
 * The index is built concurrently: searches and writes go on meanwhile.
 */
export async function advance(
  db: Database,
  { collection, version }: MoveTarget,
  options: BuildOptions = {},
): Promise<string> {
  const step = async () => {
    const [row] = await db.query<{ state: string }>("select reembed.advance($1, $2) as state", [
      collection,
      version,
    ]);
    return row?.state ?? "unknown";
  };
  const state = await step();
  if (state !== "indexing") return state;
  await buildIndex(db, { collection, version }, options);
  return step();
}
