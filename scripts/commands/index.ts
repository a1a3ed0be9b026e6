/** `reembed index`: plans and builds a version's HNSW index, concurrently, so that searches and writes go on. */
import type { Command } from "commander";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { buildIndex, describePlan, type IndexTarget, readIndexPlan } from "../lib/index-build.ts";
import { withIndexProgress } from "../lib/index-progress.ts";
import { advance, remaining } from "../lib/move.ts";
import {
  collectionName,
  type DatabaseOptions,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, type Output } from "../lib/output.ts";
import { untilSignalled } from "../lib/signals.ts";
import { chooseCollection, chooseVersion } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly plan: boolean;
  readonly memory?: number;
  readonly workers?: number;
  readonly freeDisk?: number;
}

export function addIndex(program: Command): void {
  withDatabaseOptions(program.command("index"))
    .description("Builds a version's index where it is missing; one that a failed build left is replaced.")
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; default: the newest", versionNumber)
    .option(
      "--plan",
      "only say what it takes: size, disk, memory and time; exit code 1 when it cannot be built",
      false,
    )
    .option(
      "--memory <mb>",
      "memory for the build; default: what it needs, at most the server's shared_buffers or maintenance_work_mem",
      wholeNumber(1, 1_048_576),
    )
    .option("--workers <number>", "parallel workers; default: the server's setting", wholeNumber(0, 64))
    .option(
      "--free-disk <mb>",
      "what is free on the database's disk: a build that does not fit is refused",
      wholeNumber(0, 1_073_741_824),
    )
    .addHelpText(
      "after",
      `
An index that another session or pg_cron builds is waited for.

Example:
  npm run -s reembed -- index --collection course_content --version 2 --plan
  npm run -s reembed -- index --collection course_content --version 2`,
    )
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await untilSignalled(
        () => out.note("stopping: the build is cancelled and what it made is dropped"),
        (signal) =>
          withDatabase(options, async (db) => {
            const { collection, version } = await chooseVersion(
              db,
              await chooseCollection(db, options.collection),
              options.version,
            );
            if (options.plan) await show(db, { collection, version }, options, out);
            else await build(db, { collection, version }, options, out, signal);
          }),
      );
    });
}

async function show(db: Database, target: IndexTarget, options: Options, out: Output): Promise<void> {
  const plan = await readIndexPlan(db, target, limitsOf(options));
  for (const line of describePlan(plan)) out.say(line);
  if (plan.obstacle !== null) {
    out.say(`it cannot be built: ${plan.obstacle.message}`);
    out.note(`hint: ${plan.obstacle.hint}`);
    process.exitCode = 1;
  }
  out.result(plan);
}

async function build(
  db: Database,
  target: IndexTarget,
  options: Options,
  out: Output,
  signal: AbortSignal,
): Promise<void> {
  const { pending } = await remaining(db, target);
  if (pending > 0)
    out.note(`${pending} rows are still to be loaded: each takes longer with the index in place`);
  const began = performance.now();
  const stands = await withIndexProgress(out, signal, (watching) =>
    buildIndex(db, target, { ...watching, ...limitsOf(options) }),
  );
  const milliseconds = Math.round(performance.now() - began);
  const state = stands ? await advance(db, target) : null;
  const name = `the index of ${target.collection} v${target.version}`;
  if (stands) out.say(`${name} stands (${milliseconds} ms); its state is ${state}`);
  else out.say(`${name} was not built: stopped`);
  if (!stands) process.exitCode = 1;
  out.result({ ...target, stands, state, milliseconds });
}

function limitsOf({ memory, workers, freeDisk }: Options) {
  return { memoryMb: memory, workers, freeDiskMb: freeDisk };
}
