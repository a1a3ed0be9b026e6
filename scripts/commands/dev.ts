/** `reembed dev` and `npm run dev`: the local stack, until Ctrl-C. */
import { once } from "node:events";
import type { Command } from "commander";
import { serversIn } from "../../supabase/functions/_shared/servers.ts";
import { switchesIn } from "../../supabase/functions/_shared/switches.ts";
import { openDatabase } from "../lib/connection.ts";
import { type OfflineSpace, providersOutOfReach, useHashSpaces } from "../lib/offline-spaces.ts";
import { type OutputOptions, wholeNumber, withOutputOptions } from "../lib/options.ts";
import { createOutput, type Output } from "../lib/output.ts";
import { embeddersFrom } from "../lib/providers.ts";
import { untilSignalled } from "../lib/signals.ts";
import type { Stack } from "../stack/index.ts";
import { DEFAULT_PORT } from "../stack/project.ts";

interface Options extends OutputOptions {
  readonly port: number;
  readonly allowRemote: boolean;
}

export function addDev(program: Command): void {
  withOutputOptions(program.command("dev"))
    .description(
      "Runs the whole stack on this machine: REST, auth and the edge functions on one port, no Docker.",
    )
    .option("--port <number>", "port to listen on; 0 takes a free one", wholeNumber(0, 65_535), DEFAULT_PORT)
    .option("--allow-remote", "use the database of DATABASE_URL though it is on another machine", false)
    .addHelpText(
      "after",
      `
The database is PGlite in the folder .reembed, or the PostgreSQL of DATABASE_URL; migrations are applied at the start.
OPENAI_API_KEY, OPENAI_BASE_URL, those of other providers (OLLAMA_BASE_URL, ...), IMAGE_FILES_URL and the switches (USE_VECTOR_1536, ...) reach the functions
when they are set.

Example:
  npm run dev -- --port 54321`,
    )
    .action(dev);
}

async function dev(options: Options): Promise<void> {
  const out = createOutput(options.json);
  const { DATABASE_URL, OPENAI_API_KEY, OPENAI_BASE_URL, IMAGE_FILES_URL } = process.env;
  await untilSignalled(
    () => out.note("stopping"),
    async (signal) => {
      // Loaded here: the other commands do without a database server and an HTTP gateway.
      const { startStack } = await import("../stack/index.ts");
      const stack = await startStack({
        port: options.port,
        allowRemote: options.allowRemote,
        openai: { apiKey: OPENAI_API_KEY, baseUrl: OPENAI_BASE_URL },
        servers: serversIn(process.env),
        imageFilesUrl: IMAGE_FILES_URL,
        switches: switchesIn(process.env),
        onLog: out.note,
        ...(DATABASE_URL && { database: { url: DATABASE_URL } }),
      });
      try {
        // A project's own database keeps the spaces it has; the embedded one is for trying things out.
        const spaces = DATABASE_URL ? [] : await takeHashSpaces(stack.databaseUrl);
        if (!signal.aborted) print(stack, spaces, out);
        if (!signal.aborted) await once(signal, "abort");
      } finally {
        await stack.stop();
      }
    },
  );
}

async function takeHashSpaces(url: string): Promise<readonly OfflineSpace[]> {
  const db = await openDatabase(url);
  try {
    return await useHashSpaces(db, await providersOutOfReach(db, embeddersFrom(process.env, db.rpc)));
  } finally {
    await db.close();
  }
}

function print(stack: Stack, spaces: readonly OfflineSpace[], out: Output): void {
  const { url, publishableKey, secretKey, backfillKey, jwtSecret, migrations } = stack;
  const databaseUrl = withoutPassword(stack.databaseUrl);
  if (!out.json) {
    out.say(`
  The stack is up${migrations.length > 0 ? `; ${migrations.length} migrations were applied` : ""}.

    URL               ${url}
    Database          ${databaseUrl}
    Publishable key   ${publishableKey}
    Secret key        ${secretKey}
${spaces.map(describeSpace).join("")}

  In another terminal: npm run reembed -- status
  Ctrl-C ends it.
`);
  }
  out.result({ url, databaseUrl, publishableKey, secretKey, backfillKey, jwtSecret, migrations, spaces });
}

function describeSpace({ collection, version, from, to }: OfflineSpace): string {
  return `
  ${collection} v${version}: ${from} cannot be called here, so it takes ${to}: lexical, not semantic.`;
}

/** The CLI finds the stack by itself, and whoever gave a password knows it. */
function withoutPassword(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  if (url.password !== "") url.password = "***";
  return url.href;
}
