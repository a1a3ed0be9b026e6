/** `reembed status`: where each version stands, what is left, how fast it goes, what failed and why, what was spent. */
import type { Command } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { collectionName, type DatabaseOptions, numberBetween, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, harmless, type Output } from "../lib/output.ts";
import { pause, untilSignalled } from "../lib/signals.ts";
import { describeStatus, readStatus, summarizeStatus } from "../lib/status.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly watch: boolean;
  readonly interval?: number;
}

const DEFAULT_INTERVAL_SECONDS = 2;
/** Cursor to the top left, and what stood below erased: no flicker, as clearing first would. */
const TO_TOP = "\u001b[H";
const ERASE_LINE_END = "\u001b[K";
const ERASE_BELOW = "\u001b[J";

export function addStatus(program: Command): void {
  withDatabaseOptions(program.command("status").alias("stats"))
    .description("Shows where each version stands, how fast it goes, what failed and what was spent.")
    .option(
      "--collection <name>",
      "only this one, with its providers and budgets; default: all",
      collectionName,
    )
    .option("--watch", "show it again and again until Ctrl-C; with --json a line each time", false)
    .option(
      "--interval <seconds>",
      `how long --watch rests between two looks, 0.1 to 3600; default: ${DEFAULT_INTERVAL_SECONDS}`,
      numberBetween(0.1, 3_600),
    )
    .addHelpText(
      "after",
      "\nExample:\n  npm run -s reembed -- status --json\n  npm run -s reembed -- status --collection course_content --watch --interval 5",
    )
    .action(async (options: Options) => {
      if (options.interval !== undefined && !options.watch)
        throw new ReembedError("invalid_request", "--interval needs --watch", "Add --watch.");
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        if (options.watch) await watch(db, options, out);
        else await show(db, options, out);
      });
    });
}

async function show(db: Database, { collection }: Options, out: Output): Promise<void> {
  const status = await readStatus(db, collection);
  for (const line of describeStatus(status)) out.say(line);
  out.result(status);
}

/** A screen that is drawn anew where somebody watches a terminal, a few lines with their time where not, a JSON line for a program. */
async function watch(
  db: Database,
  { collection, interval = DEFAULT_INTERVAL_SECONDS }: Options,
  out: Output,
): Promise<void> {
  const onTerminal = process.stdout.isTTY && !out.json;
  await untilSignalled(
    () => {},
    async (signal) => {
      if (onTerminal) process.stdout.write(`${TO_TOP}${ERASE_BELOW}`);
      while (!signal.aborted) {
        const status = await readStatus(db, collection);
        const at = new Date().toISOString();
        if (out.json) out.result({ at, ...status });
        else if (onTerminal) draw([`${at}  Ctrl-C ends`, "", ...describeStatus(status)]);
        else for (const line of summarizeStatus(status)) out.say(`${at} ${line}`);
        await pause(interval * 1000, signal);
      }
    },
  );
}

function draw(lines: readonly string[]): void {
  process.stdout.write(
    `${TO_TOP}${lines.map((line) => `${harmless(line)}${ERASE_LINE_END}\n`).join("")}${ERASE_BELOW}`,
  );
}
