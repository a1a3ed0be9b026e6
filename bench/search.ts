/**
 * What a search costs: the match RPCs of course_content, of 384 and of 1536 dimensions, in SQL and over HTTP, against the query that somebody writes who
 * knows the index (the limit), against the function that is usually copied, which filters and sorts by an expression, and against an exact scan; in a
 * tenth, half and all of the rows. Everybody is `anon` and asks for ten rows, in SQL with prepared statements and binary vectors.
 */
import { createClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { encodeVector } from "../scripts/lib/binary-vectors.ts";
import { quantile } from "../scripts/lib/evaluation/statistics.ts";
import {
  atLeast,
  atMost,
  type Benchmark,
  below,
  type Figure,
  median,
  medianFigure,
  rounded,
  timed,
} from "./measure.ts";
import { SEED, type Searched, startSearchedCourse } from "./searched-course.ts";
import { GENERATOR } from "./vectors.ts";

const COUNT = 10;
const CALLERS = 4;
/** As add_version sets it; what is written by hand gets the same. */
const EF_SEARCH = 100;
const SCALES = {
  full: { queries: 100, rounds: 4, slow: 3 },
  small: { queries: 10, rounds: 1, slow: 1 },
};
/** What the RPC may take beyond the query by hand: a share of it, or milliseconds where these are more. */
const ALLOWED = { share: 1.15, ms: 0.15 };

/** Planned once, with nothing but the index to choose. */
const BY_HAND = `
  set role anon; set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set jit = off;
  select '[1]'::extensions.vector; set hnsw.ef_search = ${EF_SEARCH}; set hnsw.iterative_scan = relaxed_order`;

/** The two ways to write it; which is faster is found out. */
const HAND_WRITTEN = [
  (column: string) => `
    select id, title, content, url, content_type, 1 - (${column} operator(extensions.<=>) $1) as similarity
      from public.course_content order by ${column} operator(extensions.<=>) $1 limit $2`,
  (column: string) => `
    with nearest as materialized (
      select id, title, content, url, content_type, ${column} operator(extensions.<=>) $1 as distance
        from public.course_content order by ${column} operator(extensions.<=>) $1 limit $2)
    select id, title, content, url, content_type, 1 - distance as similarity from nearest order by distance`,
] as const;

const copiedFunction = ({ column, dimensions }: Searched) => `
  create function public.copied_${column}(query_embedding extensions.vector(${dimensions}), match_threshold float default 0.5, match_count int default 5)
  returns table (id uuid, title text, content text, url text, content_type text, similarity float)
  language plpgsql set search_path = public, extensions as $$
  begin
    return query
    select cc.id, cc.title, cc.content, cc.url, cc.content_type, 1 - (cc.${column} <=> query_embedding) as similarity
      from public.course_content cc
     where 1 - (cc.${column} <=> query_embedding) > match_threshold
     order by similarity desc
     limit match_count;
  end $$;
  grant execute on function public.copied_${column} to anon;`;

const exactScan = (column: string) => `
  select id, title, content, url, content_type, 1 - (${column} operator(extensions.<=>) $1) as similarity
    from (select * from public.course_content offset 0) t order by ${column} operator(extensions.<=>) $1 limit $2`;

export const search: Benchmark = async (server, rows = 100_000) => {
  const scale = rows < 10_000 ? SCALES.small : SCALES.full;
  await using course = await startSearchedCourse(server, { queries: scale.queries, count: COUNT });
  await course.owner.query(course.versions.map(copiedFunction).join(""));
  const connections = (settings: string) =>
    Promise.all(Array.from({ length: CALLERS }, () => course.connect(settings)));
  const [callers, experts] = [await connections("set role anon"), await connections(BY_HAND)];
  const supabase = createClient(course.stack.url, course.stack.publishableKey, {
    auth: { persistSession: false },
  });

  const contendersOf = ({ column, rpc, queries }: Searched) => {
    const parameters = queries.map(encodeVector);
    const inSql =
      (clients: readonly Client[], name: string, text: string): Contender =>
      async (query, caller) => {
        const { rows: found } = await (clients[caller] as Client).query<{ similarity: number }>({
          name: `${name} ${column}`,
          text,
          values: [parameters[query], COUNT],
        });
        return found.map(({ similarity }) => similarity);
      };
    const overHttp: Contender = async (query) => {
      const { data, error } = await supabase.rpc(rpc, {
        query_embedding: Array.from(queries[query] ?? []),
        match_threshold: null,
        match_count: COUNT,
      });
      if (error) throw error;
      return (data as { similarity: number }[]).map(({ similarity }) => similarity);
    };
    return {
      fast: {
        sql: inSql(callers, "rpc", `select * from public.${rpc}($1, null, $2)`),
        direct: inSql(experts, "direct", HAND_WRITTEN[0](column)),
        once: inSql(experts, "once", HAND_WRITTEN[1](column)),
      },
      http: overHttp,
      slow: {
        copied: inSql(callers, "copied", `select * from public.copied_${column}($1, -1, $2)`),
        exact: inSql(callers, "exact", exactScan(column)),
      },
    };
  };

  const found: Measured[] = [];
  for (const size of [rows / 10, rows / 2, rows].map(Math.round)) {
    await course.growTo(size);
    for (const version of course.versions) {
      const { fast, http, slow } = contendersOf(version);
      const times = await askInTurn(fast, scale.queries, scale.rounds);
      // Apart: what a client does for HTTP, its garbage above all, would be paid by whoever comes next.
      const httpTimes = await askInTurn({ http }, scale.queries, 1);
      const slowTimes = await askInTurn(slow, scale.slow, 1);
      const form = median(times.direct) < median(times.once) ? "direct" : "once";
      const rateOf = (contender: Contender) => searchesASecond(contender, scale.queries);
      const answers: number[][] = [];
      for (let query = 0; query < scale.queries; query += 1) answers.push(await fast.sql(query, 0));
      found.push({
        dimensions: version.dimensions,
        size,
        sql: { times: times.sql, rate: await rateOf(fast.sql) },
        hand: { times: times[form], rate: await rateOf(fast[form]) },
        http: { times: httpTimes.http, rate: await rateOf(http) },
        copied: { times: slowTimes.copied, rate: await searchesASecond(slow.copied, CALLERS) },
        exact: { times: slowTimes.exact, rate: await searchesASecond(slow.exact, CALLERS) },
        recall: version.truth.recall(answers),
        shape: version.truth.shape(),
      });
    }
  }

  const excess = found.map(({ sql, hand }) => {
    const limit = median(hand.times);
    return median(sql.times) / Math.max(limit * ALLOWED.share, limit + ALLOWED.ms);
  });
  const growth = course.versions.map(({ dimensions }) => {
    const [small, , large] = found.filter((one) => one.dimensions === dimensions);
    return median(large?.sql.times ?? []) / median(small?.sql.times ?? []);
  });
  return {
    about: `A search for the nearest ${COUNT} of all rows by \`match_course_content\` (384 dimensions) and \`match_course_content_v2\` (1536), without a threshold, as \`anon\`: in SQL, over HTTP by supabase-js, and against the faster of two prepared queries written by hand for the index, planned once; against the function that is usually copied (threshold on \`1 - (a <=> b)\`, \`order by similarity desc\`); and against an exact scan. ${scale.queries} queries. In each of ${scale.rounds} rounds each contender is asked all of them, in an order that turns; apart from these over HTTP, and by the copied function and the exact scan, which get fewer.`,
    data: `${GENERATOR}, seed ${SEED}; queries are ${scale.queries} further vectors. Texts of about 600 characters by md5 of the row's number.`,
    overHttp: true,
    rows,
    figures: Object.fromEntries(found.flatMap(figuresOf)),
    bars: [
      atMost(
        `time of the RPC in SQL over what is allowed: ${ALLOWED.share} times the query by hand, or ${ALLOWED.ms} ms more, at its worst`,
        Math.max(...excess),
        1,
      ),
      atLeast(
        "recall@10 of the RPC as it is, at its worst",
        Math.min(...found.map(({ recall }) => recall)),
        0.99,
      ),
      below("times as long as in a tenth of the rows, at its worst", Math.max(...growth), 3),
    ],
    charts: course.versions.map(({ dimensions }) =>
      curveOf(found.filter((one) => one.dimensions === dimensions)),
    ),
  };
};

/** Asks for the nearest to the query of this number, by one of several callers, and returns their similarities. */
type Contender = (query: number, caller: number) => Promise<number[]>;

interface Timed {
  /** Milliseconds of one search after another. */
  readonly times: readonly number[];
  /** Searches a second of all callers at once. */
  readonly rate: number;
}

interface Measured {
  readonly dimensions: number;
  readonly size: number;
  readonly sql: Timed;
  readonly hand: Timed;
  readonly http: Timed;
  readonly copied: Timed;
  readonly exact: Timed;
  readonly recall: number;
  readonly shape: { readonly nearest: number; readonly last: number; readonly dimension: number };
}

/** All queries by one contender after another, as they are asked in use, in an order that turns with the round; a first round is not counted. */
async function askInTurn<Name extends string>(
  contenders: Readonly<Record<Name, Contender>>,
  queries: number,
  rounds: number,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(contenders) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = -1; round < rounds; round += 1) {
    for (const at of names.keys()) {
      const name = names[(at + round + 1) % names.length];
      for (let query = 0; name !== undefined && query < queries; query += 1) {
        const took = await timed(() => contenders[name](query, 0));
        if (round >= 0) times[name].push(took);
      }
    }
  }
  return times;
}

/** Of callers that each ask the next query as soon as they have an answer, until all are answered. */
async function searchesASecond(contender: Contender, queries: number): Promise<number> {
  let next = 0;
  const took = await timed(() =>
    Promise.all(
      Array.from({ length: CALLERS }, async (_, caller) => {
        while (next < queries) {
          const query = next;
          next += 1;
          await contender(query, caller);
        }
      }),
    ),
  );
  return (queries / took) * 1000;
}

function figuresOf({
  dimensions,
  size,
  sql,
  hand,
  http,
  copied,
  exact,
  recall,
  shape,
}: Measured): [string, Figure][] {
  const where = `${dimensions} dimensions, ${size} rows`;
  const name = (what: string) => `${what}_${dimensions}_${size}`;
  const rateFigure = (rate: number): Figure => [
    rounded(rate),
    `${where}: searches a second of ${CALLERS} callers at once`,
  ];
  const inFull = (what: string, meaning: string, { times, rate }: Timed): [string, Figure][] => [
    [name(`${what}_ms`), medianFigure(times, `${where}: ${meaning}`)],
    [
      name(`${what}_p95_ms`),
      [rounded(quantile(times, 0.95)), `${where}: 95 of 100 of these took at most so long`],
    ],
    [name(`${what}_per_second`), rateFigure(rate)],
  ];
  return [
    ...inFull("rpc", "the match RPC in SQL", sql),
    ...inFull("by_hand", "the query by hand in SQL, the faster form", hand),
    ...inFull("http", "the match RPC over HTTP", http),
    ...inFull("copied", "the function that is usually copied, in SQL", copied).filter(
      ([figure]) => !figure.includes("p95"),
    ),
    ...inFull("exact", "an exact scan, in SQL", exact).filter(([figure]) => !figure.includes("p95")),
    [
      name("recall"),
      [rounded(recall), `${where}: share of the exact nearest ${COUNT}, by distance, that the RPC returns`],
    ],
    [
      name("intrinsic_dimension"),
      [
        rounded(shape.dimension),
        `${where}: of the vectors around a query; the greater, the harder for an index`,
      ],
    ],
    [
      name("tenth_similarity"),
      [
        rounded(shape.last),
        `${where}: similarity of the last of the exact nearest ${COUNT}; of the first ${rounded(shape.nearest)}`,
      ],
    ],
  ];
}

function curveOf(measured: readonly Measured[]) {
  const line = (label: string, of: (one: Measured) => Timed, ours = false) => ({
    label,
    ours,
    points: measured.map((one) => ({ x: one.size, y: rounded(median(of(one).times)) })),
  });
  return {
    kind: "lines" as const,
    name: `search-${measured[0]?.dimensions}`,
    title: `A search for ${COUNT} rows, ${measured[0]?.dimensions} dimensions`,
    x: { label: "rows", scale: "log" as const },
    y: { label: "milliseconds, median", scale: "log" as const },
    lines: [
      line("match RPC in SQL", ({ sql }) => sql, true),
      line("match RPC over HTTP", ({ http }) => http, true),
      line("written by hand", ({ hand }) => hand),
      line("usually copied", ({ copied }) => copied),
      line("exact scan", ({ exact }) => exact),
    ],
  };
}
