/** `reembed init`: brings the core migrations and the edge functions into a Supabase project that exists already. */
import { basename } from "node:path";
import type { Command } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type OutputOptions, withOutputOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";
import { planInstallation, writeInstallation } from "../lib/project.ts";

interface Options extends OutputOptions {
  readonly into: string;
}

export function addInit(program: Command): void {
  withOutputOptions(program.command("init"))
    .description(
      "Copies the core migrations and the edge functions into a Supabase project, and declares the functions in its config.toml.",
    )
    .requiredOption("--into <project>", "the project's folder: the one that holds supabase/config.toml")
    .addHelpText(
      "after",
      `
A file that is there and differs is never overwritten: init then lists it and writes nothing.

Example:
  npm run -s reembed -- init --into ../my-app`,
    )
    .action(init);
}

async function init({ into, json }: Options): Promise<void> {
  const out = createOutput(json);
  const plan = await planInstallation(into);
  if (plan.conflicts.length > 0) {
    const shown = plan.conflicts.map((path) => `supabase/${path}`).join(", ");
    throw new ReembedError(
      "refused",
      `nothing was written: these are there and differ: ${shown}`,
      "Move or remove them, or take over their changes by hand, then run it again.",
    );
  }
  await writeInstallation(plan);
  const written = plan.files.map(({ path }) => `supabase/${path}`);
  for (const path of written) out.say(`wrote ${path}`);
  if (plan.sections.length > 0)
    out.say(
      `added to supabase/config.toml: ${plan.sections.map((name) => `[functions.${name}]`).join(", ")}`,
    );
  if (written.length + plan.sections.length === 0) out.say("Everything is there already.");

  const next = [
    `supabase db push${plan.needsIncludeAll ? " --include-all" : ""}`,
    "supabase secrets set OPENAI_API_KEY=...",
    "supabase functions deploy search ask backfill",
    "in SQL, so that pg_cron wakes the worker: select reembed.set_secret('functions_url', 'https://<project ref>.supabase.co/functions/v1');",
    "select reembed.set_secret('backfill_key', '<a secret API key named backfill>'); select reembed.schedule();",
    "in the clone of Reembed, for each table: npm run -s reembed -- add <table> --project <this project>",
  ];
  out.say(`\nNext, in ${basename(plan.project)}:`);
  for (const line of next) out.say(`  ${line}`);
  out.result({ project: plan.project, written, unchanged: plan.unchanged, sections: plan.sections, next });
}
