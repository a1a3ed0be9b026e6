/**
 * Checks the migrations as a new project meets them, with Supabase's own tools and under both of its default privileges: `db push` onto an empty
 * database, `db lint`, `db advisors` without a warning, and the committed types against the schema that came out.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { isCommitted, typesOf } from "./generate-types.ts";
import { cloneDatabase, databaseUrl, dropDatabase, findServer } from "./lib/test-server.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Runs the Supabase CLI on a database; shows what it printed only when it failed. */
function supabase(url: string, ...command: string[]): boolean {
  // Unlike libpq, the CLI insists on TLS unless it is told not to.
  const remote = new URL(url);
  remote.searchParams.set("sslmode", "disable");
  const result = spawnSync(
    `${ROOT}node_modules/.bin/supabase`,
    [...command, "--db-url", remote.href, "--workdir", ROOT],
    { encoding: "utf8", env: { ...process.env, DO_NOT_TRACK: "1" }, stdio: ["ignore", "pipe", "pipe"] },
  );
  const passed = result.status === 0;
  console.log(`${passed ? "ok  " : "FAIL"} supabase ${command.join(" ")}`);
  if (!passed) console.error(`${result.error?.message ?? ""}${result.stdout}${result.stderr}`);
  return passed;
}

const server = await findServer(process.env);
if (server === null) {
  console.error('no PostgreSQL for this check: "npm run postgres" starts one');
  process.exit(1);
}
for (const defaults of ["old", "new"] as const) {
  console.log(`an empty project with Supabase's ${defaults} default privileges:`);
  const name = await cloneDatabase(server, { defaults, migrations: null });
  try {
    const url = databaseUrl(server, name, "postgres");
    const passed =
      supabase(url, "db", "push", "--yes") &&
      supabase(url, "db", "lint", "--level", "warning", "--fail-on", "warning") &&
      supabase(url, "db", "advisors", "--level", "warn", "--fail-on", "warn");
    if (!passed) {
      process.exitCode = 1;
    } else if (await isCommitted(await typesOf(url))) {
      console.log("ok   generated types");
    } else {
      console.error("FAIL generated types: run npm run types, and commit what it writes");
      process.exitCode = 1;
    }
  } finally {
    await dropDatabase(server, name);
  }
}
