/**
 * The worker: claims jobs, embeds their texts, completes them. The same engine behind both doors, the `backfill` function and the CLI.
 * No transaction is open while a provider answers; what the database decides (whose lease, which text) stays with the database.
 */
import { describeBudget } from "./budget.ts";
import { type Embedder, hasImages, type InputFailure, type Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { fittingText, shorterText, tooLongFor } from "./long-text.ts";
import { createPace, type Pace } from "./pace.ts";
import { ProviderError } from "./provider-error.ts";
import type {
  Claim,
  Hold,
  Job,
  Lease,
  LedgerEntry,
  Outcomes,
  ProviderAnswer,
  Queue,
  Result,
} from "./queue.ts";
import type { Switches } from "./switches.ts";

export interface WorkerPorts {
  readonly queue: Queue;
  /** The embedder of a space. Throws ReembedError `provider_unavailable` where nothing here can embed for it. */
  readonly embedderFor: (space: Space) => Embedder;
  /** Milliseconds on a clock that only goes forward. */
  readonly now?: () => number;
  /** Waits, or less when the signal comes first. */
  readonly wait?: (milliseconds: number, signal: AbortSignal | undefined) => Promise<void>;
  /** How fast vectors are stored. A worker that runs for longer than a slice keeps one; else each slice has its own. */
  readonly pace?: Pace | undefined;
}

export interface SliceOptions {
  readonly collection?: string | undefined;
  readonly version?: number | undefined;
  /** None but these rows, of the version named. */
  readonly rows?: readonly string[] | undefined;
  /** Rows a claim, and so a provider request, takes at most. */
  readonly batch?: number;
  /** Claims that are worked on at once, so that one is stored while the provider answers another. The space may allow fewer; 1 if left out. */
  readonly lanes?: number;
  /** Rows after which the slice ends; 0 or none: all. */
  readonly limit?: number;
  /** No claim begins later than this many milliseconds after the start. */
  readonly budgetMs?: number;
  readonly leaseSeconds?: number;
  /** How often a job is tried again after the provider failed; none: as often as the database gives it attempts. */
  readonly maxRetries?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (report: SliceReport) => void;
}

/** What the environment says about embedding documents. */
export type WorkSwitches = Partial<
  Pick<Switches, "OPENAI_EMBEDDING_BATCH_SIZE" | "OPENAI_EMBEDDING_MAX_RETRIES">
>;

/** A slice's options as the switches set them; those that are not set are left out. */
export function workingBy({
  OPENAI_EMBEDDING_BATCH_SIZE: batch,
  OPENAI_EMBEDDING_MAX_RETRIES: maxRetries,
}: WorkSwitches): Pick<SliceOptions, "batch" | "maxRetries"> {
  return {
    ...(batch === undefined ? {} : { batch }),
    ...(maxRetries === undefined ? {} : { maxRetries }),
  };
}

/**
 * Why a slice ended: nothing is due, its time or its limit is over, somebody stopped it, another lease holds what is due, the space is
 * paused, a budget is spent, the space waits for longer than the slice may, or the provider fails for now.
 */
export type SliceEnd =
  | "idle"
  | "time"
  | "limit"
  | "stopped"
  | "busy"
  | "paused"
  | "budget"
  | "rate_limited"
  | "provider_failed";

/** What a slice did, in rows unless it says otherwise. */
export interface SliceReport {
  ended: SliceEnd;
  /** Stored with their vectors. */
  done: number;
  /** Stored with the vector that another row of the same text had, at no cost. */
  copied: number;
  /** Needed nothing: the stored vector was right already. */
  current: number;
  skipped: number;
  stale: number;
  lost_lease: number;
  gone: number;
  /** Paid, and given back because the application held the row all the time. */
  busy: number;
  failed: number;
  retried: number;
  released: number;
  /** Provider requests. */
  requests: number;
  tokens: number;
  /** How long the space has no room for a request, in milliseconds, where the slice ended `rate_limited`; else 0. */
  wait_ms: number;
  /** The last error in words that are safe to show, or null. */
  error: string | null;
}

const MOST_TOKENS = 250_000;
/** A complete holds row locks on the application's table: it is cut so that it takes about this long. */
const COMPLETE_TARGET_MS = 60;
/** How long a claim asks for rows that the application holds, before paid vectors are given up. Inside an edge function's time. */
const LONGEST_WAIT_MS = 30_000;
/** A slice sits out shorter waits of the space itself. */
const LONGEST_REST_MS = 15_000;
/** The longest delay the queue takes. */
const LONGEST_DELAY_SECONDS = 86_400;

/**
 * Works off due jobs, several claims at once, until one of the ends in `SliceEnd`. What ends one lane for good ends the others after the claim
 * they are at; memory holds one claim a lane.
 * @throws ReembedError when the database cannot be reached; in the end, when no embedder is configured for a space: its jobs are given back, and the
 * other spaces' are worked off first.
 */
export async function workSlice(ports: WorkerPorts, options: SliceOptions = {}): Promise<SliceReport> {
  const now = ports.now ?? (() => performance.now());
  const slice: Slice = {
    ports,
    options,
    now,
    wait: ports.wait ?? rest,
    started: now(),
    completer: createCompleter(now, ports.pace ?? paceOf(ports, options.signal)),
    claimed: 0,
    over: undefined,
    unreachable: new Map(),
    report: emptyReport(),
  };
  const lanes = Array.from({ length: Math.max(1, options.lanes ?? 1) }, () => workLane(slice));
  const ends = await Promise.allSettled(lanes);
  for (const end of ends) if (end.status === "rejected") throw end.reason;
  for (const error of slice.unreachable.values()) throw error;
  return slice.report;
}

/**
 * A pace for a worker with these ports.
 * @param rate rows a second at most; undefined: as fast as the database takes them
 */
export function paceOf(
  { queue, now = () => performance.now(), wait = rest }: Pick<WorkerPorts, "queue" | "now" | "wait">,
  signal: AbortSignal | undefined,
  rate?: number,
): Pace {
  const watch = (versionId: number) => queue.watchSearches(versionId);
  return createPace({ now, wait: (milliseconds) => wait(milliseconds, signal), watch }, rate);
}

/** What the lanes of a slice share. */
interface Slice {
  readonly ports: WorkerPorts;
  readonly options: SliceOptions;
  readonly now: () => number;
  readonly wait: (milliseconds: number, signal: AbortSignal | undefined) => Promise<void>;
  readonly started: number;
  readonly completer: Completer;
  readonly report: SliceReport;
  /** Spaces that nothing here can embed for, and why. */
  readonly unreachable: Map<string, ReembedError>;
  /** Rows that lanes have asked for and not counted yet. */
  claimed: number;
  /** Why no lane goes on: the first such end, or "failed" when a lane throws. */
  over: SliceEnd | "failed" | undefined;
}

/** Claims and works until the slice is over, or nothing is left for this lane. */
async function workLane(slice: Slice): Promise<void> {
  const { report } = slice;
  try {
    while (slice.over === undefined) {
      const end = await laneStep(slice);
      if (end === undefined) continue;
      // Nothing for one lane is not nothing for all: the last of them has the word. What concerns all of them ends all.
      const onlyThisLane = end === "idle" || end === "busy" || end === "limit";
      if (slice.over === undefined) report.ended = end;
      if (!onlyThisLane) slice.over ??= end;
      return;
    }
  } catch (error) {
    slice.over = "failed";
    throw error;
  }
}

/** One claim and its work, or one wait. Returns why the lane must end, or undefined to go on. */
async function laneStep(slice: Slice): Promise<SliceEnd | undefined> {
  const { ports, options, now, report } = slice;
  if (options.signal?.aborted) return "stopped";
  const timeLeft = (options.budgetMs ?? Number.POSITIVE_INFINITY) - (now() - slice.started);
  if (timeLeft < 0) return "time";
  const rowsLeft = options.limit
    ? options.limit - report.done - report.copied - report.skipped - report.failed - slice.claimed
    : Number.POSITIVE_INFINITY;
  if (rowsLeft <= 0) return "limit";

  const maxRows = Math.min(options.batch ?? 100, rowsLeft);
  slice.claimed += maxRows;
  try {
    const claim = await ports.queue.claim({
      collection: options.collection,
      version: options.version,
      maxRows,
      maxTokens: MOST_TOKENS,
      leaseSeconds: options.leaseSeconds ?? 120,
      exceptSpaces: [...slice.unreachable.keys()],
      ...(options.rows === undefined ? {} : { rowIds: options.rows }),
    });
    if (claim.reason === "paused") {
      report.error = claim.pause_reason ?? `${claim.space} is paused`;
      return "paused";
    }
    if (claim.reason === "budget") {
      report.error = describeBudget(claim.budget);
      return "budget";
    }
    if (claim.reason === "rate") {
      if (claim.wait_ms <= Math.min(timeLeft, LONGEST_REST_MS)) {
        await slice.wait(claim.wait_ms, options.signal);
        return undefined;
      }
      report.wait_ms = claim.wait_ms;
      report.error ??= `${claim.space} waits for its provider's rate limit`;
      return "rate_limited";
    }
    if (claim.resolved) {
      report.current += claim.resolved.current;
      report.gone += claim.resolved.gone;
      report.failed += claim.resolved.failed;
    }
    if (claim.reason === "idle" || claim.reason === "busy") return claim.reason;
    if (claim.reason === "again") return undefined;
    await copyClaim({ ...slice, queue: ports.queue }, claim);
    const stop = claim.jobs.length > 0 ? await workClaim(slice, leaseOf(claim), claim.jobs) : undefined;
    options.onProgress?.(report);
    return stop;
  } finally {
    slice.claimed -= maxRows;
  }
}

/** Nothing done yet. */
export function emptyReport(): SliceReport {
  return { ended: "idle", ...noCounts(), wait_ms: 0, error: null };
}

/** The counts of a slice, or of several together. */
export type Counts = Omit<SliceReport, "ended" | "wait_ms" | "error">;

export function noCounts(): Counts {
  return {
    done: 0,
    copied: 0,
    current: 0,
    skipped: 0,
    stale: 0,
    lost_lease: 0,
    gone: 0,
    busy: 0,
    failed: 0,
    retried: 0,
    released: 0,
    requests: 0,
    tokens: 0,
  };
}

async function rest(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted) return;
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener("abort", end, { once: true });
  });
}

/** A claim that neither a pause, a budget nor a rate refused. */
export type ClaimedWork = Extract<Claim, { reason: "work" | "again" | "busy" | "idle" }>;

function holdOf({ version_id, lease_token, space, collection, long_text }: ClaimedWork): Hold {
  if (
    version_id === undefined ||
    lease_token === undefined ||
    space === undefined ||
    long_text === undefined
  ) {
    throw new ReembedError("internal_error", "a claim with jobs came without its lease", "Report a bug.");
  }
  return { version_id, lease_token, space, collection, long_text };
}

function leaseOf(claim: ClaimedWork): Lease {
  if (claim.usage_id == null) {
    throw new ReembedError(
      "internal_error",
      "a claim with jobs came without its reservation",
      "Report a bug.",
    );
  }
  return { ...holdOf(claim), usage_id: claim.usage_id };
}

/** What copying needs: the queue, and where to count. */
export interface CopyContext {
  readonly queue: Queue;
  readonly completer: Completer;
  readonly report: Pick<SliceReport, "copied" | "stale" | "lost_lease" | "gone" | "failed" | "released">;
}

/**
 * Copies what a claim need not buy. A row that the application holds all the time is given back, and so is one whose text has no
 * stored vector any more: the next claim buys it.
 */
export async function copyClaim(
  { queue, completer, report }: CopyContext,
  claim: ClaimedWork,
): Promise<void> {
  if (claim.copies === undefined || claim.copies.length === 0) return;
  const hold = holdOf(claim);
  const missing: string[] = [];
  try {
    const outcomes = await completer(hold.version_id, claim.copies, async (copies, wait) => {
      const part = await queue.copy(hold, copies, { wait });
      missing.push(...part.missing);
      return part;
    });
    report.copied += outcomes.done;
    report.stale += outcomes.stale.length;
    report.lost_lease += outcomes.lost_lease.length;
    report.gone += outcomes.gone.length;
    report.failed += outcomes.refused.length;
    for (const [rows, delaySeconds] of [
      [outcomes.busy, 1],
      [missing, 0],
    ] as const) {
      if (rows.length > 0) report.released += await queue.release(hold, rows, delaySeconds);
    }
  } catch (error) {
    const rows = [...claim.copies, ...claim.jobs].map(({ row_id }) => row_id);
    await queue.release(hold, rows, 1).catch(() => undefined);
    if (claim.jobs.length > 0) await queue.settle(leaseOf(claim), [], undefined).catch(() => undefined);
    throw error;
  }
}

/** A text of a claim and the rows that have it. */
interface Text {
  /** What is sent: the whole text, or its beginning where it is truncated. */
  readonly input: string;
  readonly truncated: boolean;
  readonly rows: readonly Job[];
}

/** A provider request for the ledger, and the texts whose vectors it brought. */
interface Sent {
  readonly entry: LedgerEntry;
  readonly texts: readonly Text[];
}

/** What came back for the texts of a claim. */
interface Answers {
  readonly results: readonly Result[];
  /** Why the slice must end; undefined to go on. */
  readonly stop: SliceEnd | undefined;
  /** What no embedder should throw, to be thrown on once what was paid is stored. */
  readonly bug: { readonly error: unknown } | undefined;
}

/** Everything that the steps of one claim share. */
interface ClaimContext {
  readonly queue: Queue;
  readonly lease: Lease;
  readonly report: SliceReport;
  readonly now: () => number;
  readonly signal: AbortSignal | undefined;
  readonly maxRetries: number;
  /** Grows with each request, so that the ledger hears of them also when the database fails on the way. */
  readonly sent: Sent[];
  /** The last answer of the provider that says something about its rate, and when it came. */
  answered: (Omit<ProviderAnswer, "ageMs"> & { readonly at: number }) | undefined;
}

function answerNow({ answered, now }: ClaimContext): ProviderAnswer | undefined {
  if (answered === undefined) return undefined;
  const { at, ...answer } = answered;
  return { ...answer, ageMs: now() - at };
}

/** Embeds and completes one claim, and settles it once, whatever happens. Returns why the slice must end, or undefined to go on. */
async function workClaim(
  { ports, completer, options, report, now, unreachable }: Slice,
  lease: Lease,
  jobs: readonly Job[],
): Promise<SliceEnd | undefined> {
  const { queue } = ports;
  const context: ClaimContext = {
    queue,
    lease,
    report,
    now,
    signal: options.signal,
    maxRetries: options.maxRetries ?? Number.POSITIVE_INFINITY,
    sent: [],
    answered: undefined,
  };
  let embedder: Embedder;
  try {
    embedder = ports.embedderFor(lease.space);
  } catch (error) {
    await giveBack(context, jobs, 60, []);
    if (!(error instanceof ReembedError)) throw error;
    unreachable.set(lease.space.id, error);
    return undefined;
  }

  // Equal texts are sent once; an empty one is never sent.
  const texts = textsOf(jobs);
  const blank = texts.filter(isBlank).flatMap(({ rows }) => rows);
  const skips = blank.map(({ row_id, hash }) => ({
    row_id,
    hash,
    vector: null,
    skipped: "empty",
    truncated: false,
    tokens: 0,
  }));
  let answers: Answers;
  let outcomes: Outcomes;
  try {
    answers = await embedTexts(
      context,
      embedder,
      texts.filter((text) => !isBlank(text)),
    );
    outcomes = await completer(lease.version_id, [...skips, ...answers.results], (results, wait) =>
      queue.complete(lease, results, { wait }),
    );
    // Not counted with the released ones: these were paid.
    if (outcomes.busy.length > 0) await queue.release(lease, outcomes.busy, 1);
  } catch (error) {
    // None of the vectors is known to be stored.
    const entries = context.sent.map(({ entry, texts }) => ({ ...entry, stale: texts.length }));
    await giveBack(context, jobs, backoffSeconds(textsOf(jobs)), entries);
    throw error;
  }

  const lost = new Set([
    ...outcomes.stale,
    ...outcomes.lost_lease,
    ...outcomes.gone,
    ...outcomes.busy,
    ...outcomes.refused,
  ]);
  const skipped = blank.filter(({ row_id }) => !lost.has(row_id)).length;
  report.skipped += skipped;
  report.done += outcomes.done - skipped;
  report.stale += outcomes.stale.length;
  report.lost_lease += outcomes.lost_lease.length;
  report.gone += outcomes.gone.length;
  report.busy += outcomes.busy.length;
  report.failed += outcomes.refused.length;
  if (outcomes.refused.length > 0) report.error = "the table refused some of the vectors: see status";
  await queue.settle(
    lease,
    context.sent.map(({ entry, texts }) => ({
      ...entry,
      stale: texts.filter(({ rows }) => rows.every(({ row_id }) => lost.has(row_id))).length,
    })),
    answerNow(context),
  );
  if (answers.bug) throw answers.bug.error;
  return answers.stop;
}

/**
 * Sends texts in one request, and what the provider refuses as too large or as bad input in halves, until the culprit stands alone. Rows that got
 * no vector are failed or given back here. Never throws for the embedder, only for the database.
 */
async function embedTexts(
  context: ClaimContext,
  embedder: Embedder,
  texts: readonly Text[],
): Promise<Answers> {
  const { report, signal, sent, now } = context;
  const results: Result[] = [];
  // Parts that are still to be sent, the first one last.
  const fitting = await fitTexts(context, texts);
  const waiting = fitting.length === 0 ? [] : [fitting];
  for (let part = waiting.pop(); part !== undefined; part = waiting.pop()) {
    const began = now();
    const note = (
      { state, outcome, tokens }: Pick<LedgerEntry, "state" | "outcome" | "tokens">,
      bought: readonly Text[],
    ) => {
      const latency_ms = Math.round(now() - began);
      report.requests += 1;
      if (state === "settled") report.tokens += tokens;
      sent.push({
        entry: { state, outcome, inputs: inputs.length, stale: 0, tokens, latency_ms },
        texts: bought,
      });
    };
    const inputs = part.map(({ input }) => input);
    try {
      const { vectors, usage, rate, failures } = await embedder.embed(inputs, {
        purpose: "document",
        collection: context.lease.collection,
        ...(signal ? { signal } : {}),
      });
      context.answered = { refused: false, retryAfterMs: undefined, rate, at: now() };
      const bought = part.filter((_, index) => !failures?.has(index));
      note({ state: "settled", outcome: "ok", tokens: usage.tokens }, bought);
      results.push(...part.flatMap((text, index) => resultsOf(text, vectors[index] ?? null)));
      if (failures !== undefined) await endFailed(context, part, failures);
    } catch (error) {
      const unsent = waiting.flat();
      if (!(error instanceof ProviderError)) {
        // Nobody knows whether it was sent and paid. An attempt is spent, so that this cannot go on for ever.
        note({ state: "lost", outcome: "unforeseen", tokens: estimateOf(part) }, []);
        report.error = `the embedder failed in a way nobody foresaw (${error instanceof Error ? error.name : typeof error})`;
        await fail(context, part, report.error, backoffSeconds(part));
        await release(context, unsent, 1);
        return { results, stop: undefined, bug: { error } };
      }
      if (error.billed !== "no" || error.providerStatus !== undefined) {
        const { fault, billed } = error;
        if (billed === "maybe") note({ state: "lost", outcome: fault, tokens: estimateOf(part) }, []);
        else note({ state: "settled", outcome: fault, tokens: billed === "no" ? 0 : billed }, []);
      }
      report.error = error.message;
      // Too large for this account's limits as it is: waiting does not help, halving does.
      if (error.class === "input" || error.requestTooLarge) {
        const shorter = error.class === "input" ? shortenAlone(context, part) : undefined;
        if (shorter !== undefined) {
          waiting.push([shorter]);
        } else if (part.length === 1) {
          await fail(context, part, error.message, null);
        } else {
          const middle = Math.ceil(part.length / 2);
          waiting.push(part.slice(middle), part.slice(0, middle));
        }
        continue;
      }
      return { results, stop: await stopFor(error, context, part, unsent), bug: undefined };
    }
  }
  return { results, stop: undefined, bug: undefined };
}

/**
 * Applies the collection's policy to texts that, by the estimate, are longer than the space takes: cuts them, or fails their rows. Returns what is
 * to be sent.
 */
async function fitTexts(context: ClaimContext, texts: readonly Text[]): Promise<readonly Text[]> {
  const { space, long_text } = context.lease;
  if (hasImages(space)) return texts;
  const fitted = texts.map((text) => withInput(text, fittingText(space, text.input)));
  const tooLong = fitted.filter(({ truncated }) => truncated);
  if (long_text === "truncate" || tooLong.length === 0) return fitted;
  context.report.error = tooLongFor(space);
  await fail(context, tooLong, context.report.error, null);
  return fitted.filter(({ truncated }) => !truncated);
}

/** The text that stands alone in a refused request, cut to its half where the estimate may have been too low for it; undefined where it was not. */
function shortenAlone({ lease }: ClaimContext, [text, ...others]: readonly Text[]): Text | undefined {
  if (text === undefined || others.length > 0 || lease.long_text === "fail" || hasImages(lease.space)) {
    return undefined;
  }
  const shorter = shorterText(lease.space, text.input);
  return shorter === undefined ? undefined : withInput(text, shorter);
}

const withInput = (text: Text, input: string): Text => ({
  ...text,
  input,
  truncated: text.truncated || input !== text.input,
});

/** Ends or gives back the jobs of inputs that got no vector of an answer, each by its own failure. */
async function endFailed(
  context: ClaimContext,
  part: readonly Text[],
  failures: ReadonlyMap<number, InputFailure>,
): Promise<void> {
  const failed = [...failures].flatMap(([position, failure]) => {
    const text = part[position];
    return text === undefined ? [] : [{ text, failure }];
  });
  for (const alike of Map.groupBy(failed, ({ failure }) => `${failure.next} ${failure.reason}`).values()) {
    const texts = alike.map(({ text }) => text);
    const { reason, next } = alike[0]?.failure ?? { reason: "", next: "release" };
    if (next === "release") {
      await release(context, texts, 1);
      continue;
    }
    context.report.error = reason;
    await fail(context, texts, reason, next === "retry" ? backoffSeconds(texts) : null);
  }
}

/** Gives back or backs off what a provider's error leaves undone: the request that failed, and what was not sent after it. */
async function stopFor(
  error: ProviderError,
  context: ClaimContext,
  part: readonly Text[],
  unsent: readonly Text[],
): Promise<SliceEnd | undefined> {
  const askedSeconds = Math.min((error.retryAfterMs ?? 0) / 1000, LONGEST_DELAY_SECONDS);
  if (error.fault === "aborted") {
    await release(context, [...part, ...unsent], 0);
    return "stopped";
  }
  if (error.class === "rate_limit") {
    // The rows are due at once: the space waits, for all its workers, and the next claim says for how long.
    const { retryAfterMs, rate } = error;
    context.answered = { refused: true, retryAfterMs, rate, at: context.now() };
    await release(context, [...part, ...unsent], 0);
    return undefined;
  }
  if (error.class === "transient") {
    await fail(context, part, error.message, Math.max(backoffSeconds(part), askedSeconds));
    await release(context, unsent, 1);
    return "provider_failed";
  }
  await context.queue.pauseSpace(context.lease.space.id, error.message);
  await release(context, [...part, ...unsent], 0);
  return "paused";
}

async function release(
  { queue, lease, report }: ClaimContext,
  texts: readonly Text[],
  delaySeconds: number,
): Promise<void> {
  if (texts.length === 0) return;
  const rows = rowsOf(texts);
  const released = await queue.release(lease, rows, delaySeconds);
  report.released += released;
  report.lost_lease += rows.length - released;
}

/** Ends jobs with an error: for good without `retrySeconds`, and where they have had their retries. */
async function fail(
  { queue, lease, report, maxRetries }: ClaimContext,
  texts: readonly Text[],
  message: string,
  retrySeconds: number | null,
): Promise<void> {
  const jobs = texts.flatMap(({ rows }) => rows);
  // The claim counted this attempt already, and the first one is no retry.
  const isOver = ({ attempts }: Job) => retrySeconds === null || attempts > maxRetries;
  for (const [part, seconds] of [
    [jobs.filter(isOver), null],
    [jobs.filter((job) => !isOver(job)), retrySeconds],
  ] as const) {
    if (part.length === 0) continue;
    const rows = part.map(({ row_id }) => row_id);
    const { failed, retried } = await queue.fail(lease, rows, message, seconds);
    report.failed += failed;
    report.retried += retried;
    report.lost_lease += rows.length - failed - retried;
  }
}

/**
 * Gives back what is still leased (with its attempt, when nothing was sent), and settles, before an error is thrown on. Should the database fail here too, the end of the lease does both:
 * others take the jobs then, and the reservation counts as lost.
 */
async function giveBack(
  context: ClaimContext,
  jobs: readonly Job[],
  delaySeconds: number,
  entries: readonly LedgerEntry[],
): Promise<void> {
  const { queue, lease } = context;
  const rows = jobs.map(({ row_id }) => row_id);
  // What was sent may have been paid: it spends an attempt, or a database that never stores the vectors would have them bought for ever.
  const back =
    entries.length > 0
      ? queue.fail(lease, rows, "the database could not take the vectors", delaySeconds)
      : queue.release(lease, rows, delaySeconds);
  await back.catch(() => undefined);
  await queue.settle(lease, entries, answerNow(context)).catch(() => undefined);
}

function textsOf(jobs: readonly Job[]): Text[] {
  return [...Map.groupBy(jobs, ({ hash }) => hash).values()].map((rows) => ({
    input: rows[0]?.input ?? "",
    truncated: false,
    rows,
  }));
}

/** A text that is recorded as skipped, never sent. */
export const isBlank = ({ input }: { readonly input: string }): boolean => input.trim() === "";
const rowsOf = (texts: readonly Text[]): string[] =>
  texts.flatMap(({ rows }) => rows.map(({ row_id }) => row_id));
const estimateOf = (texts: readonly Text[]): number =>
  texts.reduce((sum, { rows }) => sum + (rows[0]?.tokens ?? 0), 0);

/** A result for each row of a text, none where it has no vector; its tokens are written to one of them, since they were paid once. */
function resultsOf({ rows, truncated }: Text, vector: readonly number[] | null): Result[] {
  if (vector === null) return [];
  return rows.map(({ row_id, hash, tokens }, copy) => ({
    row_id,
    hash,
    vector,
    skipped: null,
    truncated,
    tokens: copy === 0 ? tokens : 0,
  }));
}

/** Two seconds doubled with each attempt, five minutes at most, scattered by a half so that retries do not meet again. */
function backoffSeconds(texts: readonly Text[]): number {
  const attempts = Math.max(...texts.flatMap(({ rows }) => rows.map((row) => row.attempts)));
  return Math.min(300, 2 ** attempts) * (0.75 + Math.random() / 2);
}

/** Stores rows in slices and returns what became of them. */
export type Completer = <Row extends { readonly row_id: string }>(
  versionId: number,
  rows: readonly Row[],
  store: (rows: readonly Row[], wait: boolean) => Promise<Outcomes>,
) => Promise<Outcomes>;

/**
 * Completes in slices whose size follows the time the last one took; one that the database cancelled is halved and sent again. Then it asks again
 * for the rows that the application held: one a transaction, waiting, holding nothing, in turn. A paid vector is not thrown away lightly.
 */
export function createCompleter(now: () => number, pace: Pace): Completer {
  let size = 64;
  return async (versionId, rows, store) => {
    const total: Outcomes = { done: 0, stale: [], lost_lease: [], gone: [], busy: [], refused: [] };
    const add = (part: Outcomes) => {
      total.done += part.done;
      total.stale.push(...part.stale);
      total.lost_lease.push(...part.lost_lease);
      total.gone.push(...part.gone);
      total.refused.push(...part.refused);
    };
    const held: (typeof rows)[number][] = [];
    for (let at = 0; at < rows.length; ) {
      const slice = rows.slice(at, at + Math.min(size, pace.mostRows));
      let took = 0;
      const part = await pace.store(versionId, slice.length, async () => {
        const began = now();
        const outcomes = await unlessCancelled(() => store(slice, false));
        took = now() - began;
        return outcomes;
      });
      if (part === undefined && slice.length > 1) {
        size = Math.ceil(slice.length / 2);
        continue;
      }
      at += slice.length;
      if (part === undefined) {
        held.push(...slice);
        continue;
      }
      add(part);
      const busy = new Set(part.busy);
      held.push(...slice.filter(({ row_id }) => busy.has(row_id)));
      if (slice.length === size) {
        const fitting = Math.round((size * COMPLETE_TARGET_MS) / Math.max(took, 1));
        size = Math.min(Math.max(fitting, Math.ceil(size / 2), 8), size * 2, 1000);
      }
    }
    const began = now();
    for (let row = held.shift(); row !== undefined; row = held.shift()) {
      const waited = row;
      if (now() - began >= LONGEST_WAIT_MS) {
        total.busy.push(waited.row_id);
        continue;
      }
      const part = await unlessCancelled(() => store([waited], true));
      if (part === undefined || part.busy.length > 0) held.push(waited);
      else add(part);
    }
    return total;
  };
}

/** The outcomes, or undefined where the database gave the call up and changed nothing. */
async function unlessCancelled(call: () => Promise<Outcomes>): Promise<Outcomes | undefined> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof ReembedError && (error.code === "busy" || error.code === "database_timeout")) return;
    throw error;
  }
}
