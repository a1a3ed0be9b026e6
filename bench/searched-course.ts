/**
 * course_content with vectors in both of its versions, as it is searched: a table that grows, with its indexes built anew at each size, behind the stack that
 * answers over HTTP; and what an exact search returns.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { type Stack, startStack } from "../scripts/stack/index.ts";
import { Exact, take, topicVectors } from "./vectors.ts";

export interface Searched {
  readonly number: number;
  readonly dimensions: number;
  readonly column: string;
  readonly rpc: "match_course_content" | "match_course_content_v2";
  readonly queries: readonly Float32Array[];
  /** Of the rows that are stored. */
  readonly truth: Exact;
}

export interface SearchedCourse {
  readonly stack: Stack;
  readonly versions: readonly Searched[];
  /** As the owner of the table, whose memory is enough for any index here. */
  readonly owner: Client;
  /** A connection of its own, after these settings. */
  connect(settings: string): Promise<Client>;
  /** Adds rows until there are so many, and builds both indexes. */
  growTo(rows: number): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Of the vectors; the second version's are of the same seed and other width. */
export const SEED = 1;
const CHUNK = 1_000;
const NO_TICK_MS = 3_600_000;

/** The rows come without jobs, and the indexes when the rows are there. */
const EMPTY = `
  truncate public.course_content;
  alter table public.course_content disable trigger user;
  drop index public.course_content_words_idx;`;

/** About 600 characters a row, as a section of a page has. $3 rows are there already. */
const INSERT = `
  insert into public.course_content (title, content, url, content_type, embedding, embedding_1536)
  select 'Section ' || n, repeat(md5(n::text) || ' ', 18), 'https://example.org/' || n, 'section', g.narrow, g.wide
    from unnest($1::extensions.vector[], $2::extensions.vector[]) with ordinality g(narrow, wide, at),
         lateral (select $3::bigint + at as n) numbered`;

/**
 * @param server the superuser URL of a PostgreSQL on loopback
 * @param queries how many queries, of the same distribution as the rows and none of them
 * @param count how many rows an exact search returns
 */
export async function startSearchedCourse(
  server: string,
  { queries, count }: { queries: number; count: number },
): Promise<SearchedCourse> {
  await using starting = new AsyncDisposableStack();
  const name = await cloneDatabase(server, { defaults: "new", migrations: null });
  starting.defer(() => dropDatabase(server, name));
  const url = databaseUrl(server, name, "postgres");
  const stateDirectory = await mkdtemp(join(tmpdir(), "search-bench-"));
  starting.defer(() => rm(stateDirectory, { recursive: true, force: true }));
  const stack = await startStack({ port: 0, database: { url }, stateDirectory, tickMs: NO_TICK_MS });
  starting.defer(() => stack.stop());
  const connect = async (settings: string) => {
    const client = new Client({ connectionString: url });
    // The database is dropped while the connection is closing.
    client.on("error", () => {});
    await client.connect();
    started.defer(() => client.end());
    await client.query(settings);
    return client;
  };
  const started = starting.move();
  const owner = await connect(`set maintenance_work_mem = '2GB'; ${EMPTY}`);
  const { rows: types } = await owner.query<{ oid: number }>(
    "select 'extensions.vector'::regtype::oid as oid",
  );
  const vectorType = types[0]?.oid ?? 0;
  const sources = (
    [
      { number: 1, dimensions: 384, column: "embedding", rpc: "match_course_content" },
      { number: 2, dimensions: 1536, column: "embedding_1536", rpc: "match_course_content_v2" },
    ] as const
  ).map((version) => {
    const vectors = topicVectors(version.dimensions, SEED);
    const asked = take(vectors, queries);
    return { vectors, version: { ...version, queries: asked, truth: new Exact(asked, count) } };
  });

  let stored = 0;
  const addRows = async (rows: number) => {
    const chunks = sources.map(({ vectors, version }) => {
      const chunk = take(vectors, rows);
      for (const vector of chunk) version.truth.add(vector);
      return encodeVectorArray(vectorType, chunk);
    });
    await owner.query(INSERT, [...chunks, stored]);
    stored += rows;
  };

  return {
    stack,
    owner,
    versions: sources.map(({ version }) => version),
    connect,
    async growTo(rows) {
      await owner.query(
        `drop index if exists public.course_content_embedding_hnsw, public.course_content_embedding_1536_hnsw`,
      );
      while (stored < rows) await addRows(Math.min(CHUNK, rows - stored));
      const { rows: indexes } = await owner.query<{ sql: string }>(
        "select reembed.index_sql('course_content', n, build_concurrently => false) as sql from generate_series(1, 2) n",
      );
      for (const { sql } of indexes) await owner.query(sql);
      await owner.query("vacuum analyze public.course_content");
    },
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}
