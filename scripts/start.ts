/** The main job, `npm start`: the whole product on real course pages, on an embedded database of its own, with no key and no Docker. */
import { createInterface } from "node:readline/promises";
import { parseArgs } from "node:util";
import { ReembedError } from "../supabase/functions/_shared/errors.ts";
import { createEmbedder } from "../supabase/functions/_shared/providers.ts";
import { type Database, openDatabase } from "./lib/connection.ts";
import { useHashSpaces } from "./lib/offline-spaces.ts";
import { runCourse } from "./main-job/course.ts";
import { createNarrator, type Narrator } from "./main-job/narrator.ts";
import { runTitles } from "./main-job/titles.ts";
import { startStack } from "./stack/index.ts";

const USAGE = `npm start [-- --openai] [--json]

Ingests course pages, searches them, moves them to another embedding model under live traffic, and goes back.
  --openai  v2 is text-embedding-3-small instead of the offline hash space; needs OPENAI_API_KEY and shows the estimate first
  --json    the figures as one JSON object on standard output; the story goes to standard error`;

/** Course sections and three times the questions: what the move embeds, rounded up. Price: 0.02 dollars a million tokens. */
const ESTIMATED_TOKENS = 60_000;
const DOLLARS_PER_TOKEN = 0.02 / 1e6;

async function main(): Promise<number> {
  let flags: { openai?: boolean; json?: boolean; help?: boolean };
  try {
    flags = parseArgs({
      options: { openai: { type: "boolean" }, json: { type: "boolean" }, help: { type: "boolean" } },
    }).values;
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : "wrong use"}\n\n${USAGE}`);
    return 2;
  }
  if (flags.help) {
    console.log(USAGE);
    return 0;
  }
  // Without the two dashes npm keeps the flag to itself and says so only here.
  const json = flags.json || process.env.npm_config_json === "true";
  const narrator = createNarrator(json ? process.stderr : process.stdout);
  const openai = flags.openai
    ? { apiKey: process.env.OPENAI_API_KEY, baseURL: process.env.OPENAI_BASE_URL }
    : undefined;
  if (openai && !(await agreed(narrator, openai.apiKey))) return 1;

  const stack = await startStack({
    port: 0,
    database: "memory",
    ...(openai ? { openai: { apiKey: openai.apiKey, baseUrl: openai.baseURL } } : {}),
  });
  const db = await openDatabase(stack.databaseUrl);
  try {
    narrator.heading("A Supabase of its own: PostgreSQL with pgvector (PGlite), REST, auth, edge functions");
    narrator.say(stack.url);
    const offline = await useHashSpaces(db, openai ? ["supabase"] : ["supabase", "openai"]);
    if (!openai) {
      narrator.say(
        "No key: texts are embedded by feature hashing. It is lexical, not semantic: it finds shared words, no synonyms.",
      );
    } else {
      narrator.say(`v1 is the offline ${offline[0]?.to} (lexical), v2 is OpenAI's text-embedding-3-small.`);
    }
    const course = await runCourse({
      stack,
      db,
      narrator,
      embedderFor: (space) => createEmbedder(space, openai ? { openai } : {}),
    });
    await runTitles(db, narrator);
    const totals = await readTotals(db);
    narrator.heading(`Law 2 at the end: ${totals.violations} rows that are neither current nor queued`);
    narrator.say(
      `${totals.requests} provider requests, ${totals.tokens} tokens, $${totals.cost_usd.toFixed(4)}\n\nNext: npm run dev   starts the stack and stays up; it prints URL and keys\n      npm run -s reembed -- --help   what an operator types\n      README.md   how to bring it into your own project`,
    );
    const { traffic, answers, ...figures } = course;
    if (json) {
      console.log(
        JSON.stringify({
          ...figures,
          ...totals,
          searches: traffic.searches,
          writes: traffic.writes,
          answers,
        }),
      );
    }
    return totals.violations === 0 && traffic.searches.failed === 0 ? 0 : 1;
  } finally {
    await db.close();
    await stack.stop();
  }
}

/** Shows what the move will cost; on a terminal a person decides. */
async function agreed(narrator: Narrator, apiKey: string | undefined): Promise<boolean> {
  if (!apiKey?.trim()) {
    throw new ReembedError(
      "provider_unavailable",
      "OPENAI_API_KEY is not set",
      "Set it, or leave --openai away.",
    );
  }
  narrator.say(
    `Estimate: at most ${ESTIMATED_TOKENS.toLocaleString("en")} tokens of text-embedding-3-small, $${(ESTIMATED_TOKENS * DOLLARS_PER_TOKEN).toFixed(4)}.`,
  );
  if (!process.stdin.isTTY) return true;
  const prompt = createInterface({ input: process.stdin, output: process.stderr });
  const reply = await prompt.question("         Go on? [y/N] ");
  prompt.close();
  return /^y/i.test(reply);
}

interface Totals {
  readonly spaces: Readonly<Record<"v1" | "v2", string>>;
  readonly embedded: Readonly<Record<"v1" | "v2", number>>;
  readonly requests: number;
  readonly tokens: number;
  readonly cost_usd: number;
  readonly violations: number;
}

async function readTotals(db: Database): Promise<Totals> {
  const [row] = await db.query<{ totals: Totals }>(`
    with course as (
      select v.number, v.space_id, count(r.row_id) filter (where r.skipped is null) as embedded
        from reembed.versions v
        join reembed.collections c on c.id = v.collection_id and c.name = 'course_content'
        left join reembed.records r on r.version_id = v.id
       group by v.number, v.space_id)
    select jsonb_build_object(
      'spaces', (select jsonb_object_agg('v' || number, space_id) from course),
      'embedded', (select jsonb_object_agg('v' || number, embedded) from course),
      'requests', (select count(*) from reembed.usage),
      'tokens', (select coalesce(sum(tokens), 0) from reembed.usage),
      'cost_usd', (select coalesce(sum(cost_usd), 0) from reembed.usage),
      'violations', (select count(*) from reembed.violations())) as totals`);
  if (row === undefined) throw new Error("the database returned no totals");
  return row.totals;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  if (error instanceof ReembedError && error.hint) console.error(`hint: ${error.hint}`);
  process.exitCode = 1;
}
