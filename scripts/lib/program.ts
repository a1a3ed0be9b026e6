/** The `reembed` program: its commands, and the one place where a failure becomes two lines and an exit code. */
import { Command } from "commander";
import { addAdd } from "../commands/add.ts";
import { addAdopt } from "../commands/adopt.ts";
import { addAsk } from "../commands/ask.ts";
import { addBackfill } from "../commands/backfill.ts";
import { addCanary } from "../commands/canary.ts";
import { addCoverage } from "../commands/coverage.ts";
import { addCutover } from "../commands/cutover.ts";
import { addDev } from "../commands/dev.ts";
import { addDoctor } from "../commands/doctor.ts";
import { addEstimate } from "../commands/estimate.ts";
import { addEvaluate } from "../commands/evaluate.ts";
import { addFinalize } from "../commands/finalize.ts";
import { addIndex } from "../commands/index.ts";
import { addIngest } from "../commands/ingest.ts";
import { addIngestProducts } from "../commands/ingest-products.ts";
import { addInit } from "../commands/init.ts";
import { addPause, addResume } from "../commands/pause.ts";
import { addReconcile } from "../commands/reconcile.ts";
import { addRetry } from "../commands/retry.ts";
import { addRollback } from "../commands/rollback.ts";
import { addSearch } from "../commands/search.ts";
import { addStatus } from "../commands/status.ts";
import { addWork } from "../commands/work.ts";
import { failureOf, printFailure } from "./output.ts";

/** In the order in which a newcomer meets them; help lists them so. */
const COMMANDS = [
  addInit,
  addDev,
  addAdd,
  addAdopt,
  addIngest,
  addIngestProducts,
  addStatus,
  addCoverage,
  addEstimate,
  addBackfill,
  addWork,
  addSearch,
  addAsk,
  addIndex,
  addEvaluate,
  addCanary,
  addCutover,
  addRollback,
  addFinalize,
  addPause,
  addResume,
  addRetry,
  addReconcile,
  addDoctor,
];

/** Runs one command and sets the exit code: 0 done, 1 failed, 2 wrong use. Never throws. */
export async function main(argv: readonly string[]): Promise<void> {
  const json = argv.includes("--json");
  const fail = (error: unknown) => {
    const failure = failureOf(error, commandLineOf(argv));
    process.exitCode = failure.exitCode;
    if (failure.exitCode !== 0) printFailure(failure, json);
  };
  // A reader such as `head` that has seen enough is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) =>
    error.code === "EPIPE" ? process.exit() : fail(error),
  );
  // What no caller waits for, such as a socket's last error: one line, too.
  process.on("uncaughtException", (error) => {
    fail(error);
    process.exit();
  });
  try {
    await createProgram().parseAsync(argv, { from: "user" });
  } catch (error) {
    fail(error);
  }
}

/** The whole command line; whoever parses with it gets what goes wrong thrown. */
export function createProgram(): Command {
  const program = new Command("reembed")
    .description(
      "Changes the embedding model under a live Supabase app: no downtime, no lost edit, a way back.",
    )
    .usage("<command> [options]")
    .configureOutput({ outputError: () => {} })
    .exitOverride()
    .addHelpText(
      "after",
      `
The database is --db-url, else DATABASE_URL, else the local stack that npm run dev started.
OPENAI_API_KEY and OPENAI_BASE_URL configure spaces of the provider openai, OLLAMA_BASE_URL those of a provider ollama, and so on.

Example:
  npm run -s reembed -- status`,
    );
  for (const add of COMMANDS) add(program);
  return program;
}

function commandLineOf([first]: readonly string[]): string {
  const isCommand = createProgram().commands.some(
    (command) => command.name() === first || (first !== undefined && command.aliases().includes(first)),
  );
  return isCommand ? `reembed ${first}` : "reembed";
}
