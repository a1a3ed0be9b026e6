/** Works off what a version still has to load: slice after slice, patient with a provider that asks to wait, until nothing is left. */
import { type Counts, noCounts, type SliceReport } from "../../supabase/functions/_shared/worker.ts";

/** What the database says between two slices. */
export interface Facts {
  /** Jobs that have to be done before the run is over. */
  readonly pending: number;
  /** Milliseconds until the first of them is due; 0 when one is, null when there is none. */
  readonly dueInMs: number | null;
}

export interface WorkOffPorts {
  /** One slice of work, of at most so many rows (0: all that its time allows). */
  slice(limit: number): Promise<SliceReport>;
  facts(): Promise<Facts>;
  /** Waits, or less when somebody stops the run. */
  wait(milliseconds: number): Promise<void>;
  /** Milliseconds on a clock that only goes forward. */
  now(): number;
  onFacts(facts: Facts, totals: Counts): void;
  /** A wait because of the provider begins. */
  onWait(reason: string, milliseconds: number): void;
}

/**
 * Why the run ended: all is done, its limit is reached, somebody stopped it, the space is paused, a budget is spent, or, after long patience, the provider
 * still asks to wait or fails, or others still hold the rows.
 */
export type WorkOffEnd =
  | "done"
  | "limit"
  | "stopped"
  | "paused"
  | "budget"
  | "rate_limited"
  | "provider_failed"
  | "busy";

export interface WorkOffReport {
  readonly ended: WorkOffEnd;
  readonly totals: Counts;
  /** The last error in words that are safe to show, or null. */
  readonly error: string | null;
}

/** How long a run goes on without a single row getting done. */
export const PATIENCE_MS = 600_000;
const LONGEST_BACKOFF_MS = 60_000;
/** Rows that others hold, or that are due later: how often we look again. */
const LOOK_AGAIN_MS = { least: 100, most: 5_000 };

/**
 * Works until nothing is pending.
 * @param limit at most so many rows; 0: all
 * @throws what a slice throws
 */
export async function workOff(
  ports: WorkOffPorts,
  limit: number,
  signal: AbortSignal,
): Promise<WorkOffReport> {
  const totals = noCounts();
  let error: string | null = null;
  let lastProgress = ports.now();
  let failures = 0;
  const end = (ended: WorkOffEnd): WorkOffReport => ({ ended, totals, error });

  for (;;) {
    if (signal.aborted) return end("stopped");
    const left = limit === 0 ? 0 : limit - counted(totals);
    if (limit !== 0 && left <= 0) return end("limit");
    const report = await ports.slice(left);
    add(totals, report);
    error = report.error ?? error;
    const facts = await ports.facts();
    ports.onFacts(facts, totals);
    if (counted(report) + report.current + report.gone > 0) {
      lastProgress = ports.now();
      failures = 0;
    }
    if (report.ended === "stopped" || report.ended === "paused" || report.ended === "limit")
      return end(report.ended);
    if (facts.pending === 0) return end("done");
    // What this slice had reserved beyond its cost is free again: only one that could buy nothing at all has the last word.
    if (report.ended === "budget" && report.requests === 0) return end("budget");

    const patience = PATIENCE_MS - (ports.now() - lastProgress);
    let wait = 0;
    if (report.ended === "rate_limited") {
      wait = report.wait_ms;
    } else if (report.ended === "provider_failed") {
      failures += 1;
      wait = Math.min(LONGEST_BACKOFF_MS, 500 * 2 ** failures);
    } else if (report.ended !== "time" && report.ended !== "budget") {
      wait = Math.min(Math.max(facts.dueInMs ?? 0, LOOK_AGAIN_MS.least), LOOK_AGAIN_MS.most);
    }
    if (wait > patience)
      return end(report.ended === "idle" || report.ended === "time" ? "busy" : report.ended);
    if (report.error !== null && wait > 0) ports.onWait(report.error, wait);
    if (wait > 0) await ports.wait(wait);
  }
}

/** The rows that a limit counts: those that were sent, or settled without being sent. */
export function counted({
  done,
  copied,
  skipped,
  failed,
}: Pick<Counts, "done" | "copied" | "skipped" | "failed">): number {
  return done + copied + skipped + failed;
}

/** Adds a slice's counts to those of the run. */
export function add(totals: Counts, report: Counts): void {
  for (const name of Object.keys(totals) as (keyof Counts)[]) totals[name] += report[name];
}
