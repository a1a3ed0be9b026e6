/** The first half of the main job: course pages in, answers out, and across a change of model and back, under traffic. */
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import type { IngestResult } from "../../supabase/functions/_shared/ingest/page-sections.ts";
import type { SearchAnswer } from "../../supabase/functions/_shared/search.ts";
import type { Database } from "../lib/connection.ts";
import { evaluate } from "../lib/evaluation/evaluate.ts";
import { chooseQueries } from "../lib/evaluation/query-set.ts";
import { verdictLines } from "../lib/evaluation/summary.ts";
import { advance, startLoading, work } from "../lib/move.ts";
import type { Stack } from "../stack/index.ts";
import type { Narrator } from "./narrator.ts";
import { startTraffic, type TrafficCounts } from "./traffic.ts";

const PAGES = fileURLToPath(new URL("../../examples/git-course/", import.meta.url));
export const BASE_URL = "https://swcarpentry.github.io/git-novice/";

const QUESTIONS = [
  "How do I resolve a merge conflict?",
  "How can I tell Git to ignore certain files?",
  "How do I go back to an older version of a file?",
];
const ROWS = 5;
/** Sections whose first line is asked for in the verdict, and the seed that chooses them. */
const EVALUATED = 30;
const SEED = 1;

/** The edit of a page: a section that no page has. */
const EDITED_PAGE = "06-ignore.html";
const EDIT = {
  before: "</main>",
  html: '<section><h2 id="stash">Putting changes aside</h2><p>git stash puts unfinished changes aside for a while; git stash pop brings them back.</p></section>',
  question: "How can I put unfinished changes aside for a while?",
};

export interface Answer {
  readonly question: string;
  readonly url: string;
  readonly title: string;
  readonly similarity: number;
}

export interface CourseReport {
  readonly pages: number;
  readonly sections: number;
  readonly traffic: TrafficCounts;
  readonly cutover_ms: number;
  readonly rollback_ms: number;
  readonly answers: readonly Answer[];
}

export interface Course {
  readonly stack: Stack;
  readonly db: Database;
  readonly embedderFor: (space: Space) => Embedder;
  readonly narrator: Narrator;
}

/** Runs it and returns the figures. Throws when a step fails. */
export async function runCourse(course: Course): Promise<CourseReport> {
  const { stack, db, narrator } = course;
  const visitor = createClient(stack.url, stack.publishableKey);
  const service = createClient(stack.url, stack.secretKey);
  const ask = (question: string) => search(visitor, question);

  narrator.heading("Ingest: course pages become sections that a citation can point at");
  const files = (await readdir(PAGES)).filter((file) => file.endsWith(".html")).sort();
  let sections = 0;
  for (const file of files) {
    sections += (await ingest(stack, file, await readFile(PAGES + file, "utf8"))).sections;
  }
  narrator.say(
    `${files.length} pages of "Version Control with Git" (CC BY 4.0, Software Carpentry): ${sections} sections`,
  );

  narrator.heading("Embed v1, the old model, through the backfill function");
  await drain(stack);
  narrator.say(await describeVersion(db, 1));
  await answer(narrator, QUESTIONS, ask);

  narrator.heading("Move to v2 while a reader searches and a writer writes");
  // The reader is one visitor who never rests; usual ones are far below the usual rate.
  await db.query("select reembed.set_query_rate(60000, 1000)");
  const traffic = startTraffic(ask, service, QUESTIONS, ROWS);
  const bar = narrator.progress(sections, "rows");
  const target = { collection: "course_content", version: 2 };
  let rate = "";
  try {
    await startLoading(db, target);
    const began = performance.now();
    // Twice: what the writer did during the first pass is worked off before the index and the verdict.
    for (const _pass of [1, 2]) {
      const report = await work(db, course.embedderFor, {
        collection: target.collection,
        batch: 32,
        onProgress: ({ done }) =>
          bar.update(done, `${Math.round((done * 1000) / (performance.now() - began))} rows/s`),
      });
      if (report.error) throw new Error(report.error);
      rate ||= `${report.done} rows loaded in ${seconds(performance.now() - began)}`;
    }
  } finally {
    bar.stop();
  }
  const state = await advance(db, target);
  narrator.say(`${rate}; v2 is ${state}. ${await describeVersion(db, 2)}`);

  narrator.heading("Evaluate, then cut over: one row and one event");
  const verdict = await evaluate(db, course.embedderFor, {
    collection: target.collection,
    baseline: 1,
    candidate: target.version,
    queries: await chooseQueries(db, { ...target, only: "rows", limit: EVALUATED, seed: SEED }),
    seed: SEED,
  });
  for (const line of verdictLines(verdict)) narrator.say(line);
  const cutover_ms = await timed(() => db.query("select reembed.cutover('course_content', 2)"));
  narrator.say(`cutover took ${cutover_ms.toFixed(1)} ms; the next searches answer from v2:`);
  const answers = await answer(narrator, QUESTIONS, ask);

  narrator.heading("Edit a page, roll back, cut over again: the way back is fresh");
  const page = await readFile(PAGES + EDITED_PAGE, "utf8");
  const edited = page.replace(EDIT.before, `${EDIT.html}${EDIT.before}`);
  const { inserted, unchanged } = await ingest(stack, EDITED_PAGE, edited);
  await drain(stack);
  narrator.say(
    `${EDITED_PAGE}: ${inserted} section added, ${unchanged} untouched; both versions embedded the edit`,
  );
  const rollback_ms = await timed(() => db.query("select reembed.rollback('course_content')"));
  narrator.say(`rollback took ${rollback_ms.toFixed(1)} ms; v1 knows the edit:`);
  await answer(narrator, [EDIT.question], ask);
  await db.query("select reembed.cutover('course_content', 2)");
  await traffic.stop();
  await drain(stack);
  const { searches, writes } = traffic.counts;
  narrator.say(
    `cut over again. Meanwhile: ${searches.total} searches, ${searches.failed} failed or short of ${ROWS} rows; ${writes} writes`,
  );
  return { pages: files.length, sections, traffic: traffic.counts, cutover_ms, rollback_ms, answers };
}

async function ingest(stack: Stack, file: string, html: string): Promise<IngestResult> {
  const response = await fetch(`${stack.url}/functions/v1/ingest`, {
    method: "POST",
    headers: { apikey: stack.secretKey, "content-type": "application/json" },
    body: JSON.stringify({ url: BASE_URL + file, html }),
  });
  if (!response.ok)
    throw new Error(`ingest of ${file} answered ${response.status}: ${await response.text()}`);
  return response.json();
}

/** Calls the backfill function, as cron would, until nothing is due. */
async function drain(stack: Stack): Promise<void> {
  for (;;) {
    const response = await fetch(`${stack.url}/functions/v1/backfill`, {
      method: "POST",
      headers: { apikey: stack.backfillKey },
    });
    const answer: { ended?: string; error?: unknown } = await response.json();
    if (!response.ok)
      throw new Error(`backfill answered ${response.status}: ${JSON.stringify(answer.error)}`);
    if (answer.ended === "idle") return;
  }
}

async function search(client: SupabaseClient, query: string): Promise<SearchAnswer> {
  const { data, error } = await client.functions.invoke<SearchAnswer>("search", {
    body: { collection: "course_content", query, match_count: ROWS },
  });
  if (error || data === null) throw new Error(`search failed: ${error?.message ?? "no answer"}`);
  return data;
}

type Ask = (question: string) => Promise<SearchAnswer>;

async function answer(narrator: Narrator, questions: readonly string[], ask: Ask): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const question of questions) {
    const { version, results } = await ask(question);
    const [best] = results;
    const similarity = best?.similarity ?? null;
    if (best === undefined || similarity === null) throw new Error(`no row answers by meaning: ${question}`);
    const { title, url } = best.citation ?? { title: "", url: "" };
    answers.push({ question, url, title, similarity });
    narrator.say(`? ${question}\n  v${version} ${similarity.toFixed(2)}  ${title}\n          ${url}`);
  }
  return answers;
}

async function describeVersion(db: Database, version: number): Promise<string> {
  const [row] = await db.query<{ space: string; records: number }>(
    `select v.space_id as space, (select count(*)::int from reembed.records r where r.version_id = v.id and r.skipped is null) as records
       from reembed.version_numbered('course_content', $1) v`,
    [version],
  );
  return `v${version}: ${row?.records} rows embedded in ${row?.space}`;
}

async function timed(step: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await step();
  return performance.now() - began;
}

const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`;
