/**
 * The queries of an evaluation and, where it is known, which rows answer them: from a file, from the query log, or made from the rows themselves.
 */
import { z } from "zod";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import type { Database } from "../connection.ts";
import { jsonLines } from "../json-lines.ts";
import type { Judgments } from "./ranking.ts";

/** `file`: given by a person; `log`: what people searched for; `rows`: a row's first line should find the row. */
export type QuerySource = "file" | "log" | "rows";

export interface EvaluatedQuery {
  readonly query: string;
  /** Null: nobody has said which rows answer it. */
  readonly judgments: Judgments | null;
}

export interface QuerySet {
  readonly source: QuerySource;
  readonly queries: readonly EvaluatedQuery[];
  /** Rows that judgments name and the collection does not have: they count as not found. */
  readonly unknownRows: number;
}

/** As a search takes it. */
const LONGEST_QUERY = 8_000;
const MOST_QUERIES = 10_000;

const scalar = z.union([z.string(), z.number()]);
const key = z.union([scalar, z.array(scalar).min(1)]);
const fileLine = z.object({
  query: z.string().max(LONGEST_QUERY),
  relevant: z.array(z.union([key, z.strictObject({ id: key, grade: z.number().min(0) })])).optional(),
});

/**
 * Reads JSON lines `{"query": "...", "relevant": [...]}`. An element of `relevant` is a row's key (a list of values where the key has several columns), or
 * `{"id": key, "grade": number}` where some rows answer better than others. Without `relevant` a query is not judged. Blank lines are skipped, and so is
 * every other field.
 * @throws ReembedError `invalid_request` naming the line and the rule, never the text
 */
export function parseQueryFile(text: string): EvaluatedQuery[] {
  const queries: EvaluatedQuery[] = [];
  for (const { line, ...parsed } of jsonLines(text)) {
    const refuse = (rule: string) =>
      new ReembedError(
        "invalid_request",
        `--queries: line ${line} ${rule}`,
        'A line is one JSON object: {"query": "how do I undo a commit", "relevant": ["the key of a row"]}.',
      );
    if ("fault" in parsed) throw refuse(parsed.fault);
    const read = fileLine.safeParse(parsed.value);
    if (!read.success)
      throw refuse(`does not fit: ${read.error.issues[0]?.path.join(".") || "it"} is missing or wrong`);
    const query = read.data.query.trim();
    if (query === "") throw refuse("has an empty query");
    queries.push({ query, judgments: judgmentsOf(read.data.relevant) });
    if (queries.length > MOST_QUERIES)
      throw refuse(`is one too many: ${MOST_QUERIES.toLocaleString("en")} queries at most`);
  }
  if (queries.length === 0) {
    throw new ReembedError(
      "invalid_request",
      "--queries: the file holds no query",
      "Write one JSON object a line.",
    );
  }
  return queries;
}

function judgmentsOf(relevant: z.infer<typeof fileLine>["relevant"]): Judgments | null {
  if (relevant === undefined) return null;
  const grades = new Map<string, number>();
  for (const element of relevant) {
    const graded =
      typeof element === "object" && !Array.isArray(element) ? element : { id: element, grade: 1 };
    grades.set(Array.isArray(graded.id) ? JSON.stringify(graded.id) : String(graded.id), graded.grade);
  }
  // A list without a relevant row says nothing about any ranking.
  return [...grades.values()].some((grade) => grade > 0) ? grades : null;
}

export interface QueryOptions {
  readonly collection: string;
  /** The version whose input makes queries from rows. */
  readonly version: number;
  /** Queries that a person gave: they are taken before any other. */
  readonly given?: readonly EvaluatedQuery[] | undefined;
  /** Take one source and no other. */
  readonly only?: Exclude<QuerySource, "file"> | undefined;
  /** At most so many from the log or the rows. */
  readonly limit: number;
  /** The same seed makes the same queries of the same rows. */
  readonly seed: number;
}

const logged = z.array(z.string());
const knownItems = z.array(z.object({ query: z.string(), relevant: z.array(z.string()) }));
const canonical = z.record(z.string(), z.string());

/**
 * Those that were given, else the last distinct ones of the query log where it is on and not empty, else queries made from rows.
 * @throws ReembedError `invalid_request` for a key that cannot be one of this table, `refused` where there is no query at all
 */
export async function chooseQueries(db: Database, options: QueryOptions): Promise<QuerySet> {
  const { collection, given, only } = options;
  if (given !== undefined) return withCanonicalKeys(db, collection, given);
  if (only !== "rows") {
    const texts = logged.parse(
      await json(db, "select reembed.logged_queries($1, $2) as value", [collection, options.limit]),
    );
    if (texts.length > 0)
      return { source: "log", queries: texts.map((query) => ({ query, judgments: null })), unknownRows: 0 };
    if (only === "log") {
      throw new ReembedError(
        "refused",
        `the query log of ${collection} is empty`,
        `Switch it on with select reembed.set_query_log('${collection}', true), or give --queries or --from-rows.`,
      );
    }
  }
  const items = knownItems.parse(
    await json(db, "select reembed.known_items($1, $2, $3, $4) as value", [
      collection,
      options.version,
      options.limit,
      String(options.seed),
    ]),
  );
  if (items.length === 0) {
    throw new ReembedError(
      "refused",
      `no query can be made from the rows of ${collection}: none begins with a line of its own`,
      "Give queries with --queries.",
    );
  }
  return {
    source: "rows",
    queries: items.map(({ query, relevant }) => ({
      query,
      judgments: new Map(relevant.map((row) => [row, 1])),
    })),
    unknownRows: 0,
  };
}

/** Keys as searches return them: a uuid may have been written in capitals, a list with other spaces. */
async function withCanonicalKeys(
  db: Database,
  collection: string,
  given: readonly EvaluatedQuery[],
): Promise<QuerySet> {
  const keys = new Set(given.flatMap(({ judgments }) => [...(judgments?.keys() ?? [])]));
  let rows: Record<string, string> = {};
  if (keys.size > 0) {
    try {
      rows = canonical.parse(
        await json(db, "select reembed.canonical_rows($1, $2) as value", [collection, [...keys]]),
      );
    } catch (error) {
      if (!(error instanceof ReembedError && error.code === "invalid_request")) throw error;
      throw new ReembedError(
        "invalid_request",
        `--queries: a value in "relevant" cannot be a key of ${collection}`,
        "Write each key as a search returns it; a list of values where the key has several columns.",
        { cause: error },
      );
    }
  }
  const queries = given.map(({ query, judgments }) => ({
    query,
    judgments: judgments && new Map([...judgments].map(([row, grade]) => [rows[row] ?? row, grade])),
  }));
  return {
    source: "file",
    queries,
    unknownRows: [...keys].filter((row) => !Object.hasOwn(rows, row)).length,
  };
}

async function json(db: Database, sql: string, values: readonly unknown[]): Promise<unknown> {
  const [row] = await db.query<{ value: unknown }>(sql, values);
  return row?.value;
}
