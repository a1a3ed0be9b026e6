/** `npm run dev`: the local stack, until Ctrl-C. */
import { Command, InvalidArgumentError } from "commander";
import { ReembedError } from "../supabase/functions/_shared/errors.ts";
import { DEFAULT_PORT, type Stack, startStack } from "./stack/index.ts";

const command = new Command("dev")
  .description(
    "Runs the whole stack on this machine: REST, auth and the edge functions on one port, no Docker.",
  )
  .option("--port <number>", "port to listen on; 0 takes a free one", parsePort, DEFAULT_PORT)
  .option("--allow-remote", "use the database of DATABASE_URL though it is on another machine", false)
  .option("--json", "print url, keys and database url as one line of JSON", false)
  .addHelpText(
    "after",
    `
The database is PGlite in the folder .reembed, or the PostgreSQL of DATABASE_URL; migrations are applied at the start.
OPENAI_API_KEY and OPENAI_BASE_URL reach the functions when they are set.`,
  )
  // Wrong use ends with 2, as in every command of the project.
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));

const options = command.parse().opts<{ port: number; allowRemote: boolean; json: boolean }>();
const { DATABASE_URL, OPENAI_API_KEY, OPENAI_BASE_URL } = process.env;

try {
  const starting = startStack({
    port: options.port,
    allowRemote: options.allowRemote,
    openai: { apiKey: OPENAI_API_KEY, baseUrl: OPENAI_BASE_URL },
    onLog: (line) => console.error(line),
    ...(DATABASE_URL && { database: { url: DATABASE_URL } }),
  });
  endOnSignal(starting);
  const stack = await starting;
  print(stack, options.json);
} catch (error) {
  if (error instanceof ReembedError) console.error(`${error.message}\n  ${error.hint}`);
  else console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

/** The first signal ends the stack in order, also one that is still starting; a second one ends this process at once. */
function endOnSignal(starting: Promise<Stack>): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => {
      starting.then(
        (stack) => stack.stop().then(() => process.exit(0)),
        () => process.exit(1),
      );
    });
  }
}

function print(stack: Stack, asJson: boolean): void {
  const { url, databaseUrl, publishableKey, secretKey, backfillKey, jwtSecret, migrations } = stack;
  if (asJson) {
    console.log(
      JSON.stringify({ url, databaseUrl, publishableKey, secretKey, backfillKey, jwtSecret, migrations }),
    );
    return;
  }
  console.log(`
  The stack is up${migrations.length > 0 ? `; ${migrations.length} migrations were applied` : ""}.

    URL               ${url}
    Database          ${databaseUrl}
    Publishable key   ${publishableKey}
    Secret key        ${secretKey}

  In another terminal: npm run reembed -- status
  Ctrl-C ends it.
`);
}

function parsePort(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= 65_535) return port;
  throw new InvalidArgumentError("a port is a whole number from 0 to 65535.");
}
