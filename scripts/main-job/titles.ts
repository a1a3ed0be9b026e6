/**
 * The second half of the main job: a move between two real OpenAI spaces of equal width, ada-002 to 3-small, on recorded vectors. It shows why a
 * query vector must name its space, and why a threshold of the old model means nothing in the new one.
 */
import { readFile } from "node:fs/promises";
import { type Embedder, makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import type { Database } from "../lib/connection.ts";
import { advance, startLoading, work } from "../lib/move.ts";
import type { Narrator } from "./narrator.ts";

const ADA = "openai/text-embedding-ada-002@1536";
const SMALL = "openai/text-embedding-3-small@1536";

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
    perform reembed.adopt_vectors(reembed.add_version('peliculas', '${ADA}', 'embedding', 'reembed.peliculas_input'));
    perform reembed.add_version('peliculas', '${SMALL}', 'embedding_small', 'reembed.peliculas_input');
  end $$;`;

/** Runs the move and prints what it shows. Throws when a step fails. */
export async function runTitles(db: Database, narrator: Narrator): Promise<void> {
  const [old, fresh] = await Promise.all([
    readVectors("text-embedding-ada-002"),
    readVectors("text-embedding-3-small-1536"),
  ]);
  const titles = Object.keys(old);
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
  const report = await work(db, recorded(fresh), { collection: "peliculas" });
  if (report.error) throw new Error(report.error);
  await advance(db, { collection: "peliculas", version: 1 });
  await advance(db, { collection: "peliculas", version: 2 });
  await db.query("select reembed.cutover('peliculas', 2)");
  narrator.say(
    `v1's ${titles.length} vectors were adopted without buying them again; v2 took ${report.requests} request of recorded vectors`,
  );

  const unnamed = await db
    .query("select match_peliculas_v2($1)", [`[${old[titles[0] ?? ""]?.join(",")}]`])
    .then(() => "was taken")
    .catch((error: Error) => `is refused: ${error.message}`);
  narrator.say(`A vector that names no space ${unnamed}`);

  const [before, after] = [await neighbours(db, titles, old, 1), await neighbours(db, titles, fresh, 2)];
  const overlap = titles.reduce((sum, _title, row) => {
    const others = new Set(after[row]?.map(({ id }) => id));
    return sum + (before[row] ?? []).filter(({ id }) => others.has(id)).length / 10;
  }, 0);
  narrator.say(
    `v1 and v2 share ${Math.round((overlap * 100) / titles.length)} % of each title's 10 nearest titles`,
  );

  const [oldPairs, newPairs] = [pairs(titles, old), pairs(titles, fresh)];
  const threshold = quantile(oldPairs, 0.9);
  const carried = quantile(newPairs, 0.9);
  const kept = (list: readonly number[], limit: number) =>
    list.filter((similarity) => similarity > limit).length;
  narrator.say(
    `A threshold of ${threshold.toFixed(2)} keeps ${kept(oldPairs, threshold)} of ${oldPairs.length} pairs in ada-002 and ${kept(newPairs, threshold)} in 3-small; the one that carries over is ${carried.toFixed(2)} (${kept(newPairs, carried)} pairs)`,
  );
}

async function indexSql(db: Database, version: number): Promise<string> {
  const [row] = await db.query<{ sql: string }>("select reembed.index_sql('peliculas', $1, false) as sql", [
    version,
  ]);
  return row?.sql ?? "";
}

/** An embedder that answers from vectors that were bought before: what a title's vector is, it was told. */
function recorded(vectors: Vectors): (space: Space) => Embedder {
  return (space) =>
    makeEmbedder(space, async (texts) => ({
      vectors: texts.map((text) => vectors[text] ?? []),
      usage: { tokens: 0 },
    }));
}

interface Neighbour {
  readonly id: number;
}

/** The ten nearest titles of each title through the version's RPC, itself left out. */
async function neighbours(
  db: Database,
  titles: readonly string[],
  vectors: Vectors,
  version: number,
): Promise<Neighbour[][]> {
  const [name, space] = version === 1 ? ["match_peliculas", ADA] : ["match_peliculas_v2", SMALL];
  const lists: Neighbour[][] = [];
  for (const [index, title] of titles.entries()) {
    const rows = (await db.rpc(name, {
      query_embedding: `[${vectors[title]?.join(",")}]`,
      match_threshold: null,
      match_count: 11,
      query_space: space,
    })) as Neighbour[];
    lists.push(rows.filter(({ id }) => id !== index + 1).slice(0, 10));
  }
  return lists;
}

/** The cosine similarity of each pair of titles; the vectors have length 1. */
function pairs(titles: readonly string[], vectors: Vectors): number[] {
  const list: number[] = [];
  for (const [index, title] of titles.entries()) {
    for (const other of titles.slice(index + 1)) {
      const left = vectors[title] ?? [];
      const right = vectors[other] ?? [];
      list.push(left.reduce((sum, value, at) => sum + value * (right[at] ?? 0), 0));
    }
  }
  return list;
}

/** The value below which a share of a list lies (nearest rank). */
function quantile(list: readonly number[], share: number): number {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0;
}
