/** `reembed backfill`: loads a version, builds its index and reports what it cost. Run again, it goes on where it ended. */
import { type Command, Option } from "commander";
import { type BatchReport, workBatches } from "../../supabase/functions/_shared/batch.ts";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { BatchProvider } from "../../supabase/functions/_shared/providers/openai-batches.ts";
import { createQueue } from "../../supabase/functions/_shared/queue.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";
import { noCounts, workingBy } from "../../supabase/functions/_shared/worker.ts";
import { openBatchStore } from "../lib/batch-store.ts";
import { type Database, openDatabase } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { withIndexProgress } from "../lib/index-progress.ts";
import { advance, LANES, type MoveTarget, paceOn, startLoading, work } from "../lib/move.ts";
import {
  collectionName,
  type DatabaseOptions,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, dollars, duration, type Output, plural } from "../lib/output.ts";
import { probe } from "../lib/probe.ts";
import { startProgress } from "../lib/progress.ts";
import { batchesFrom, embeddersFrom } from "../lib/providers.ts";
import { pause, untilSignalled } from "../lib/signals.ts";
import { spentSince, timeOf } from "../lib/spending.ts";
import { chooseCollection, chooseVersion, type VersionEntry } from "../lib/targets.ts";
import { add, counted, type Facts, type WorkOffEnd, type WorkOffReport, workOff } from "../lib/work-off.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly lane: "sync" | "batch";
  readonly batch?: number;
  readonly interval: number;
  readonly limit?: number | undefined;
  readonly rate?: number;
}

/** Rows in one request, and in one batch: what each takes at most, and what it is given. */
const BATCH = { sync: { most: 2_048, usual: 500 }, batch: { most: 50_000, usual: 50_000 } } as const;

/** Between slices the database is asked how much is left and what was spent; its lanes come to rest for that. */
const SLICE_MS = 10_000;

/** What each way to end means for whoever reads the summary; a failure where it names one. */
const ENDS: Readonly<Record<WorkOffEnd, { says: string; failed: boolean }>> = {
  done: { says: "nothing is left to load", failed: false },
  limit: { says: "the limit is reached: run it again to go on", failed: false },
  stopped: { says: "stopped: run it again to go on", failed: true },
  paused: { says: "the space is paused", failed: true },
  budget: { says: "a budget is spent: raise it or run it again when it renews", failed: true },
  rate_limited: { says: "the provider's rate limit leaves nothing: run it again later", failed: true },
  provider_failed: { says: "the provider keeps failing: run it again later", failed: true },
  busy: { says: "other workers or long transactions hold the rest: run it again later", failed: true },
};

export function addBackfill(program: Command): void {
  withDatabaseOptions(program.command("backfill").alias("migrate"))
    .description("Loads a version: enqueues its rows, embeds them, builds its index. Run again, it goes on.")
    .option(
      "--target, --collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; default: the newest", versionNumber)
    .addOption(
      new Option("--lane <lane>", "batch: through OpenAI's Batch API, within a day, at half the price")
        .choices(["sync", "batch"])
        .default("sync"),
    )
    .option(
      "--batch <rows>",
      "rows in one provider request, 1 to 2048, default OPENAI_EMBEDDING_BATCH_SIZE or 500; in the batch lane rows in one batch, to 50000",
      wholeNumber(1, 50_000),
    )
    .option(
      "--interval <seconds>",
      "in the batch lane, how often the provider is asked",
      wholeNumber(1, 3_600),
      60,
    )
    .option("--limit <rows>", "stop after so many rows; 0, as without it: all", wholeNumber(0, 1_000_000_000))
    .option(
      "--rate <rows>",
      "store at most so many rows a second; default: as fast as the database takes them, sparing searches",
      wholeNumber(1, 100_000),
    )
    .addHelpText(
      "after",
      `
The batch lane goes on at the provider when this command ends: the same command again collects what it brought.

Example:
  npm run -s reembed -- backfill --collection course_content --version 2
  npm run -s reembed -- backfill --target lexicon --batch 64 --limit 50
  npm run -s reembed -- backfill --collection course_content --version 2 --lane batch`,
    )
    .action((options: Options) => backfill({ ...options, limit: options.limit || undefined }));
}

async function backfill(options: Options): Promise<void> {
  const { most } = BATCH[options.lane];
  if (options.batch !== undefined && options.batch > most) {
    throw new ReembedError(
      "invalid_request",
      `--batch is ${options.batch}: in the ${options.lane} lane it must be a whole number from 1 to ${most}`,
      "Give a smaller one.",
    );
  }
  const out = createOutput(options.json);
  const stopping =
    options.lane === "batch"
      ? "stopping: batches that were submitted go on at the provider; run the same command again to collect them"
      : "stopping: what is being embedded is finished or given back; a second time ends at once";
  await untilSignalled(
    () => out.note(stopping),
    (signal) => withDatabase(options, (db) => load(db, options, out, signal), 1),
  );
}

async function load(db: Database, options: Options, out: Output, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  const version = await chooseVersion(db, await chooseCollection(db, options.collection), options.version);
  const target: MoveTarget = { collection: version.collection, version: version.version };
  const since = await timeOf(db);
  const embedderFor = embeddersFrom(process.env, db.rpc);
  const batches = options.lane === "batch" ? batchesFrom(process.env)(version.space) : undefined;
  // Without its provider a version that is not maintained yet is better left alone.
  if (!version.maintained) await probe(db, target, embedderFor(version.space), signal);
  out.note(`${target.collection} v${target.version}: ${version.space.id}`);
  await chooseLane(db, version, options.lane);
  const enqueued = await startLoading(db, target);
  if ((await factsOf(db, version.id, since)).pending > 0) embedderFor(version.space);

  const batched = batches && (await embedInBatches(db, version, options, batches, out, signal));
  // What a batch does not take: edits of this minute, and texts that it could not bring home.
  const report =
    batched === undefined || batched.ended === "done"
      ? together(
          batched,
          await embedAll(db, version, since, afterBatches(options, batched), embedderFor, out, signal),
        )
      : batched;
  let state: string | undefined;
  if (!signal.aborted && report.ended !== "paused") {
    state = await withIndexProgress(out, signal, (watching) => advance(db, target, watching));
  }
  await summarize(db, { target, version, report, enqueued, since, began, state }, out);
}

/**
 * A version with an open batch is in the batch lane: workers leave its backfill alone. So one is begun before rows are enqueued, or a schedule would take
 * them at the full price.
 * @throws ReembedError `refused` for the synchronous lane where a batch is open
 */
async function chooseLane(db: Database, { id, space }: VersionEntry, lane: Options["lane"]): Promise<void> {
  if (lane === "batch") {
    const store = openBatchStore(db, { id, spaceId: space.id });
    const begun = await store.start();
    if (begun !== null) await store.leave(begun);
    return;
  }
  const [row] = await db.query<{ open: boolean }>("select reembed.is_in_batches($1) as open", [id]);
  if (!row?.open) return;
  throw new ReembedError(
    "refused",
    "the version has an open batch, which may have bought its rows already",
    "Collect it with --lane batch; or give it up and buy anew, in SQL: select reembed.give_up_batch((b ->> 'id')::uuid) from jsonb_array_elements(reembed.open_batches()) b;",
  );
}

/** What is left of a limit. */
function afterBatches(options: Options, batched: WorkOffReport | undefined): Options {
  if (options.limit === undefined || batched === undefined) return options;
  return { ...options, limit: Math.max(1, options.limit - counted(batched.totals)) };
}

/** The batch lane, up to the point where nothing is left for it. */
async function embedInBatches(
  db: Database,
  version: VersionEntry,
  options: Options,
  provider: BatchProvider,
  out: Output,
  signal: AbortSignal,
): Promise<WorkOffReport> {
  const { space } = version;
  const workers = await openDatabase(db.url, 2);
  let said = "";
  try {
    const report: BatchReport = await workBatches(
      {
        store: openBatchStore(workers, { id: version.id, spaceId: space.id }),
        provider,
        queue: createQueue(workers.rpc, workers.vectorForm),
        now: () => performance.now(),
        wait: (milliseconds) => pause(milliseconds, signal),
      },
      {
        versionId: version.id,
        pace: paceOn(workers, signal, options.rate),
        batch: options.batch ?? BATCH.batch.usual,
        limit: options.limit ?? 0,
        intervalMs: options.interval * 1000,
        signal,
        onRound: (open, { done }) => {
          const lines = open.map(
            (batch) =>
              `batch ${batch.id}: ${batch.provider_status ?? batch.state}, ${batch.requests_done + batch.requests_failed} of ${batch.requests} texts, ${batch.rows} rows`,
          );
          const says = [...lines, `${done} rows stored`].join("\n");
          if (says !== said) out.note(says);
          said = says;
        },
        onWait: (reason, milliseconds) => out.note(`${reason}; going on in ${duration(milliseconds / 1000)}`),
      },
    );
    const totals = noCounts();
    add(totals, report.counts);
    return { ended: report.ended, totals, error: report.counts.error };
  } finally {
    await workers.close();
  }
}

/** What both lanes did, with the end of the later one. */
function together(first: WorkOffReport | undefined, then: WorkOffReport): WorkOffReport {
  if (first === undefined) return then;
  const totals = noCounts();
  add(totals, first.totals);
  add(totals, then.totals);
  return { ended: then.ended, totals, error: then.error ?? first.error };
}

async function embedAll(
  db: Database,
  version: VersionEntry,
  since: string,
  options: Options,
  embedderFor: (space: Space) => Embedder,
  out: Output,
  signal: AbortSignal,
): Promise<WorkOffReport> {
  const { collection, space } = version;
  // Connections of their own: what holds for the other one is meant for the index build.
  const workers = await openDatabase(db.url, LANES);
  const progress = startProgress();
  let facts = await factsOf(db, version.id, since);
  let base = 0;
  const total = (handled: number) =>
    options.limit === undefined ? handled + facts.pending : Math.min(options.limit, handled + facts.pending);
  let cost = 0;
  const show = (handled: number) => progress.update(handled, total(handled), cost);
  show(0);
  const pace = paceOn(workers, signal, options.rate);
  const byEnvironment = workingBy(readSwitches(process.env));
  try {
    return await workOff(
      {
        slice: (limit) =>
          work(
            workers,
            embedderFor,
            {
              collection,
              version: version.version,
              ...byEnvironment,
              batch:
                (options.lane === "sync" ? options.batch : undefined) ??
                byEnvironment.batch ??
                BATCH.sync.usual,
              limit,
              lanes: LANES,
              budgetMs: SLICE_MS,
              signal,
              onProgress: (slice) => progress.update(base + counted(slice), total(base), cost),
            },
            pace,
          ),
        facts: async () => {
          facts = await factsOf(db, version.id, since);
          cost = (await spentSince(db, version.id, since)).costUsd;
          return facts;
        },
        wait: (milliseconds) => pause(milliseconds, signal),
        now: () => performance.now(),
        onFacts: (_, totals) => {
          base = counted(totals);
          show(base);
        },
        onWait: (reason, milliseconds) =>
          out.note(`${space.id}: ${reason}; going on in ${Math.ceil(milliseconds / 1000)} s`),
      },
      options.limit ?? 0,
      signal,
    );
  } finally {
    progress.stop();
    await workers.close();
  }
}

/** What has to be done before the run is over: all backfill, and the edits that were waiting when it began. Live traffic adds others. */
async function factsOf(db: Database, versionId: number, since: string): Promise<Facts> {
  const [row] = await db.query<{ pending: number; dueInMs: number | null }>(
    `select count(*)::int as pending,
            (extract(epoch from greatest(min(j.run_at) - clock_timestamp(), interval '0')) * 1000)::float8 as "dueInMs"
       from reembed.jobs j
      where j.version_id = $1 and j.failed_at is null and (j.priority = 1 or j.enqueued_at < $2)`,
    [versionId, since],
  );
  return row ?? { pending: 0, dueInMs: null };
}

interface Run {
  readonly target: MoveTarget;
  readonly version: VersionEntry;
  readonly report: WorkOffReport;
  readonly enqueued: number;
  readonly since: string;
  readonly began: number;
  /** Undefined where the run ended before the version could move on. */
  readonly state: string | undefined;
}

async function summarize(db: Database, run: Run, out: Output): Promise<void> {
  const { target, version, report, enqueued, since, began } = run;
  const { totals, ended, error } = report;
  const [row] = await db.query<{ state: string; active: boolean; pending: number; failed: number }>(
    `select v.state, c.active_version = v.id as active, count(j.row_id) filter (where j.failed_at is null)::int as pending,
            count(j.row_id) filter (where j.failed_at is not null)::int as failed
       from reembed.versions v join reembed.collections c on c.id = v.collection_id left join reembed.jobs j on j.version_id = v.id
      where v.id = $1 group by v.id, c.id`,
    [version.id],
  );
  if (row === undefined) throw new ReembedError("version_retired", "the version was removed meanwhile", "");
  const state = run.state ?? row.state;
  const spent = await spentSince(db, version.id, since);
  const seconds = Math.round(performance.now() - began) / 1000;
  const failed = ENDS[ended].failed || row.failed > 0;
  if (failed) process.exitCode = 1;

  out.say(
    `${plural(totals.done, "row")} embedded, ${totals.copied > 0 ? `${totals.copied} copied from rows of the same text, ` : ""}${totals.current} were current, ${totals.skipped} skipped, ${row.failed} failed, ${row.pending} pending`,
  );
  out.say(
    `${plural(totals.requests, "request")}, ${plural(spent.tokens, "token")}, ${dollars(spent.costUsd)}, ${seconds.toFixed(1)} s`,
  );
  out.say(`${target.collection} v${target.version} is ${state}: ${ENDS[ended].says}`);
  if (ended === "paused") {
    out.note(`error: ${error ?? "the space is paused"}`);
    out.note(`hint: Mend the cause, then run reembed resume ${version.space.id} and this again.`);
  } else if (ended === "budget") {
    out.note(`error: ${error ?? ENDS.budget.says}`);
    out.note(
      "hint: Run this again when it renews, or raise it in SQL: select reembed.set_budget('<scope>', '<period>', <dollars>);",
    );
  } else if (row.failed > 0) {
    out.note(`error: ${row.failed} rows failed${error === null ? "" : `: ${error}`}`);
    out.note(`hint: reembed status shows the reasons; mend them, then run reembed retry and this again.`);
  } else if (failed && ended !== "stopped") {
    out.note(`error: ${error ?? ENDS[ended].says}`);
    out.note(`hint: Nothing is lost: run it again later.`);
  } else if (state === "ready" && !row.active) {
    out.note(
      `next: reembed evaluate --collection ${target.collection} --candidate ${target.version}, then reembed cutover`,
    );
  }
  out.result({
    collection: target.collection,
    version: target.version,
    space: version.space.id,
    state,
    ended,
    error,
    enqueued,
    ...totals,
    tokens: spent.tokens,
    cost_usd: spent.costUsd,
    pending: row.pending,
    failed: row.failed,
    seconds,
  });
}
