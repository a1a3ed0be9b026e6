/**
 * Two moves one after another as an operator types them: from ada-002 to 3-small, both 1536 wide, which only the space's name tells apart, and from there
 * to a third version in half precision.
 */
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runJson } from "../support/cli.ts";
import { violations } from "../support/collection.ts";
import { embed, MODELS } from "../support/fake-openai/models.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

const ADA = "openai/text-embedding-ada-002@1536";
const SMALL = "openai/text-embedding-3-small@1536";
const LARGE = "openai/text-embedding-3-large@3072";
const ROWS = 40;
const QUERY = "How are conflicts between branches solved?";

const SCHEMA = `
  create table public.posts (id bigint primary key, title text not null, embedding extensions.vector(1536), embedding_2 extensions.vector(1536));
  create function reembed.posts_input(r public.posts) returns text language sql immutable set search_path = '' as $$ select r.title $$;
  select reembed.add_space('openai', 'text-embedding-ada-002', 1536, 0.10), reembed.add_space('openai', 'text-embedding-3-small', 1536, 0.02);
  select reembed.add_collection('posts', 'public.posts', array['id', 'title']);
  select reembed.add_version('posts', '${ADA}', 'embedding', 'reembed.posts_input');
  select reembed.add_version('posts', '${SMALL}', 'embedding_2', 'reembed.posts_input');
  insert into public.posts (id, title)
  select n, format('Article %s: how %s and %s meet', n, (array['branches', 'commits', 'remotes', 'licences'])[n % 4 + 1], (array['conflicts', 'tags', 'hosting', 'history', 'citation'])[n % 5 + 1])
    from generate_series(1, ${ROWS}) n;`;

const THIRD = `
  alter table public.posts add column embedding_3 extensions.halfvec(3072);
  select reembed.add_space('openai', 'text-embedding-3-large', 3072, 0.13);
  select reembed.add_version('posts', '${LARGE}', 'embedding_3', 'reembed.posts_input');`;

describePostgres("moves one after another", () => {
  let client: Client;
  let openai: FakeOpenAI;
  let env: Record<string, string>;
  let project: string;

  beforeAll(async () => {
    const [database, fake, folder] = await Promise.all([
      createDatabase(),
      startFakeOpenAI(),
      mkdtemp(join(tmpdir(), "reembed-moves-")),
    ]);
    [openai, project] = [fake, folder];
    await mkdir(join(project, "supabase", "migrations"), { recursive: true });
    client = await connect(database.url);
    env = { DATABASE_URL: database.url, OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    await client.query(SCHEMA);
  });
  afterAll(async () => {
    await client?.end();
    await openai?.close();
    if (project) await rm(project, { recursive: true });
  });

  const reembed = async (command: string, ...args: string[]) => {
    const { code, answer, stderr } = await runJson([command, ...args, "--collection", "posts"], env);
    expect({ command, code, answer, stderr }).toMatchObject({ code: 0 });
    return answer;
  };
  const backfill = async (version: number) =>
    expect(await reembed("backfill", "--version", String(version))).toMatchObject({
      state: "ready",
      done: ROWS,
      failed: 0,
    });
  const finalize = async (version: number) => {
    const { migration } = await reembed("finalize", "--version", String(version), "--project", project);
    await client.query("begin");
    await client.query(await readFile(join(project, String(migration)), "utf8"));
    await client.query("commit");
  };
  /** That a search answers from this version, in its space: every similarity is that of the space's own model. */
  const expectAnswer = async (version: number, space: string, ...args: string[]) => {
    const answer = await reembed("search", QUERY, "--count", "5", ...args);
    expect(answer).toMatchObject({ version, space });
    const [, name] = /\/(.*)@/.exec(space) ?? [];
    const model = MODELS.find((candidate) => candidate.name === name);
    if (model === undefined) throw new Error(`the fake does not know ${space}`);
    const vectorOf = (text: string) => embed(model, text, model.dimensions);
    const results = answer.results as { title: string; similarity: number }[];
    expect(results).toHaveLength(5);
    for (const { title, similarity } of results)
      expect(similarity).toBeCloseTo(cosine(vectorOf(QUERY), vectorOf(title)), 3);
  };

  test("from ada-002 to 3-small at the same width, back, and again", async () => {
    await backfill(1);
    await backfill(2);
    expect(await reembed("evaluate")).toMatchObject({
      baseline: { version: 1, space: ADA },
      candidate: { version: 2, space: SMALL },
    });
    await expectAnswer(1, ADA);
    expect(await reembed("cutover", "--version", "2")).toMatchObject({
      from: 1,
      to: 2,
      stale: 0,
      switched: true,
    });
    await expectAnswer(2, SMALL);
    await expectAnswer(1, ADA, "--version", "1");
    expect(await reembed("rollback")).toMatchObject({ from: 2, to: 1, stale: 0 });
    await expectAnswer(1, ADA);
    await expectAnswer(2, SMALL, "--version", "2");
    await reembed("cutover", "--version", "2");
    await finalize(1);
    await expectAnswer(2, SMALL);
    expect(await violations(client)).toEqual([]);
  });

  test("and on to a third version, whose way back is the second", async () => {
    await client.query(THIRD);
    await backfill(3);
    expect(await reembed("evaluate")).toMatchObject({
      baseline: { version: 2 },
      candidate: { version: 3, space: LARGE },
    });
    await reembed("cutover", "--version", "3");
    await expectAnswer(3, LARGE);
    expect(await reembed("rollback")).toMatchObject({ from: 3, to: 2, stale: 0 });
    await expectAnswer(2, SMALL);
    await reembed("cutover", "--version", "3");
    await finalize(2);
    await expectAnswer(3, LARGE);
    expect(await violations(client)).toEqual([]);
    const { rows } = await client.query(
      "select attname as name from pg_attribute where attrelid = 'public.posts'::regclass and attname like 'embedding%' and not attisdropped",
    );
    expect(rows).toEqual([{ name: "embedding_3" }]);
  });
});

function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = a.reduce((sum, value, axis) => sum + value * (b[axis] ?? Number.NaN), 0);
  return dot / (Math.hypot(...a) * Math.hypot(...b));
}
