/**
 * The worker: claims jobs, embeds their texts, completes them. The same engine behind both doors, the `backfill` function and the CLI.
 * No transaction is open while a provider answers; what the database decides (whose lease, which text) stays with the database.
 */
import type { Embedder, Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { ProviderError } from "./provider-error.ts";
import type { Claim, Job, Lease, LedgerEntry, Outcomes, Queue, Result } from "./queue.ts";

export interface WorkerPorts {
  readonly queue: Queue;
  /** The embedder of a space. Throws ReembedError `provider_unavailable` where nothing here can embed for it. */
  readonly embedderFor: (space: Space) => Embedder;
  /** Milliseconds on a clock that only goes forward. */
  readonly now?: () => number;
}

export interface SliceOptions {
  readonly collection?: string | undefined;
  readonly version?: number | undefined;
  /** Rows a claim, and so a provider request, takes at most. */
  readonly batch?: number;
  /** Rows after which the slice ends; 0 or none: all. */
  readonly limit?: number;
  /** No claim begins later than this many milliseconds after the start. */
  readonly budgetMs?: number;
  readonly leaseSeconds?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (report: SliceReport) => void;
}

/**
 * Why a slice ended: nothing is due, its time or its limit is over, somebody stopped it, another lease holds what is due, the space is
 * paused, or the provider fails for now.
 */
export type SliceEnd =
  | "idle"
  | "time"
  | "limit"
  | "stopped"
  | "busy"
  | "paused"
  | "rate_limited"
  | "provider_failed";

/** What a slice did, in rows unless it says otherwise. */
export interface SliceReport {
  ended: SliceEnd;
  /** Stored with their vectors. */
  done: number;
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
  /** The last error in words that are safe to show, or null. */
  error: string | null;
}

const MOST_TOKENS = 250_000;
/** A complete holds row locks on the application's table: it is cut so that it takes about this long. */
const COMPLETE_TARGET_MS = 60;
/** How often one row is asked for with waiting (up to half a second each) before a paid vector is given up. */
const BUSY_TRIES = 20;

/**
 * Works off due jobs until one of the ends in `SliceEnd`.
 * @throws ReembedError when the database cannot be reached, or no embedder is configured for the space (its jobs are given back first).
 */
export async function workSlice(ports: WorkerPorts, options: SliceOptions = {}): Promise<SliceReport> {
  const now = ports.now ?? (() => performance.now());
  const started = now();
  const report: SliceReport = {
    ended: "idle",
    done: 0,
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
    error: null,
  };
  const end = (why: SliceEnd): SliceReport => {
    report.ended = why;
    return report;
  };
  const completer = createCompleter(ports.queue, now);

  for (;;) {
    if (options.signal?.aborted) return end("stopped");
    if (now() - started > (options.budgetMs ?? Number.POSITIVE_INFINITY)) return end("time");
    const left = options.limit
      ? options.limit - report.done - report.skipped - report.failed
      : Number.POSITIVE_INFINITY;
    if (left <= 0) return end("limit");

    const claim = await ports.queue.claim({
      collection: options.collection,
      version: options.version,
      maxRows: Math.min(options.batch ?? 100, left),
      maxTokens: MOST_TOKENS,
      leaseSeconds: options.leaseSeconds ?? 120,
    });
    if (claim.reason === "paused") {
      report.error = claim.pause_reason ?? `${claim.space} is paused`;
      return end("paused");
    }
    if (claim.resolved) {
      report.current += claim.resolved.current;
      report.gone += claim.resolved.gone;
      report.failed += claim.resolved.failed;
    }
    if (claim.reason === "idle" || claim.reason === "busy") return end(claim.reason);
    if (claim.reason === "work") {
      const stop = await workClaim(ports, completer, leaseOf(claim), claim.jobs, options.signal, report, now);
      options.onProgress?.(report);
      if (stop !== undefined) return end(stop);
    }
  }
}

function leaseOf(claim: Exclude<Claim, { reason: "paused" }>): Lease {
  const { version_id, lease_token, usage_id, space } = claim;
  if (version_id === undefined || lease_token === undefined || space === undefined || usage_id == null) {
    throw new ReembedError("internal_error", "a claim with jobs came without its lease", "Report a bug.");
  }
  return { version_id, lease_token, usage_id, space };
}

/** Embeds and completes one claim. Returns why the slice must end, or undefined to go on. */
async function workClaim(
  ports: WorkerPorts,
  completer: Completer,
  lease: Lease,
  jobs: readonly Job[],
  signal: AbortSignal | undefined,
  report: SliceReport,
  now: () => number,
): Promise<SliceEnd | undefined> {
  const { queue } = ports;
  const entries: LedgerEntry[] = [];
  const release = async (rowIds: readonly string[], delaySeconds: number) => {
    if (rowIds.length === 0) return;
    await queue.release(lease, rowIds, delaySeconds);
    report.released += rowIds.length;
  };

  let embedder: Embedder;
  try {
    embedder = ports.embedderFor(lease.space);
  } catch (error) {
    await release(rowsOf(jobs), 60);
    await queue.settle(lease, []);
    throw error;
  }

  // Equal texts are sent once; an empty one is never sent.
  const groups = Map.groupBy(jobs, ({ hash }) => hash);
  const blank = jobs.filter(({ input }) => input.trim() === "");
  const texts = [...groups.values()].filter(([first]) => first && first.input.trim() !== "");
  let stop: SliceEnd | undefined;

  const results: Result[] = blank.map(({ row_id, hash }) => ({
    row_id,
    hash,
    vector: null,
    skipped: "empty",
    tokens: 0,
  }));
  report.skipped += blank.length;

  // Halves that are still to be sent, first one last.
  const waiting = texts.length === 0 ? [] : [texts];
  for (let part = waiting.pop(); part !== undefined; part = waiting.pop()) {
    const inputs = part.flatMap(([first]) => (first ? [first.input] : []));
    const sent = now();
    const latency = () => Math.round(now() - sent);
    try {
      const { vectors, usage } = await embedder.embed(inputs, {
        purpose: "document",
        ...(signal ? { signal } : {}),
      });
      report.requests += 1;
      report.tokens += usage.tokens;
      entries.push({
        state: "settled",
        outcome: "ok",
        inputs: inputs.length,
        stale: 0,
        tokens: usage.tokens,
        latency_ms: latency(),
      });
      for (const [index, group] of part.entries()) {
        const vector = printVector(vectors[index] ?? []);
        for (const [copy, { row_id, hash, tokens }] of group.entries()) {
          results.push({ row_id, hash, vector, skipped: null, tokens: copy === 0 ? tokens : 0 });
        }
      }
    } catch (error) {
      if (!(error instanceof ProviderError)) throw error;
      const unsent = waiting.flat(2);
      const these = part.flat();
      if (error.billed !== "no" || error.providerStatus !== undefined) {
        report.requests += 1;
        entries.push({
          state: error.billed === "maybe" ? "lost" : "settled",
          outcome: error.fault,
          inputs: inputs.length,
          stale: 0,
          tokens: error.billed === "no" ? 0 : error.billed === "maybe" ? sumTokens(these) : error.billed,
          latency_ms: latency(),
        });
      }
      report.error = error.message;
      // Too large for this account's limits as it is: waiting does not help, halving does.
      if ((error.class === "input" || error.requestTooLarge) && part.length > 1) {
        const middle = Math.ceil(part.length / 2);
        waiting.push(part.slice(middle), part.slice(0, middle));
        continue;
      }
      if (error.class === "input" || error.requestTooLarge) {
        const { failed, retried } = await queue.fail(lease, rowsOf(these), error.message, null);
        report.failed += failed;
        report.retried += retried;
        continue;
      }
      if (error.fault === "aborted") {
        stop = "stopped";
        await release(rowsOf([...these, ...unsent]), 0);
      } else if (error.class === "rate_limit") {
        stop = "rate_limited";
        await release(rowsOf([...these, ...unsent]), (error.retryAfterMs ?? 5_000) / 1000);
      } else if (error.class === "transient") {
        stop = "provider_failed";
        const attempts = Math.max(...these.map((job) => job.attempts));
        const { failed, retried } = await queue.fail(
          lease,
          rowsOf(these),
          error.message,
          backoffSeconds(attempts),
        );
        report.failed += failed;
        report.retried += retried;
        await release(rowsOf(unsent), 1);
      } else {
        stop = "paused";
        await queue.pauseSpace(lease.space.id, error.message);
        await release(rowsOf([...these, ...unsent]), 0);
      }
      break;
    }
  }

  const outcomes = await completer(lease, results);
  report.done += outcomes.done - countOf(blank, outcomes);
  report.stale += outcomes.stale.length;
  report.lost_lease += outcomes.lost_lease.length;
  report.gone += outcomes.gone.length;
  report.busy += outcomes.busy.length;
  await release(outcomes.busy, 1);
  const unstored =
    outcomes.stale.length + outcomes.lost_lease.length + outcomes.gone.length + outcomes.busy.length;
  const paid = entries.findIndex(({ outcome }) => outcome === "ok");
  if (paid >= 0 && unstored > 0) entries[paid] = { ...(entries[paid] as LedgerEntry), stale: unstored };
  await queue.settle(lease, entries);
  return stop;
}

const rowsOf = (jobs: readonly Job[]): string[] => jobs.map(({ row_id }) => row_id);
const sumTokens = (jobs: readonly Job[]): number => jobs.reduce((sum, { tokens }) => sum + tokens, 0);

/** How many of these rows were completed. */
function countOf(jobs: readonly Job[], { stale, lost_lease, gone, busy }: Outcomes): number {
  const lost = new Set([...stale, ...lost_lease, ...gone, ...busy]);
  return jobs.filter(({ row_id }) => !lost.has(row_id)).length;
}

/** Two seconds doubled with each attempt, five minutes at most, scattered by a half so that retries do not meet again. */
function backoffSeconds(attempts: number): number {
  return Math.min(300, 2 ** attempts) * (0.75 + Math.random() / 2);
}

/** A vector as pgvector reads it, seven digits a number: as much as a float4 holds. */
function printVector(vector: readonly number[]): string {
  return `[${vector.map((value) => Number(value.toPrecision(7))).join(",")}]`;
}

type Completer = (lease: Lease, results: readonly Result[]) => Promise<Outcomes>;

/**
 * Completes in slices whose size follows the time the last one took, then asks again for the rows that the application held: one a
 * transaction, waiting, holding nothing. A paid vector is not thrown away lightly.
 */
function createCompleter(queue: Queue, now: () => number): Completer {
  let size = 64;
  return async (lease, results) => {
    const total: Outcomes = { done: 0, stale: [], lost_lease: [], gone: [], busy: [] };
    const add = (part: Outcomes) => {
      total.done += part.done;
      total.stale.push(...part.stale);
      total.lost_lease.push(...part.lost_lease);
      total.gone.push(...part.gone);
    };
    const held = new Set<string>();
    for (let at = 0; at < results.length; ) {
      const slice = results.slice(at, at + size);
      const began = now();
      const part = await queue.complete(lease, slice);
      const took = now() - began;
      add(part);
      for (const row of part.busy) held.add(row);
      at += slice.length;
      if (slice.length === size) {
        const fitting = Math.round((size * COMPLETE_TARGET_MS) / Math.max(took, 1));
        size = Math.min(Math.max(fitting, Math.ceil(size / 2), 8), size * 2, 1000);
      }
    }
    for (const result of results.filter(({ row_id }) => held.has(row_id))) {
      let part: Outcomes = { done: 0, stale: [], lost_lease: [], gone: [], busy: [result.row_id] };
      for (let tries = 0; tries < BUSY_TRIES && part.busy.length > 0; tries += 1) {
        part = await queue.complete(lease, [result], { wait: true });
      }
      add(part);
      total.busy.push(...part.busy);
    }
    return total;
  };
}
