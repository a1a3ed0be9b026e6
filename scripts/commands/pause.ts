/** `reembed pause` and `reembed resume`: nothing is bought in a space for a while, and every job is kept. */
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, numberBetween, textUpTo, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";

interface PauseOptions extends DatabaseOptions {
  readonly reason: string;
  readonly seconds?: number;
}

const A_YEAR_IN_SECONDS = 31_536_000;
const spaceName = textUpTo(200);

export function addPause(program: Command): void {
  withDatabaseOptions(program.command("pause"))
    .description("Stops the embedding of documents in a space. Jobs are kept, edits go on being enqueued.")
    .argument("<space>", "as status names it, such as openai/text-embedding-3-small@1536", spaceName)
    .requiredOption("--reason <text>", "why; status shows it", textUpTo(500))
    .option(
      "--seconds <number>",
      "for how long; default: until reembed resume",
      numberBetween(0, A_YEAR_IN_SECONDS),
    )
    .addHelpText(
      "after",
      '\nExample:\n  npm run -s reembed -- pause openai/text-embedding-3-small@1536 --reason "the bill is being looked at"',
    )
    .action(async (space: string, { reason, seconds, ...options }: PauseOptions) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        await db.query("select reembed.pause_space($1, $2, $3)", [space, reason, seconds ?? null]);
        out.say(
          `${space} is paused ${seconds === undefined ? "until it is resumed" : `for ${seconds} s`}: ${reason}`,
        );
        out.result({ space, reason, seconds: seconds ?? null });
      });
    });
}

export function addResume(program: Command): void {
  withDatabaseOptions(program.command("resume"))
    .description("Ends the pause of a space, once its cause is mended.")
    .argument("<space>", "as status names it", spaceName)
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- resume openai/text-embedding-3-small@1536")
    .action(async (space: string, options: DatabaseOptions) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        await db.query("select reembed.resume_space($1)", [space]);
        out.say(`${space} is resumed`);
        out.result({ space });
      });
    });
}
