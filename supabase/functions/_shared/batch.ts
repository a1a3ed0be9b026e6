/**
 * The batch lane: gathers due jobs, has a provider embed them within a day at its lower price, stores what comes back. Whatever it knows stands in the
 * database: ended at any moment, the next run goes on. Jobs, fences, money and budgets are those of the synchronous lane; what a batch cannot do
 * (halve a text, try again in a moment) is left to that lane.
 */
import type { BatchCounts, BatchResult, BatchStore, DrivenBatch, OpenBatch, RowEnd } from "./batch-store.ts";
import { describeBudget } from "./budget.ts";
import { ReembedError } from "./errors.ts";
import { fittingText, tooLongFor } from "./long-text.ts";
import type { Pace } from "./pace.ts";
import { faultOfAnswer, PROVIDER_FAULTS, ProviderError } from "./provider-error.ts";
import {
  type BatchAnswer,
  type BatchProvider,
  MOST_BATCH_BYTES,
  MOST_BATCH_INPUTS,
  type ProviderBatch,
} from "./providers/openai-batches.ts";
import type { Queue } from "./queue.ts";
import {
  type Completer,
  copyClaim,
  createCompleter,
  emptyReport,
  isBlank,
  type SliceReport,
} from "./worker.ts";

export interface BatchPorts {
  readonly store: BatchStore;
  readonly provider: BatchProvider;
  /** For texts that are copied, not bought. */
  readonly queue: Queue;
  /** Milliseconds on a clock that only goes forward. */
  readonly now: () => number;
  /** Waits, or less when somebody stops the run. */
  readonly wait: (milliseconds: number) => Promise<void>;
}

export interface BatchOptions {
  /** The version whose rows are batched. */
  readonly versionId: number;
  /** How fast vectors are stored. */
  readonly pace: Pace;
  /** Rows in one batch, at most 50,000. */
  readonly batch: number;
  /** Rows after which no batch is gathered any more; 0: all. */
  readonly limit: number;
  /** How often the provider is asked how far it is, in milliseconds. */
  readonly intervalMs: number;
  /** How long the provider may take to list a batch whose making was not confirmed; only then it is made again. Default: a minute. */
  readonly listingMs?: number;
  readonly signal: AbortSignal;
  /** Told after each round: the batches that are open, and what was counted so far. */
  readonly onRound: (open: readonly OpenBatch[], counts: BatchReport["counts"]) => void;
  /** A wait because of an error begins. */
  readonly onWait: (reason: string, milliseconds: number) => void;
}

/**
 * Why the run ended: nothing is left that a batch could take, its limit is reached, somebody stopped it, the space is paused, a budget is spent, or,
 * after long patience, the provider still asks to wait or fails, or others still hold the rows.
 */
export type BatchEnd =
  | "done"
  | "limit"
  | "stopped"
  | "paused"
  | "budget"
  | "rate_limited"
  | "provider_failed"
  | "busy";

export interface BatchReport {
  readonly ended: BatchEnd;
  /** In rows; `requests` are batches that were closed, whoever began them. */
  readonly counts: Omit<SliceReport, "ended" | "wait_ms">;
}

/** What one claim takes; a batch is made of many. It holds the space's row for about a tenth of a second, and the others wait for it. */
const CLAIM = { rows: 500, tokens: 300_000 };
/** By the estimate about 20 MB of text: well under the provider's 200 MB, and the whole file is in memory when it goes up. */
const MOST_BATCH_TOKENS = 5_000_000;
/** Rows that are handed on together; the completer cuts them as the database takes them. */
const STORE_ROWS = 200;
/** How long a run goes on while nothing moves because of errors. */
const PATIENCE_MS = 600_000;
const LONGEST_BACKOFF_MS = 60_000;
const LISTING_MS = 60_000;
/** Rows that others hold for a moment, or whose text is being bought: how often we look again while no batch is under way. */
const LOOK_AGAIN_MS = 1_000;

interface Run {
  readonly ports: BatchPorts;
  readonly options: BatchOptions;
  readonly report: SliceReport;
  readonly completer: Completer;
  /** Rows gathered so far. */
  gathered: number;
  /** How much of a batch's usual size the provider's queue takes. */
  share: number;
  /** The provider's queue is full: no new batch until one is closed. */
  isQueueFull: boolean;
  /** Why no batch is gathered any more. */
  over: BatchEnd | undefined;
}

/**
 * Gathers, submits, waits and stores until nothing is left, or one of the other ends. Several batches may be under way at once, and several processes
 * may run this at once: each batch is moved on by one of them.
 * @throws ReembedError when the database cannot be reached, or the provider no longer knows a batch
 */
export async function workBatches(ports: BatchPorts, options: BatchOptions): Promise<BatchReport> {
  const run: Run = {
    ports,
    options,
    report: emptyReport(),
    completer: createCompleter(ports.now, options.pace),
    gathered: 0,
    share: 1,
    isQueueFull: false,
    over: undefined,
  };
  const { report } = run;
  const end = (ended: BatchEnd): BatchReport => ({ ended, counts: report });
  let lastMove = ports.now();
  let failures = 0;

  for (;;) {
    if (options.signal.aborted) return end("stopped");
    let retryMs: number | undefined;
    try {
      if (await round(run)) lastMove = ports.now();
      failures = 0;
    } catch (error) {
      if (!(error instanceof ProviderError)) throw error;
      if (error.fault === "aborted") return end("stopped");
      report.error = error.message;
      if (error.class === "account") {
        await ports.store.pauseSpace(error.message);
        return end("paused");
      }
      if (error.class !== "rate_limit" && error.class !== "transient") return end("provider_failed");
      failures += 1;
      retryMs = Math.max(error.retryAfterMs ?? 0, Math.min(LONGEST_BACKOFF_MS, 250 * 2 ** failures));
      if (ports.now() + retryMs - lastMove > PATIENCE_MS)
        return end(error.class === "rate_limit" ? "rate_limited" : "provider_failed");
    }

    const open = await ports.store.open();
    options.onRound(open, report);
    let wait = options.intervalMs;
    if (open.length === 0) {
      if (run.over !== undefined) return end(run.over);
      const { rows, due_in_ms } = await ports.store.work();
      if (rows === 0) return end("done");
      if (ports.now() - lastMove > PATIENCE_MS) return end("busy");
      wait = Math.min(Math.max(due_in_ms ?? 0, LOOK_AGAIN_MS), wait);
    } else {
      lastMove = failures === 0 ? ports.now() : lastMove;
    }
    if (options.signal.aborted) return end("stopped");
    if (retryMs !== undefined) options.onWait(report.error ?? "the provider fails", retryMs);
    await ports.wait(retryMs ?? wait);
  }
}

/** Moves on each batch that is open, then submits what is due. Returns whether anything was brought about. */
async function round(run: Run): Promise<boolean> {
  const { store } = run.ports;
  let moved = false;
  for (const { id } of await store.open()) {
    if (run.options.signal.aborted) return moved;
    moved = (await driving(run, id, (batch) => moveOn(run, batch))) || moved;
  }
  while (run.over === undefined && !run.isQueueFull && !run.options.signal.aborted) {
    const { rows, due_in_ms } = await store.work();
    if (rows === 0 || (due_in_ms ?? 0) > 0) break;
    const id = await store.start();
    if (id === null) break;
    if (!(await driving(run, id, (batch) => prepare(run, batch)))) break;
    moved = true;
  }
  return moved;
}

/** Works on a batch as its driver. False where another process drives it. */
async function driving(
  { ports: { store } }: Run,
  id: string,
  work: (batch: DrivenBatch) => Promise<boolean>,
): Promise<boolean> {
  const batch = await store.take(id);
  if (batch === null) return false;
  try {
    return await work(batch);
  } finally {
    // Should this fail, the driver's time ends by itself.
    await store.leave(id).catch(() => undefined);
  }
}

/** Gathers a batch and submits it. False where nothing is due. */
async function prepare(run: Run, batch: DrivenBatch): Promise<boolean> {
  const { store, queue } = run.ports;
  const { options, report, completer } = run;
  const left = options.limit === 0 ? Number.POSITIVE_INFINITY : options.limit - run.gathered;
  const mostRows = Math.min(Math.max(1, Math.floor(options.batch * run.share)), MOST_BATCH_INPUTS, left);
  const mostTokens = Math.max(1, Math.floor(MOST_BATCH_TOKENS * run.share));
  let rows = 0;
  let tokens = 0;
  let settled = 0;
  while (rows < mostRows && tokens < mostTokens && !options.signal.aborted) {
    const gathered = await unlessBusy(() =>
      store.gather(
        batch.id,
        Math.min(CLAIM.rows, mostRows - rows),
        Math.min(CLAIM.tokens, mostTokens - tokens),
      ),
    );
    // Another process has just looked whether it may drive the batch, or drives it.
    if (gathered === undefined) {
      if ((await store.take(batch.id)) === null) return false;
      continue;
    }
    const { claim } = gathered;
    rows += gathered.rows;
    tokens += gathered.tokens;
    run.gathered += gathered.rows;
    if (claim.reason === "paused" || claim.reason === "rate") {
      run.over = "paused";
      report.error = claim.reason === "paused" ? claim.pause_reason : report.error;
      break;
    }
    if (claim.reason === "budget") {
      run.over = "budget";
      report.error = describeBudget(claim.budget);
      break;
    }
    const { current = 0, gone = 0, failed = 0 } = claim.resolved ?? {};
    report.current += current;
    report.gone += gone;
    report.failed += failed;
    const copies = claim.copies?.length ?? 0;
    settled += current + gone + failed + copies;
    await copyClaim({ queue, completer, report }, claim);
    if (gathered.rows + copies === 0 && claim.reason !== "again") break;
    if ((await store.take(batch.id)) === null) return false;
  }
  if (run.over === undefined && options.limit > 0 && run.gathered >= options.limit) run.over = "limit";
  if (rows === 0) {
    await close(run, batch, "nothing was due");
    return settled > 0 && run.over === undefined;
  }
  // Stopped while gathering: the next run submits what there is.
  return options.signal.aborted ? true : moveOn(run, { ...batch, rows });
}

/** The answer, or undefined where the database says that another has what it would need, and nothing was changed. */
async function unlessBusy<T>(call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof ReembedError && error.code === "busy") return undefined;
    throw error;
  }
}

/** Takes a batch as far as it goes now. Returns whether it got further. */
async function moveOn(run: Run, batch: DrivenBatch): Promise<boolean> {
  if (batch.state === "submitted") return collect(run, batch);
  // Begun, and ended before the first claim: by a run that died, or before the rows were enqueued.
  if (batch.state === "gathering" && batch.rows === 0 && run.over === undefined) return prepare(run, batch);
  const isUploaded =
    batch.state === "uploaded" || (await unlessRefused(run, batch, () => upload(run, batch)));
  if (!isUploaded) return false;
  const driven = await run.ports.store.take(batch.id);
  return driven?.state === "uploaded"
    ? unlessRefused(run, driven, () => submit(run, driven))
    : driven !== null;
}

/** A batch that the provider does not take is given back whole: nothing of it was bought, and the same again would end the same. */
async function unlessRefused(run: Run, batch: DrivenBatch, work: () => Promise<boolean>): Promise<boolean> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof ProviderError) || error.class === "rate_limit" || error.class === "transient")
      throw error;
    run.report.error = error.message;
    await endRest(run, batch, "returned", null);
    await close(run, batch, error.fault);
    // A server without this interface answers so: no reason to pause what works.
    if (error.class === "account" && error.providerStatus !== 404) {
      await run.ports.store.pauseSpace(error.message);
      run.over = "paused";
    } else {
      run.over = "provider_failed";
    }
    return false;
  }
}

/** Makes the file from the rows as they are now and uploads it. False where nothing is left to buy, or another process drives the batch. */
async function upload(run: Run, batch: DrivenBatch): Promise<boolean> {
  const { store, provider } = run.ports;
  const { space } = provider;
  const lines = new Map<string, string>();
  const truncated: string[] = [];
  let bytes = 0;
  let after: string | null = null;
  do {
    const page = await store.texts(batch.id, after);
    if (page === null || (await store.take(batch.id)) === null) return false;
    after = page.last;
    const blank = page.texts.filter(isBlank);
    await storeAll(
      run,
      batch,
      blank.map(({ row_id }) => ({ row_id, vector: null, skipped: "empty", billed: null })),
    );
    const tooLong: string[] = [];
    const tooMany: string[] = [];
    for (const { row_id, hash, input } of page.texts) {
      if (isBlank({ input })) continue;
      const fitting = fittingText(space, input);
      const isCut = fitting.length < input.length;
      if (isCut && batch.long_text === "fail") {
        tooLong.push(row_id);
        continue;
      }
      if (!lines.has(hash)) {
        // The hash ties a line to its rows: equal texts are one line.
        const line = provider.line(hash, fitting);
        bytes += new TextEncoder().encode(line).length + 1;
        if (bytes > MOST_BATCH_BYTES) {
          tooMany.push(row_id);
          continue;
        }
        lines.set(hash, line);
      }
      if (isCut) truncated.push(row_id);
    }
    if (tooLong.length > 0) await store.end(batch.id, tooLong, "failed", tooLongFor(space));
    if (tooMany.length > 0) await store.end(batch.id, tooMany, "returned", null);
  } while (after !== null);
  if (lines.size === 0) {
    await close(run, batch, "nothing to buy");
    return false;
  }
  const fileId = await provider.upload([...lines.values()], run.options.signal);
  return store.noteUpload(batch.id, fileId, lines.size, truncated);
}

/**
 * Has the provider begin, once. Whoever was asked before and did not answer may have begun: the batch is looked for by our id first, and made again only
 * when the provider had time to list it.
 */
async function submit(run: Run, batch: DrivenBatch): Promise<boolean> {
  const { store, provider } = run.ports;
  let made: ProviderBatch | undefined;
  if (batch.asked_ms_ago !== null) {
    // Our clock and the provider's may differ by some minutes.
    const [first, ...others] = await provider.find(batch.id, batch.created_s - 3_600);
    for (const { id } of others) await provider.cancel(id);
    if (first === undefined && batch.asked_ms_ago < (run.options.listingMs ?? LISTING_MS)) return false;
    made = first;
  }
  if (made === undefined) {
    if (!(await store.noteAsked(batch.id))) return false;
    made = await provider.create(batch.input_file_id ?? "", batch.id);
  }
  const isKnown = await store.noteSubmitted(batch.id, made.id, made.expiresAt);
  // Another process submitted it meanwhile, while this one was halted for minutes: one of the two is enough.
  if (!isKnown) await provider.cancel(made.id);
  return isKnown;
}

/** Looks how far the provider is, and stores what there is when the batch has an end. */
async function collect(run: Run, batch: DrivenBatch): Promise<boolean> {
  const { store, provider } = run.ports;
  const { report } = run;
  const found = await provider.retrieve(batch.provider_id ?? "");
  if (found === undefined) throw forgotten(batch);
  await store.noteStatus(batch.id, found.status, found.requestsDone, found.requestsFailed);
  if (found.state === "working") return false;
  if (found.state === "refused") {
    await endRest(run, batch, "returned", null);
    await close(run, batch, found.code ?? found.status);
    return refused(run, found.code);
  }
  await storeAnswers(run, batch, found);
  if (run.options.signal.aborted) return true;
  const error = `${provider.space.id}: the batch ended (${found.status}) without an answer for this text`;
  await endRest(run, batch, found.state === "done" ? "lost" : "returned", error);
  if (found.state !== "done")
    report.error = `the provider's batch is ${found.status}: what it brought is stored`;
  if (found.state === "cancelled") run.over ??= "provider_failed";
  await close(run, batch, found.status);
  run.isQueueFull = false;
  return true;
}

/** A whole batch whose file the provider did not take. */
async function refused(run: Run, code: string | undefined): Promise<boolean> {
  const { store, provider } = run.ports;
  const label = code !== undefined && /^\w{1,64}$/.test(code) ? ` (${code})` : "";
  run.report.error = `${provider.space.id}: the provider refused the batch${label}`;
  if (code === "token_limit_exceeded") {
    // Its queue has a limit of tokens for each account: smaller batches fit, or the same when another one has ended.
    const others = (await store.open()).some(({ state }) => state === "submitted");
    if (others) run.isQueueFull = true;
    else if (run.options.batch * run.share <= 1) run.over = "rate_limited";
    run.share /= 2;
  } else if (code !== undefined && isAboutAccount(code)) {
    await store.pauseSpace(run.report.error);
    run.over = "paused";
  } else {
    run.over = "provider_failed";
  }
  return true;
}

/** By the same table as an answer with this code. */
function isAboutAccount(code: string): boolean {
  return PROVIDER_FAULTS[faultOfAnswer(400, code)].class === "account";
}

/** Reads the result files and ends the rows that they speak of; what has its end from an earlier try is left alone. */
async function storeAnswers(run: Run, batch: DrivenBatch, found: ProviderBatch): Promise<void> {
  const { store } = run.ports;
  const { signal } = run.options;
  const rowsOf = await openRowsByHash(run, batch);
  let results: BatchResult[] = [];
  const flush = async () => {
    await storeAll(run, batch, results);
    results = [];
    await store.take(batch.id);
  };
  for (const fileId of found.resultFiles) {
    for await (const { customId, answer } of answersIn(run, batch, fileId)) {
      if (signal.aborted) break;
      const rows = rowsOf.get(customId);
      // A line that comes twice, or is none of ours.
      if (rows === undefined) continue;
      rowsOf.delete(customId);
      const billed = rows.ids.map((_, copy) => (copy === 0 ? billedFor(answer, rows.tokens) : null));
      if (answer.kind === "vector") {
        for (const [copy, row_id] of rows.ids.entries())
          results.push({ row_id, vector: answer.vector, skipped: null, billed: billed[copy] ?? null });
        if (results.length >= STORE_ROWS) await flush();
      } else if (answer.kind === "not_done") {
        await store.end(batch.id, rows.ids, "returned", null);
      } else {
        run.report.error = answer.message;
        await store.end(
          batch.id,
          rows.ids,
          answer.fault === "rate_limited" ? "returned" : "refused",
          answer.message,
          billed,
        );
      }
    }
    await flush();
  }
}

/** A file that is gone is no reason to buy anew unasked. */
async function* answersIn(run: Run, batch: DrivenBatch, fileId: string): AsyncGenerator<BatchAnswer> {
  try {
    yield* run.ports.provider.answers(fileId, run.options.signal);
  } catch (error) {
    throw error instanceof ProviderError && error.providerStatus === 404 ? forgotten(batch) : error;
  }
}

/** What a line costs: as the provider says, else by the estimate. A refusal costs nothing, an answer that is no good does. */
function billedFor(answer: BatchAnswer["answer"], estimate: number): number | null {
  if (answer.kind === "not_done") return null;
  if (answer.kind === "refused" && answer.fault !== "bad_answer") return null;
  return answer.tokens ?? estimate;
}

async function openRowsByHash(
  { ports: { store } }: Run,
  batch: DrivenBatch,
): Promise<Map<string, { ids: string[]; tokens: number }>> {
  const byHash = new Map<string, { ids: string[]; tokens: number }>();
  let after: string | null = null;
  for (;;) {
    const page = await store.openRows(batch.id, after);
    for (const { row_id, hash, tokens } of page) {
      const rows = byHash.get(hash);
      if (rows === undefined) byHash.set(hash, { ids: [row_id], tokens });
      else rows.ids.push(row_id);
    }
    const last = page.at(-1);
    if (last === undefined) return byHash;
    after = last.row_id;
  }
}

/** Stores results in slices; a row that the application holds all the time is given back, though it was paid. */
async function storeAll(
  { ports: { store }, options, completer }: Run,
  batch: DrivenBatch,
  results: readonly BatchResult[],
): Promise<void> {
  if (results.length === 0) return;
  const { busy } = await completer(options.versionId, results, (slice, wait) =>
    store.store(batch.id, slice, { wait }),
  );
  if (busy.length === 0) return;
  const billedOf = new Map(results.map(({ row_id, billed }) => [row_id, billed]));
  await store.end(
    batch.id,
    busy,
    "busy",
    null,
    busy.map((row_id) => billedOf.get(row_id) ?? null),
  );
}

async function endRest(
  { ports: { store } }: Run,
  batch: DrivenBatch,
  end: RowEnd,
  error: string | null,
): Promise<void> {
  while ((await store.endRest(batch.id, end, error)) > 0) await store.take(batch.id);
}

async function close({ ports: { store }, report }: Run, batch: DrivenBatch, outcome: string): Promise<void> {
  const counts: BatchCounts | null = await store.close(batch.id, outcome);
  if (counts === null) return;
  if (batch.state === "submitted") report.requests += 1;
  report.done += counts.done ?? 0;
  report.skipped += counts.skipped ?? 0;
  report.stale += counts.stale ?? 0;
  report.lost_lease += counts.lost_lease ?? 0;
  report.gone += counts.gone ?? 0;
  report.busy += counts.busy ?? 0;
  report.failed += counts.failed ?? 0;
  report.retried += (counts.refused ?? 0) + (counts.lost ?? 0);
  report.released += counts.returned ?? 0;
}

function forgotten({ id, provider_id }: DrivenBatch): ReembedError {
  return new ReembedError(
    "provider_rejected",
    `the provider knows the batch ${provider_id} or its results no more`,
    `Use the key of the project that submitted it. If it is gone for good, run in SQL: select reembed.give_up_batch('${id}');`,
  );
}
