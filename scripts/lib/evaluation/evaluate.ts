/**
 * Compares two versions of a collection on the same queries: the verdict that a cutover's gates look at. Everything is measured through the match RPCs
 * that the application calls.
 */
import { z } from "zod";
import type { Embedder, Space } from "../../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import type { Database } from "../connection.ts";
import { listVersions, type VersionEntry } from "../targets.ts";
import { overlapAt, rankBiasedOverlap } from "./change.ts";
import { embedQueries } from "./embed-queries.ts";
import { recallByDistance } from "./index-recall.ts";
import type { EvaluatedQuery, QuerySet, QuerySource } from "./query-set.ts";
import { type Judgments, ndcg, recallAt, reciprocalRank } from "./ranking.ts";
import { mean, pairedBootstrap, quantile } from "./statistics.ts";
import { type CarriedThreshold, carriedThreshold } from "./threshold.ts";

/** The rank at which lists are judged and compared. */
const CUT = 10;
/** Rows a query that thresholds and rank-biased overlap look at. A search of so many reads no more of the index than one of ten. */
const DEPTH = 50;
/** An exact scan reads the whole table: for so many queries it is worth it. */
const MOST_EXACT = 100;
/** Below so many rows a scan of the table is as fast as the index, so that none is needed. */
const INDEX_MATTERS_FROM = 2_000;
/** Law 10 applies to a stored verdict, too: it holds figures, no texts. */
const QUALITY = ["ndcg@10", "mrr@10", "recall@1", "recall@5", "recall@10"] as const;

export interface EvaluateOptions {
  readonly collection: string;
  readonly queries: QuerySet;
  /** Numbers of versions; see `chooseVersions` for what is taken where they are left out. */
  readonly baseline?: number | undefined;
  readonly candidate?: number | undefined;
  /** Judges the candidate alone: for a baseline whose provider cannot be called from here. Nothing is compared then. */
  readonly withoutBaseline?: boolean | undefined;
  /** Repeats the bootstrap's samples. */
  readonly seed: number;
  readonly actor?: string | undefined;
  /** Searches done and in all. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** One version as it was measured. */
export interface VersionMeasures {
  readonly version: number;
  readonly space: string;
  readonly active: boolean;
  readonly state: string;
  /** The collection's rows, and what the version has of them. */
  readonly rows: number;
  readonly embedded: number;
  readonly skipped: number;
  readonly truncated: number;
  readonly pending: number;
  readonly failed: number;
  /** The share (0 to 1) of rows with a vector or a reason why they have none. */
  readonly coverage: number;
  /** The similarity above which its RPC returns rows by default. */
  readonly threshold: number;
  readonly has_index: boolean;
  /** Null where the version was not asked. */
  readonly searches: SearchMeasures | null;
}

/** What a version's searches were like. */
export interface SearchMeasures {
  readonly index: {
    /** The share of searches that read it. */
    readonly used: number;
    /** Recall at 10 against an exact scan, by distance, over so many queries; null where no search read an index. */
    readonly recall: number | null;
    readonly compared: number;
  };
  /** Of a search for ten rows, as the database took it, with what it needs in memory. */
  readonly latency_ms: { readonly p50: number; readonly p95: number };
}

/** Means of a measure over the judged queries. */
export interface QualityMeasure {
  readonly candidate: number;
  /** difference: candidate minus baseline, with its paired bootstrap interval of 95 %. Null where the baseline was not asked. */
  readonly against: {
    readonly baseline: number;
    readonly difference: number;
    readonly low: number;
    readonly high: number;
  } | null;
}

export interface Hit {
  readonly row_id: string;
  readonly similarity: number;
}

/** One query and what both versions answered, best first, at most ten rows. */
export interface QueryOutcome {
  readonly query: string;
  /** Null where nobody has said which rows answer it. */
  readonly relevant: readonly string[] | null;
  /** nDCG@10; null where the query is not judged. */
  readonly ndcg: { readonly baseline: number | null; readonly candidate: number } | null;
  /** Null where the baseline was not asked. */
  readonly change: { readonly overlap: number; readonly rbo: number } | null;
  readonly baseline: readonly Hit[] | null;
  readonly candidate: readonly Hit[];
}

/** The figures of an evaluation, as `reembed.evaluations.metrics` keeps them. */
export interface Metrics {
  readonly source: QuerySource;
  readonly queries: number;
  readonly judged_queries: number;
  /** Rows that judgments name and the collection does not have. */
  readonly unknown_rows: number;
  readonly seed: number;
  readonly baseline: VersionMeasures;
  readonly candidate: VersionMeasures;
  /** Null where no query is judged. */
  readonly quality: Readonly<Record<(typeof QUALITY)[number], QualityMeasure>> | null;
  /** Means over all queries. They detect change and say nothing of quality. Null where the baseline was not asked. */
  readonly change: { readonly "overlap@10": number; readonly rbo: number } | null;
  /** Which threshold of the candidate keeps as many results as the baseline's own does. Null where the baseline was not asked. */
  readonly threshold: CarriedThreshold | null;
  /** What embedding the queries took; those that the query cache knew took nothing. */
  readonly provider: { readonly requests: number; readonly tokens: number };
}

export interface Evaluation extends Metrics {
  readonly id: number;
  readonly collection: string;
  readonly at: string;
  /** Null: the candidate's searches read no index, and are exact. */
  readonly index_recall: number | null;
  /** Null: no search read the index, and the table is so small that none is needed. */
  readonly index_used: boolean | null;
  /** Baseline minus candidate, so that a fall is above 0; null where no query is judged or the baseline was not asked. */
  readonly ndcg_drop: { readonly mean: number; readonly low: number; readonly high: number } | null;
  /** Not stored. */
  readonly outcomes: readonly QueryOutcome[];
}

/**
 * The versions that are compared: by default the active one with the newest other one.
 * @throws ReembedError `unknown_collection`, `unknown_version`, `version_retired`, `invalid_request`; `refused` where there is nothing to compare
 */
export async function chooseVersions(
  db: Database,
  { collection, baseline, candidate }: Pick<EvaluateOptions, "collection" | "baseline" | "candidate">,
): Promise<{ readonly baseline: VersionEntry; readonly candidate: VersionEntry }> {
  const [active] = await db.query<{ number: number }>(
    "select v.number from reembed.collection_named($1) c join reembed.versions v on v.id = c.active_version",
    [collection],
  );
  const versions = await listVersions(db, { collection });
  const numbered = async (number: number) => {
    await db.query("select reembed.version_numbered($1, $2)", [collection, number]);
    const found = versions.find(({ version }) => version === number);
    if (found !== undefined) return found;
    throw new ReembedError(
      "version_retired",
      `version ${number} of ${collection} was finalized`,
      "Compare versions that still have their vectors.",
    );
  };
  const newestBut = (number: number | undefined) => versions.findLast(({ version }) => version !== number);
  const wanted = candidate === undefined ? undefined : await numbered(candidate);
  const old =
    baseline !== undefined
      ? await numbered(baseline)
      : active === undefined || active.number === candidate
        ? newestBut(candidate)
        : await numbered(active.number);
  const fresh = wanted ?? newestBut(old?.version);
  if (old === undefined || fresh === undefined) {
    throw new ReembedError(
      "refused",
      `${collection} has one version only: there is nothing to compare`,
      "Add a version and load it.",
    );
  }
  if (old.version === fresh.version) {
    throw new ReembedError(
      "invalid_request",
      `v${old.version} is both baseline and candidate: there is nothing to compare`,
      "Name another version with --baseline or --candidate.",
    );
  }
  return { baseline: old, candidate: fresh };
}

/**
 * Embeds the queries in both spaces, searches both versions, compares what comes back and stores the verdict.
 * @throws ReembedError `refused` where a version has no vectors yet or its search does not return the key, `budget_spent`, and those of the provider
 */
export async function evaluate(
  db: Database,
  embedderFor: (space: Space) => Embedder,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { collection, seed } = options;
  const { queries, source, unknownRows } = options.queries;
  const versions = await chooseVersions(db, options);
  const sides = {
    baseline: await sideOf(db, versions.baseline),
    candidate: await sideOf(db, versions.candidate),
  };
  const asked = options.withoutBaseline ? [sides.candidate] : [sides.baseline, sides.candidate];
  for (const { entry, counts: has } of asked) {
    if (has.embedded > 0) continue;
    throw new ReembedError(
      "refused",
      `v${entry.version} of ${collection} has no vectors yet`,
      `Load it first: reembed backfill --collection ${collection} --version ${entry.version}`,
    );
  }

  const provider = { requests: 0, tokens: 0 };
  const vectors = new Map<string, readonly string[]>();
  for (const { entry } of asked) {
    if (vectors.has(entry.space.id)) continue;
    const embedded = await embedQueries(
      db,
      embedderFor,
      entry.space,
      queries.map(({ query }) => query),
    ).catch((error: unknown) => {
      throw entry === versions.baseline ? withWayOut(error, versions.candidate) : error;
    });
    vectors.set(entry.space.id, embedded.vectors);
    provider.requests += embedded.requests;
    provider.tokens += embedded.tokens;
  }

  const answers = new Map<Side, Answer[]>(asked.map((side) => [side, []]));
  for (const index of queries.keys()) {
    options.onProgress?.(index, queries.length);
    // In turns, so that neither version is always the one that warms the machine up.
    for (const side of index % 2 === 0 ? asked : asked.toReversed()) {
      const vector = vectors.get(side.entry.space.id)?.[index] ?? "";
      answers.get(side)?.push(await answerOf(db, side.entry.id, vector, index < MOST_EXACT));
    }
  }
  options.onProgress?.(queries.length, queries.length);
  const fresh = answers.get(sides.candidate) ?? [];
  const old = answers.get(sides.baseline) ?? null;

  const asks = queries.flatMap((query, index): Ask[] => {
    const candidate = fresh[index];
    return candidate === undefined ? [] : [{ ...query, candidate, baseline: old?.[index] ?? null }];
  });
  const outcomes = asks.map(outcomeOf);
  const judged = asks.flatMap(({ judgments, ...ask }) => (judgments === null ? [] : [{ ...ask, judgments }]));
  const quality = judged.length === 0 ? null : qualityOf(judged, seed);
  const changes = outcomes.flatMap(({ change }) => change ?? []);
  const metrics: Metrics = {
    source,
    queries: queries.length,
    judged_queries: judged.length,
    unknown_rows: unknownRows,
    seed,
    baseline: measuresOf(sides.baseline, old),
    candidate: measuresOf(sides.candidate, fresh),
    quality,
    change:
      old === null
        ? null
        : {
            "overlap@10": mean(changes.map(({ overlap }) => overlap)),
            rbo: mean(changes.map(({ rbo }) => rbo)),
          },
    threshold:
      old === null
        ? null
        : carriedThreshold(
            old.flatMap(({ similarities }) => similarities),
            sides.baseline.threshold,
            fresh.flatMap(({ similarities }) => similarities),
          ),
    provider,
  };
  const { used, recall } = searchMeasuresOf(fresh).index;
  const fall = quality?.["ndcg@10"].against ?? null;
  const verdict = {
    index_recall: recall,
    index_used: used === 1 ? true : metrics.candidate.rows < INDEX_MATTERS_FROM ? null : false,
    // Without the negative zero that minus makes of 0.
    ndcg_drop: fall === null ? null : { mean: 0 - fall.difference, low: 0 - fall.high, high: 0 - fall.low },
  };
  return { ...(await store(db, options, metrics, verdict)), collection, ...metrics, ...verdict, outcomes };
}

/** Where a provider is not to be called from here, such as one that only an edge function has, the candidate can be judged alone. */
function withWayOut(error: unknown, candidate: VersionEntry): unknown {
  if (!(error instanceof ReembedError && error.code === "provider_unavailable")) return error;
  const hint = `${error.hint} Or judge v${candidate.version} alone, with --without-baseline.`.trim();
  return new ReembedError(error.code, error.message, hint, { cause: error });
}

/**
 * The queries whose answers changed most: by nDCG where it is known, then by rank-biased overlap. Where nothing was compared, those that are answered
 * worst.
 */
export function mostChanged(outcomes: readonly QueryOutcome[], count: number): QueryOutcome[] {
  const difference = ({ ndcg: judged }: QueryOutcome) => {
    if (judged === null) return 0;
    return judged.baseline === null ? 1 - judged.candidate : Math.abs(judged.candidate - judged.baseline);
  };
  return outcomes
    .filter(({ change }) => change === null || change.rbo < 1 - 1e-9)
    .sort((a, b) => difference(b) - difference(a) || (a.change?.rbo ?? 0) - (b.change?.rbo ?? 0))
    .slice(0, count);
}

const texts = z.record(z.string(), z.string());

/** The beginnings of the rows that these queries found, by row id, for a person to read. */
export async function readRows(
  db: Database,
  { collection, candidate }: Pick<Evaluation, "collection" | "candidate">,
  outcomes: readonly QueryOutcome[],
): Promise<ReadonlyMap<string, string>> {
  const ids = new Set(
    outcomes.flatMap(({ baseline, candidate: found }) =>
      [...(baseline ?? []), ...found].map(({ row_id }) => row_id),
    ),
  );
  const [row] = await db.query<{ texts: unknown }>("select reembed.describe_rows($1, $2, $3) as texts", [
    collection,
    candidate.version,
    [...ids],
  ]);
  return new Map(Object.entries(texts.parse(row?.texts)));
}

const counts = z.object({
  rows: z.number(),
  embedded: z.number(),
  skipped: z.number(),
  truncated: z.number(),
  coverage: z.number(),
  pending: z.number(),
  failed: z.number(),
  has_index: z.boolean(),
});

interface Side {
  readonly entry: VersionEntry;
  readonly state: string;
  readonly active: boolean;
  readonly threshold: number;
  readonly counts: z.infer<typeof counts>;
}

async function sideOf(db: Database, entry: VersionEntry): Promise<Side> {
  const [row] = await db.query<{ state: string; active: boolean; threshold: number; counts: unknown }>(
    `select v.state, v.id = c.active_version as active, v.match_threshold as threshold, reembed.version_counts(c.name, v.number) as counts
       from reembed.versions v join reembed.collections c on c.id = v.collection_id where v.id = $1`,
    [entry.id],
  );
  if (row === undefined)
    throw new ReembedError("unknown_version", `${entry.collection} has no version ${entry.version}`, "");
  return {
    entry,
    state: row.state,
    active: row.active,
    threshold: row.threshold,
    counts: counts.parse(row.counts),
  };
}

const measured = z.object({
  row_ids: z.array(z.string()),
  similarities: z.array(z.number()),
  ms: z.number(),
  index_scans: z.number(),
});

interface Answer {
  readonly rowIds: readonly string[];
  readonly similarities: readonly number[];
  readonly ms: number;
  readonly readIndex: boolean;
  /** Recall at 10 of the index against an exact scan; null where no index was read, or no exact scan made. */
  readonly recall: number | null;
}

/** Asks one version one query: deep, which also brings its pages into memory, then as the application does, then exactly. */
async function answerOf(db: Database, versionId: number, vector: string, exactly: boolean): Promise<Answer> {
  const search = async (count: number, exact: boolean) => {
    const [row] = await db.query<{ answer: unknown }>(
      "select reembed.measured_search($1, $2, $3, $4) as answer",
      [versionId, vector, count, exact],
    );
    return measured.parse(row?.answer);
  };
  const deep = await search(DEPTH, false);
  const usual = await search(CUT, false);
  const readIndex = usual.index_scans > 0;
  const exact = readIndex && exactly ? await search(CUT, true) : undefined;
  return {
    rowIds: deep.row_ids,
    similarities: deep.similarities,
    ms: usual.ms,
    readIndex,
    recall: exact === undefined ? null : recallByDistance(usual.similarities, exact.similarities, CUT),
  };
}

function measuresOf(
  { entry, state, active, threshold, counts: has }: Side,
  answers: readonly Answer[] | null,
): VersionMeasures {
  return {
    version: entry.version,
    space: entry.space.id,
    active,
    state,
    threshold,
    ...has,
    searches: answers === null ? null : searchMeasuresOf(answers),
  };
}

function searchMeasuresOf(answers: readonly Answer[]): SearchMeasures {
  const recalls = answers.flatMap(({ recall }) => recall ?? []);
  const times = answers.map(({ ms }) => ms);
  return {
    index: {
      used: mean(answers.map(({ readIndex }) => (readIndex ? 1 : 0))),
      recall: recalls.length === 0 ? null : mean(recalls),
      compared: recalls.length,
    },
    latency_ms: { p50: quantile(times, 0.5), p95: quantile(times, 0.95) },
  };
}

/** A query with what was answered. */
interface Ask extends EvaluatedQuery {
  readonly candidate: Answer;
  readonly baseline: Answer | null;
}

function outcomeOf({ query, judgments, baseline, candidate }: Ask): QueryOutcome {
  const hits = ({ rowIds, similarities }: Answer): Hit[] =>
    rowIds.slice(0, CUT).map((row_id, index) => ({ row_id, similarity: similarities[index] ?? 0 }));
  return {
    query,
    relevant: judgments && [...judgments].filter(([, grade]) => grade > 0).map(([row]) => row),
    ndcg: judgments && {
      baseline: baseline && ndcg(baseline.rowIds, judgments, CUT),
      candidate: ndcg(candidate.rowIds, judgments, CUT),
    },
    change: baseline && {
      overlap: overlapAt(baseline.rowIds, candidate.rowIds, CUT),
      rbo: rankBiasedOverlap(baseline.rowIds, candidate.rowIds),
    },
    baseline: baseline && hits(baseline),
    candidate: hits(candidate),
  };
}

type JudgedAsk = Ask & { readonly judgments: Judgments };

function qualityOf(
  asks: readonly JudgedAsk[],
  seed: number,
): Readonly<Record<(typeof QUALITY)[number], QualityMeasure>> {
  const compare = (measure: (ranked: readonly string[], judgments: Judgments) => number): QualityMeasure => {
    const candidate = asks.map((ask) => measure(ask.candidate.rowIds, ask.judgments));
    const baseline = asks.flatMap((ask) =>
      ask.baseline === null ? [] : measure(ask.baseline.rowIds, ask.judgments),
    );
    if (baseline.length === 0) return { candidate: mean(candidate), against: null };
    const differences = candidate.map((value, index) => value - (baseline[index] ?? 0));
    return {
      candidate: mean(candidate),
      against: {
        baseline: mean(baseline),
        difference: mean(differences),
        ...pairedBootstrap(differences, { seed }),
      },
    };
  };
  return {
    "ndcg@10": compare((ranked, judgments) => ndcg(ranked, judgments, 10)),
    "mrr@10": compare((ranked, judgments) => reciprocalRank(ranked, judgments, 10)),
    "recall@1": compare((ranked, judgments) => recallAt(ranked, judgments, 1)),
    "recall@5": compare((ranked, judgments) => recallAt(ranked, judgments, 5)),
    "recall@10": compare((ranked, judgments) => recallAt(ranked, judgments, 10)),
  };
}

async function store(
  db: Database,
  { collection, actor }: EvaluateOptions,
  metrics: Metrics,
  { index_recall, index_used, ndcg_drop }: Pick<Evaluation, "index_recall" | "index_used" | "ndcg_drop">,
): Promise<{ id: number; at: string }> {
  const [stored] = await db.query<{ id: string }>(
    "select reembed.store_evaluation($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) as id",
    [
      collection,
      metrics.baseline.version,
      metrics.candidate.version,
      metrics.queries,
      ndcg_drop !== null,
      metrics.source,
      JSON.stringify(metrics),
      index_recall,
      index_used,
      ndcg_drop?.mean ?? null,
      ndcg_drop?.low ?? null,
      ndcg_drop?.high ?? null,
      actor ?? null,
    ],
  );
  const [row] = await db.query<{ at: Date }>(
    "select e.created_at as at from reembed.evaluations e where e.id = $1",
    [stored?.id],
  );
  return { id: Number(stored?.id), at: row?.at.toISOString() ?? "" };
}
