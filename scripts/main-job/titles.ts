/**
 * The second half of the main job: a move between two real OpenAI spaces of equal width, ada-002 to 3-small, on recorded vectors. It shows why a
 * query vector must name its space, and why a threshold of the old model means nothing in the new one.
 */
import { readFile } from "node:fs/promises";
import { type Embedder, makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import type { Database } from "../lib/connection.ts";
import { evaluate } from "../lib/evaluation/evaluate.ts";
import { chooseQueries } from "../lib/evaluation/query-set.ts";
import { describeChange, describeThreshold } from "../lib/evaluation/summary.ts";
import { advance, startLoading, work } from "../lib/move.ts";
import type { Narrator } from "./narrator.ts";

const ADA = "openai/text-embedding-ada-002@1536";
const SMALL = "openai/text-embedding-3-small@1536";

/** Titles that are asked for as queries, and the seed that chooses them. */
const EVALUATED = 30;
const SEED = 1;

type Vectors = Readonly<Record<string, readonly number[]>>;

async function readVectors(model: string): Promise<Vectors> {
  const file = new URL(`../../examples/peliculas/peliculas_${model}.json`, import.meta.url);
  return JSON.parse(await readFile(file, "utf8"));
}

const SCHEMA = `
  create table public.peliculas (
    id int primary key, title text not null, embedding extensions.vector(1536), embedding_small extensions.vector(1536));
  alter table public.peliculas enable row level security;
  create policy "anyone reads" on public.peliculas for select to anon, authenticated using (true);
  grant select on public.peliculas to anon, authenticated;
  create function reembed.peliculas_input(film public.peliculas) returns text language sql immutable set search_path = '' as 'select film.title';`;

const REGISTER = `
  do $$ begin
    perform reembed.add_space('openai', 'text-embedding-ada-002', 1536, 0.10, 0.75);
    perform reembed.add_space('openai', 'text-embedding-3-small', 1536, 0.02, 0.25);
    perform reembed.add_collection('peliculas', 'public.peliculas', array['id', 'title']);
    perform reembed.adopt_vectors(reembed.add_version('peliculas', '${ADA}', 'embedding', 'reembed.peliculas_input', match_threshold => 0.8));
    perform reembed.add_version('peliculas', '${SMALL}', 'embedding_small', 'reembed.peliculas_input');
  end $$;`;

/** Runs the move and prints what it shows. Throws when a step fails. */
export async function runTitles(db: Database, narrator: Narrator): Promise<void> {
  const [old, fresh] = await Promise.all([
    readVectors("text-embedding-ada-002"),
    readVectors("text-embedding-3-small-1536"),
  ]);
  const titles = Object.keys(old);
  const embedderFor = recorded({ [ADA]: old, [SMALL]: fresh });
  narrator.heading(
    `The same move on real vectors: ${titles.length} film titles, ada-002 to 3-small, both 1536 wide`,
  );

  await db.query(SCHEMA);
  for (const [index, title] of titles.entries()) {
    await db.query("insert into public.peliculas (id, title, embedding) values ($1, $2, $3)", [
      index + 1,
      title,
      `[${old[title]?.join(",")}]`,
    ]);
  }
  await db.query(REGISTER);
  for (const version of [1, 2]) {
    await startLoading(db, { collection: "peliculas", version });
    await db.query(await indexSql(db, version));
  }
  const report = await work(db, embedderFor, { collection: "peliculas" });
  if (report.error) throw new Error(report.error);
  await advance(db, { collection: "peliculas", version: 1 });
  await advance(db, { collection: "peliculas", version: 2 });
  const target = { collection: "peliculas", version: 2 };
  const queries = await chooseQueries(db, { ...target, only: "rows", limit: EVALUATED, seed: SEED });
  const verdict = await evaluate(db, embedderFor, { ...target, queries, seed: SEED });
  await db.query("select reembed.cutover('peliculas', 2)");
  narrator.say(
    `v1's ${titles.length} vectors were adopted without buying them again; v2 took ${report.requests} request of recorded vectors`,
  );

  const unnamed = await db
    .query("select match_peliculas_v2($1)", [`[${old[titles[0] ?? ""]?.join(",")}]`])
    .then(() => "was taken")
    .catch((error: Error) => `is refused: ${error.message}`);
  narrator.say(`A vector that names no space ${unnamed}`);
  narrator.say(`${verdict.queries} of the titles asked for as queries: ${describeChange(verdict)}`);
  narrator.say(describeThreshold(verdict));
}

async function indexSql(db: Database, version: number): Promise<string> {
  const [row] = await db.query<{ sql: string }>("select reembed.index_sql('peliculas', $1, false) as sql", [
    version,
  ]);
  return row?.sql ?? "";
}

/** Embedders that answer from vectors that were bought before: what a title's vector in a space is, they were told. */
function recorded(vectors: Readonly<Record<string, Vectors>>): (space: Space) => Embedder {
  return (space) =>
    makeEmbedder(space, async (texts) => ({
      vectors: texts.map((text) => vectors[space.id]?.[text] ?? []),
      usage: { tokens: 0 },
    }));
}
