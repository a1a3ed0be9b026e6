/**
 * The index conductor over a direct connection: plans the build of a version's HNSW index and runs it on a connection of its own, with the
 * settings that it needs. Where another session or pg_cron builds the same index, it is waited for: there are never two builds.
 */
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type Database, openDatabase } from "./connection.ts";
import { duration, percent } from "./output.ts";
import { pause } from "./signals.ts";

export interface IndexTarget {
  readonly collection: string;
  readonly version: number;
}

/** What an operator knows better than the server tells. */
export interface IndexLimits {
  /** Memory for the build, in MB; default: as much as it needs, at most the server's shared_buffers or its maintenance_work_mem. */
  readonly memoryMb?: number | undefined;
  /** Free space on the database's disk, in MB; default: unknown, and not checked. */
  readonly freeDiskMb?: number | undefined;
  /** Parallel workers; default: the server's setting. */
  readonly workers?: number | undefined;
}

export interface BuildOptions extends IndexLimits {
  /** Aborted: the build is cancelled and what it left is dropped. */
  readonly signal?: AbortSignal | undefined;
  /** How many rows are in the index, of how many: also while another session builds it. */
  readonly onProgress?: (done: number, total: number) => void;
  /** What is waited for, once each. */
  readonly onWait?: (reason: string) => void;
}

const indexState = z.object({
  state: z.enum(["valid", "building", "scheduled", "invalid", "failed", "none"]),
  error: z.string().optional(),
  pid: z.number().optional(),
  phase: z.string().optional(),
  blocks_done: z.number().optional(),
  blocks_total: z.number().optional(),
  tuples_done: z.number().optional(),
  seconds: z.number().nullish(),
});

/** How an index stands; `reembed.index_state` documents it. */
export type IndexState = z.infer<typeof indexState>;
export { indexState };

const indexPlan = z.object({
  collection: z.string(),
  version: z.number(),
  index: z.string(),
  state: indexState,
  statement: z.string(),
  rows: z.number(),
  type: z.string(),
  dimensions: z.number(),
  m: z.number(),
  ef_construction: z.number(),
  index_bytes: z.number(),
  disk_bytes: z.number(),
  free_bytes: z.number().nullable(),
  database_bytes: z.number(),
  graph_bytes: z.number(),
  memory_bytes: z.number(),
  seconds: z.number(),
  timeout_seconds: z.number(),
  fits: z.object({ memory: z.boolean(), timeout: z.boolean(), disk: z.boolean().nullable() }),
  settings: z.record(z.string(), z.string()),
  obstacle: z.object({ message: z.string(), hint: z.string() }).nullable(),
});

/** What a build takes; `reembed.index_plan` documents it. */
export type IndexPlan = z.infer<typeof indexPlan>;

const MB = 1_048_576;
const LOOK_MS = 500;

/** Throws ReembedError `unknown_collection`, `unknown_version`, `version_retired`. */
export async function readIndexPlan(
  db: Database,
  { collection, version }: IndexTarget,
  { memoryMb, freeDiskMb, workers }: IndexLimits = {},
): Promise<IndexPlan> {
  const bytes = (mb: number | undefined) => (mb === undefined ? null : mb * MB);
  const [row] = await db.query<{ plan: unknown }>("select reembed.index_plan($1, $2, $3, $4, $5) as plan", [
    collection,
    version,
    bytes(memoryMb),
    bytes(freeDiskMb),
    workers ?? null,
  ]);
  return indexPlan.parse(row?.plan);
}

/** The plan as lines for a person. */
export function describePlan(plan: IndexPlan): string[] {
  const { fits, state } = plan;
  const mb = (bytes: number) => `${Math.ceil(bytes / MB).toLocaleString("en")} MB`;
  const disk =
    plan.free_bytes === null
      ? `the database has ${mb(plan.database_bytes)}; how much is free only you know (--free-disk)`
      : `${mb(plan.free_bytes)} are free: ${fits.disk ? "fits" : "does not fit"}`;
  return [
    `${plan.index}: ${state.state}${state.error === undefined ? "" : ` (${state.error})`}`,
    plan.statement,
    `rows     ${plan.rows} of ${plan.type}(${plan.dimensions}), m ${plan.m}, ef_construction ${plan.ef_construction}`,
    `size     ${mb(plan.index_bytes)}`,
    `disk     ${mb(plan.disk_bytes)} while it is built, with the log; ${disk}`,
    `memory   ${mb(plan.graph_bytes)}, is given ${mb(plan.memory_bytes)}: ${fits.memory ? "fits" : "does not fit, so it takes longer (--memory gives more)"}`,
    `time     about ${duration(plan.seconds)} on two cores; ${plan.timeout_seconds === 0 ? "there is no statement_timeout" : `longer than the statement_timeout of ${duration(plan.timeout_seconds)}: ${fits.timeout ? "no" : "yes"}; the build's own session has none`}`,
  ];
}

/**
 * Builds a version's HNSW index where it is missing, concurrently: searches and writes go on. An INVALID one that a failed build left is replaced;
 * one that another builds is waited for. Returns whether it stands: not where the signal ended it.
 * @throws ReembedError `refused` where the plan names an obstacle
 */
export async function buildIndex(
  db: Database,
  target: IndexTarget,
  options: BuildOptions = {},
): Promise<boolean> {
  const own = await openDatabase(db.url, 1);
  try {
    const waits = new Set<string>();
    const look = async (): Promise<IndexState> => {
      const state = await readIndexState(db, target);
      const rows = state.state === "building" ? plan.rows : 0;
      if (rows > 0) options.onProgress?.(rowsIn(state, rows), rows);
      const reason = waitOf(state);
      if (reason !== undefined && !waits.has(reason)) options.onWait?.(reason);
      if (reason !== undefined) waits.add(reason);
      return state;
    };
    const plan = await readIndexPlan(db, target, options);
    while (!options.signal?.aborted) {
      const turn = await enter(own, target);
      if (turn === "stands") return true;
      if (turn === "enter") return await buildHere(db, own, target, options, look);
      const { state, pid } = await look();
      const other = state === "building" ? `another session (pid ${pid}) builds` : "pg_cron is to build";
      if (!waits.has("other")) options.onWait?.(`${other} the index: waiting for it`);
      waits.add("other");
      await pause(LOOK_MS, options.signal ?? new AbortController().signal);
    }
    return false;
  } finally {
    await own.close();
  }
}

async function buildHere(
  db: Database,
  own: Database,
  target: IndexTarget,
  options: BuildOptions,
  look: () => Promise<IndexState>,
): Promise<boolean> {
  const names: string[] = [];
  try {
    const plan = await readIndexPlan(own, target, options);
    if (plan.obstacle !== null) {
      const { message, hint } = plan.obstacle;
      throw new ReembedError(
        "refused",
        `the index of ${target.collection} v${target.version} cannot be built: ${message}`,
        hint,
      );
    }
    for (const [name, value] of Object.entries(plan.settings)) {
      await own.query("select set_config($1, $2, false)", [name, value]);
      names.push(name);
    }
    await dropLeftovers(own, target);
    return await run(db, own, plan.statement, options.signal, look).catch(async (error: unknown) => {
      // It would slow every write until the next build.
      await dropLeftovers(own, target).catch(() => {});
      if (options.signal?.aborted) return false;
      throw error;
    });
  } finally {
    for (const name of names) await own.query(`reset ${name}`);
    await own.query("select reembed.leave_index_build($1, $2)", [target.collection, target.version]);
  }
}

/** Runs the statement and looks at it meanwhile. */
async function run(
  db: Database,
  own: Database,
  statement: string,
  signal: AbortSignal | undefined,
  look: () => Promise<IndexState>,
): Promise<true> {
  const [backend] = await own.query<{ pid: number }>("select pg_backend_pid() as pid");
  const cancel = () => void db.query("select pg_cancel_backend($1)", [backend?.pid]).catch(() => {});
  const ended = new AbortController();
  const building = own.query(statement).finally(() => ended.abort());
  // It is awaited below; until then nobody hears it fail.
  building.catch(() => {});
  signal?.addEventListener("abort", cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    while (!ended.signal.aborted) {
      await pause(LOOK_MS, ended.signal);
      if (!ended.signal.aborted) await look();
    }
    await building;
    return true;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

async function enter(own: Database, { collection, version }: IndexTarget): Promise<string> {
  const [row] = await own.query<{ turn: string }>("select reembed.enter_index_build($1, $2) as turn", [
    collection,
    version,
  ]);
  return row?.turn ?? "wait";
}

async function dropLeftovers(own: Database, { collection, version }: IndexTarget): Promise<void> {
  const leftovers = await own.query<{ name: string }>(
    "select l::text as name from reembed.index_leftovers(reembed.version_numbered($1, $2)) l",
    [collection, version],
  );
  for (const { name } of leftovers) await own.query(`drop index concurrently if exists ${name}`);
}

async function readIndexState(db: Database, { collection, version }: IndexTarget): Promise<IndexState> {
  const [row] = await db.query<{ state: unknown }>(
    "select reembed.index_state(reembed.version_numbered($1, $2)) as state",
    [collection, version],
  );
  return indexState.parse(row?.state);
}

/** Rows in the index so far: a parallel build counts tuples, another one the table's blocks that it has read. */
function rowsIn({ tuples_done = 0, blocks_done = 0, blocks_total = 0 }: IndexState, rows: number): number {
  if (tuples_done > 0) return Math.min(tuples_done, rows);
  return blocks_total === 0 ? 0 : Math.round((rows * blocks_done) / blocks_total);
}

/** What is worth a word about an index in a version's status; undefined where it stands or nobody has asked for it. */
export function describeBuild(state: IndexState, rows: number): string | undefined {
  switch (state.state) {
    case "building": {
      const share = rows === 0 ? 0 : rowsIn(state, rows) / rows;
      return `is being built for ${duration(state.seconds ?? 0)}: ${state.phase}, ${percent(Math.min(share, 0.999))}`;
    }
    case "scheduled":
      return "is to be built by pg_cron";
    case "invalid":
      return "is INVALID, left by a build that failed: reembed index replaces it";
    case "failed":
      return `was given up: ${state.error}; reembed index builds it`;
    default:
      return undefined;
  }
}

function waitOf({ phase }: IndexState): string | undefined {
  return phase?.startsWith("waiting for") ? `the build is ${phase}` : undefined;
}
