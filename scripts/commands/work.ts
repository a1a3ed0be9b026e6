/** `reembed work`: a worker that runs until it is told to stop. Where pg_cron wakes the backfill function, it is not needed. */
import type { Command } from "commander";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { type ErrorCode, ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Pace } from "../../supabase/functions/_shared/pace.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";
import { type Counts, noCounts, workingBy } from "../../supabase/functions/_shared/worker.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { LANES, paceOn, work } from "../lib/move.ts";
import { type DatabaseOptions, numberBetween, wholeNumber, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, type Output, plural } from "../lib/output.ts";
import { embeddersFrom } from "../lib/providers.ts";
import { pause, untilSignalled } from "../lib/signals.ts";
import { listVersions, type VersionEntry } from "../lib/targets.ts";
import { add, counted } from "../lib/work-off.ts";

interface Options extends DatabaseOptions {
  readonly interval: number;
  readonly rate?: number;
}

/** No version keeps another's edits waiting for longer. */
const SLICE_MS = 2_000;

/** What a worker that is to run for ever sits out: nothing is lost meanwhile. */
const PASSING: ReadonlySet<ErrorCode> = new Set(["database_unavailable", "database_timeout", "busy"]);

export function addWork(program: Command): void {
  withDatabaseOptions(program.command("work").alias("continuous"))
    .description("Keeps all maintained versions current until it is stopped (Ctrl-C or SIGTERM).")
    .option(
      "--interval <seconds>",
      "how long to rest when nothing is due, 0.1 to 3600",
      numberBetween(0.1, 3_600),
      5,
    )
    .option(
      "--rate <rows>",
      "store at most so many rows a second; default: as fast as the database takes them, sparing searches",
      wholeNumber(1, 100_000),
    )
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- work --interval 10")
    .action(keepWorking);
}

async function keepWorking(options: Options): Promise<void> {
  const out = createOutput(options.json);
  const totals = noCounts();
  await untilSignalled(
    () => out.note("stopping: what is being embedded is finished or given back"),
    (signal) => withDatabase(options, (db) => rounds(db, options, totals, out, signal)),
  );
  out.say(
    `${plural(totals.done, "row")} embedded, ${totals.failed} failed, ${plural(totals.requests, "request")}, ${plural(totals.tokens, "token")}`,
  );
  out.result({ ended: "stopped", ...totals });
}

/** One slice for each version in turn; a rest when a whole round found nothing to do. */
async function rounds(
  db: Database,
  { interval, rate }: Options,
  totals: Counts,
  out: Output,
  signal: AbortSignal,
): Promise<void> {
  const embedderFor = embeddersFrom(process.env, db.rpc);
  const byEnvironment = workingBy(readSwitches(process.env));
  const pace = paceOn(db, signal, rate);
  const say = createLog(out);
  out.note("working; Ctrl-C stops it");
  while (!signal.aborted) {
    let busy = false;
    try {
      for (const version of await listVersions(db, { maintained: true })) {
        if (signal.aborted) break;
        busy =
          (await oneSlice(db, version, { embedderFor, byEnvironment, totals, pace, say, signal })) || busy;
      }
    } catch (error) {
      if (!(error instanceof ReembedError && PASSING.has(error.code))) throw error;
      say("database", `${error.message}; going on`);
    }
    if (!busy) await pause(interval * 1000, signal);
  }
}

interface Worker {
  readonly embedderFor: (space: Space) => Embedder;
  readonly byEnvironment: ReturnType<typeof workingBy>;
  readonly totals: Counts;
  readonly pace: Pace;
  readonly say: Log;
  readonly signal: AbortSignal;
}

/** Works on one version for a moment. True when there may be more to do at once. */
async function oneSlice(
  db: Database,
  { collection, version, space }: VersionEntry,
  { embedderFor, byEnvironment, totals, pace, say, signal }: Worker,
): Promise<boolean> {
  const name = `${collection} v${version}`;
  try {
    // Jobs that nothing here can embed are left to a worker that can, such as the edge function for gte-small.
    embedderFor(space);
  } catch (error) {
    if (!(error instanceof ReembedError)) throw error;
    say(name, `${name} is left to another worker: ${error.message}`);
    return false;
  }
  const slice = { collection, version, lanes: LANES, budgetMs: SLICE_MS, signal, ...byEnvironment };
  const report = await work(db, embedderFor, slice, pace);
  add(totals, report);
  say(name, report.error === null ? null : `${name}: ${report.error}`);
  if (counted(report) > 0)
    say(
      null,
      `${name}: ${report.done} embedded, ${report.copied} copied, ${report.skipped} skipped, ${report.failed} failed`,
    );
  return report.ended === "time";
}

/** Writes a line. What is said of a subject is not repeated until it changes; null says that all is well again. */
type Log = (subject: string | null, line: string | null) => void;

/** A log that does not repeat itself while a worker waits. */
function createLog(out: Output): Log {
  const last = new Map<string, string | null>();
  return (subject, line) => {
    if (subject !== null) {
      if (last.get(subject) === line) return;
      last.set(subject, line);
    }
    if (line !== null) out.note(`${new Date().toISOString()} ${line}`);
  };
}
