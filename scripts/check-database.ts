/**
 * Checks the migrations as a new project meets them, with Supabase's own tools and under both of its default privileges: `db push` onto an
 * empty database, `db advisors` and `db lint` without a warning, and the committed types against the schema that came out.
 */
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { isCommitted, typesOf } from "./generate-types.ts";
import { cloneDatabase, databaseUrl, dropDatabase, findServer, withClient } from "./lib/test-server.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const HOSTED_ONLY = new URL("postgres/hosted-only.sql", import.meta.url);

const LintAnswer = z.object({
  results: z.array(
    z.object({
      function: z.string(),
      issues: z.array(z.object({ level: z.string(), message: z.string(), detail: z.string().optional() })),
    }),
  ),
});

/** Runs the Supabase CLI on a database. */
function supabase(url: string, ...command: string[]) {
  // Unlike libpq, the CLI insists on TLS unless it is told not to.
  const remote = new URL(url);
  remote.searchParams.set("sslmode", "disable");
  const { status, stdout, stderr, error } = spawnSync(
    `${ROOT}node_modules/.bin/supabase`,
    [...command, "--db-url", remote.href, "--workdir", ROOT],
    { encoding: "utf8", env: { ...process.env, DO_NOT_TRACK: "1" }, stdio: ["ignore", "pipe", "pipe"] },
  );
  return { passed: status === 0, stdout, output: `${error?.message ?? ""}${stdout}${stderr}` };
}

/** Prints what was checked and, where it failed, the details; returns whether it passed. */
function report(what: string, passed: boolean, details: string): boolean {
  console.log(passed ? `ok   ${what}` : `FAIL ${what}\n${details}`);
  return passed;
}

function checkPush(url: string): boolean {
  const { passed, output } = supabase(url, "db", "push", "--yes");
  return report("supabase db push", passed, output);
}

function checkAdvisors(url: string): boolean {
  const { passed, output } = supabase(url, "db", "advisors", "--level", "warn", "--fail-on", "warn");
  return report("supabase db advisors", passed, output);
}

/**
 * Errors and warnings fail. What plpgsql_check calls "warning extra" does not: it reports dynamic SQL as such, and parameters that a
 * contract names and a body does not need.
 */
function checkLint(url: string): boolean {
  const { passed, stdout, output } = supabase(
    url,
    "db",
    "lint",
    "--schema",
    "public,reembed",
    "--level",
    "warning",
    "--output-format",
    "json",
  );
  if (!passed) return report("supabase db lint", false, output);
  const problems = LintAnswer.parse(JSON.parse(stdout)).results.flatMap((linted) =>
    linted.issues
      .filter((issue) => issue.level === "error" || issue.level === "warning")
      .map((issue) => `${linted.function}: ${issue.level}: ${issue.message} ${issue.detail ?? ""}`),
  );
  return report("supabase db lint", problems.length === 0, problems.join("\n"));
}

async function checkTypes(url: string): Promise<boolean> {
  const current = await isCommitted(await typesOf(url));
  return report("generated types", current, "run npm run types, and commit what it writes");
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
    if (!checkPush(url)) {
      process.exitCode = 1;
      continue;
    }
    const results = [checkAdvisors(url), await checkTypes(url)];
    const hostedOnly = await readFile(HOSTED_ONLY, "utf8");
    await withClient(databaseUrl(server, name), (admin) => admin.query(hostedOnly));
    results.push(checkLint(url));
    if (results.includes(false)) process.exitCode = 1;
  } finally {
    await dropDatabase(server, name);
  }
}
