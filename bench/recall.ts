/**
 * How much of the exact answer an index finds, and how long it takes, by ef_search: match RPCs over vector(1536) and halfvec(3072), each ef_search set as an
 * operator sets it. The recommended one follows by a rule; the default, which a version has when it is made, has to reach it.
 */
import { readFile } from "node:fs/promises";
import type { Client } from "pg";
import { encodeVector, encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import {
  atLeast,
  atMost,
  type Benchmark,
  type Figure,
  median,
  medianFigure,
  rounded,
  timed,
} from "./measure.ts";
import { Exact, GENERATOR, take, topicVectors } from "./vectors.ts";

const EF_SEARCHES = [10, 20, 40, 60, 80, 100, 150, 200, 400];
const BOUND = 0.99;
const COUNT = 10;
const SEED = 1;
const ROUNDS = 3;
const CHUNK = 1_000;
const TITLES = new URL("../examples/peliculas/peliculas_text-embedding-3-small-1536.json", import.meta.url);

interface Kind {
  readonly type: "vector" | "halfvec";
  readonly dimensions: number;
  readonly model: string;
  /** What rounding takes from a similarity. */
  readonly tolerance: number;
}

const KINDS: readonly Kind[] = [
  { type: "vector", dimensions: 1536, model: "text-embedding-3-small", tolerance: 1e-6 },
  { type: "halfvec", dimensions: 3072, model: "text-embedding-3-large", tolerance: 1e-4 },
];

const schema = (table: string, { type, dimensions, model }: Kind) => `
  create table public.${table} (id bigint generated always as identity primary key, title text not null, embedding extensions.${type}(${dimensions}));
  create function reembed.${table}_input(r public.${table}) returns text language sql immutable set search_path = '' as $$ select r.title $$;
  do $$ begin
    perform reembed.add_space('openai', '${model}', ${dimensions});
    perform reembed.add_collection('${table}', 'public.${table}', array['id']);
    perform reembed.add_version('${table}', 'openai/${model}@${dimensions}', 'embedding', 'reembed.${table}_input');
  end $$`;

export const recall: Benchmark = async (server, rows = 50_000) => {
  const queries = rows < 10_000 ? 10 : 100;
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      await client.query("set maintenance_work_mem = '2GB'");
      const measured: Measured[] = [];
      for (const kind of KINDS) measured.push(await measure(client, kind, rows, queries));
      const reaches = (ef: number) =>
        measured.every(({ curve }) => curve.some((point) => point.ef === ef && point.recall >= BOUND));
      // More than any that was tried, where none is enough.
      const recommended = EF_SEARCHES.find(reaches) ?? 1_000;
      const byDefault = Math.min(...measured.map(({ byDefault }) => byDefault));
      return {
        about: `Recall@${COUNT} and time of the match RPC by ef_search, which \`reembed.set_ef_search\` sets for a version; ${queries} queries, ${ROUNDS} times each, the order of ef_search turned. The recommended one is the least of those tried at which recall@${COUNT} is ${BOUND} or more for both types; the default has to be at least that.`,
        data: `${GENERATOR}, seed ${SEED}; queries are ${queries} further vectors. For correctness alone: 62 real vectors of text-embedding-3-small, examples/peliculas.`,
        rows,
        figures: {
          recommended_ef_search: [recommended, "by the rule above"],
          default_ef_search: [byDefault, "of a version that is made"],
          real_titles_recall: [
            await recallOfTitles(client),
            `share of the exact nearest ${COUNT} of each of 62 real vectors that the RPC returns`,
          ],
          ...Object.fromEntries(measured.flatMap(figuresOf)),
        },
        bars: [
          ...measured.map(({ kind, curve, byDefault: ef }) =>
            atLeast(
              `recall@${COUNT} at the default, ${kind.type}(${kind.dimensions})`,
              curve.find((point) => point.ef === ef)?.recall ?? 0,
              BOUND,
            ),
          ),
          atMost("the recommended ef_search, which the default reaches", recommended, byDefault),
        ],
        charts: [
          {
            kind: "lines",
            name: "recall",
            title: `Recall@${COUNT} by the time of a search, ${rows} rows; beside the points: ef_search`,
            x: { label: "milliseconds, median", scale: "log" },
            y: { label: `recall@${COUNT}`, scale: "linear" },
            lines: measured.map(({ kind, curve }) => ({
              label: `${kind.type}(${kind.dimensions})`,
              ours: kind.type === "vector",
              points: curve.map(({ ef, times, recall }) => ({
                x: rounded(median(times)),
                y: rounded(recall),
                note: String(ef),
              })),
            })),
          },
        ],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};

interface Point {
  readonly ef: number;
  readonly times: number[];
  recall: number;
}

interface Measured {
  readonly kind: Kind;
  readonly byDefault: number;
  readonly curve: readonly Point[];
  readonly dimension: number;
}

async function measure(client: Client, kind: Kind, rows: number, queries: number): Promise<Measured> {
  const table = `recall_${kind.type}`;
  await client.query(schema(table, kind));
  const vectors = topicVectors(kind.dimensions, SEED);
  const asked = take(vectors, queries);
  const truth = new Exact(asked, COUNT);
  for (let stored = 0; stored < rows; stored += CHUNK) {
    const chunk = take(vectors, Math.min(CHUNK, rows - stored));
    for (const vector of chunk) truth.add(vector);
    await insert(client, table, kind, chunk);
  }
  await buildIndex(client, table);
  const { rows: versions } = await client.query<{ ef: number }>(
    "select (reembed.version_numbered($1, 1)).ef_search as ef",
    [table],
  );
  const curve: Point[] = EF_SEARCHES.map((ef) => ({ ef, times: [], recall: 0 }));
  const parameters = asked.map(encodeVector);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const at of curve.keys()) {
      const point = curve[(at + round) % curve.length];
      if (point === undefined) continue;
      await client.query("select reembed.set_ef_search($1, 1, $2)", [table, point.ef]);
      const found: number[][] = [];
      // The first call of a function that was made anew compiles it.
      await nearest(client, table, parameters[0]);
      for (const parameter of parameters) {
        const took = await timed(async () => void found.push(await nearest(client, table, parameter)));
        point.times.push(took);
      }
      point.recall = truth.recall(found, kind.tolerance);
    }
  }
  return { kind, byDefault: versions[0]?.ef ?? 0, curve, dimension: truth.shape().dimension };
}

async function insert(
  client: Client,
  table: string,
  kind: Kind,
  vectors: readonly Float32Array[],
): Promise<void> {
  const { rows } = await client.query<{ oid: number }>("select 'extensions.vector'::regtype::oid as oid");
  await client.query(
    `insert into public.${table} (title, embedding) select 'Section', v::extensions.${kind.type}(${kind.dimensions}) from unnest($1::extensions.vector[]) v`,
    [encodeVectorArray(rows[0]?.oid ?? 0, vectors)],
  );
}

async function buildIndex(client: Client, table: string): Promise<void> {
  const { rows } = await client.query<{ sql: string }>(
    "select reembed.index_sql($1, 1, build_concurrently => false) as sql",
    [table],
  );
  await client.query(rows[0]?.sql ?? "");
  await client.query(`vacuum analyze public.${table}`);
}

async function nearest(client: Client, table: string, query: Buffer | undefined): Promise<number[]> {
  const { rows } = await client.query<{ similarity: number }>({
    name: `nearest in ${table}`,
    text: `select similarity from public.match_${table}($1, null, ${COUNT})`,
    values: [query],
  });
  return rows.map(({ similarity }) => similarity);
}

/** Each real vector asks for its own nearest, at the default. */
async function recallOfTitles(client: Client): Promise<number> {
  const kind = {
    type: "vector",
    dimensions: 1536,
    model: "text-embedding-3-small",
    tolerance: 1e-6,
  } as const;
  const titles = JSON.parse(await readFile(TITLES, "utf8")) as Record<string, number[]>;
  const vectors = Object.values(titles).map((vector) => Float32Array.from(vector));
  await client.query(schema("recall_titles", kind));
  await insert(client, "recall_titles", kind, vectors);
  await buildIndex(client, "recall_titles");
  const truth = new Exact(vectors, COUNT);
  for (const vector of vectors) truth.add(vector);
  const found: number[][] = [];
  for (const vector of vectors) found.push(await nearest(client, "recall_titles", encodeVector(vector)));
  return rounded(truth.recall(found, 1e-5));
}

function figuresOf({ kind, curve, dimension }: Measured): [string, Figure][] {
  const type = `${kind.type}(${kind.dimensions})`;
  return [
    [
      `intrinsic_dimension_${kind.dimensions}`,
      [rounded(dimension), `${type}: of the vectors around a query; the greater, the harder for an index`],
    ],
    ...curve.flatMap(({ ef, times, recall }): [string, Figure][] => [
      [
        `recall_${kind.dimensions}_ef_${ef}`,
        [rounded(recall), `${type}, ef_search ${ef}: share of the exact nearest ${COUNT}, by distance`],
      ],
      [
        `ms_${kind.dimensions}_ef_${ef}`,
        medianFigure(times, `${type}, ef_search ${ef}: the match RPC in SQL`),
      ],
    ]),
  ];
}
