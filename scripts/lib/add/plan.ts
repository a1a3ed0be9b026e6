/** From a table's facts and an operator's answers to what the migration makes: every choice checked, each refusal naming its option. */
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import type { Server } from "../../../supabase/functions/_shared/servers.ts";
import { isVector, type TableColumn, type TableFacts, type VectorTableFacts } from "./inspect.ts";
import { createQuoter, literal, type Quoter } from "./quote.ts";
import { parseSpace, type SpaceChoice, vectorType } from "./spaces.ts";

export type Placement = "table" | "column";
export type Writer = "reembed" | "app";

/** What an operator says, by flags or in answer to questions. Lists are of column names as they are. */
export interface AddAnswers {
  readonly name?: string | undefined;
  readonly key?: readonly string[] | undefined;
  /** The SQL expression of a row's text; or the columns that make it. */
  readonly text?: string | undefined;
  readonly textColumns?: readonly string[] | undefined;
  /** The column of the vectors that exist; null: there are none to be taken. */
  readonly oldColumn?: string | null | undefined;
  /** The key columns of the old vectors' own table, in the order of the row's key. */
  readonly oldKey?: readonly string[] | undefined;
  readonly oldSpace?: string | undefined;
  readonly oldWriter?: Writer | undefined;
  readonly newSpace?: string | undefined;
  readonly newPrice?: number | undefined;
  readonly filters?: readonly string[] | undefined;
  readonly returns?: readonly string[] | undefined;
  readonly vectors?: Placement | undefined;
  readonly rowSecurity: "keep" | "on";
  /** The text search configuration in which the words of the texts are searched, too; null or undefined: they are not. */
  readonly lexical?: string | null | undefined;
  /** A tsvector column that has a GIN index already. */
  readonly lexicalColumn?: string | undefined;
  /** The servers that the environment names, by their providers' names: a space may be of such a provider. */
  readonly servers?: Readonly<Record<string, Server>> | undefined;
}

/** How words are searched beside vectors. */
export interface LexicalSearch {
  readonly config: string;
  readonly expression: string;
  /** The GIN index that has to be built; undefined where one stands. */
  readonly index: string | undefined;
  /** What is left to be run by hand where the table is too large to build it in a transaction: the migration then makes no hybrid RPC. */
  readonly byHand: readonly string[];
}

/** A version as the migration registers it. */
export interface PlannedVersion {
  readonly number: number;
  readonly space: SpaceChoice;
  /** Quoted and qualified. */
  readonly vectorTable: string;
  readonly vectorColumn: string;
  /** The columns of the vectors' own table that hold the row's key; undefined where the vectors stand in the row. */
  readonly vectorKey: readonly string[] | undefined;
  readonly matchFunction: string;
}

export interface OldVersion extends PlannedVersion {
  readonly writer: Writer;
  /** Whether the migration takes its vectors, while writers wait, or `reembed adopt` afterwards, a few rows at a time. */
  readonly adoption: "now" | "later";
  /** HNSW indexes that stand on its vectors before anything is added: the way back leaves them. */
  readonly indexes: readonly string[];
}

export interface NewVersion extends PlannedVersion {
  readonly placement: Placement;
  readonly type: string;
}

export interface Plan {
  readonly quote: Quoter;
  readonly collection: string;
  /** Quoted and qualified. */
  readonly table: string;
  readonly facts: TableFacts;
  readonly key: readonly TableColumn[];
  readonly inputFunction: string;
  readonly expression: string;
  readonly publicColumns: readonly string[];
  readonly filterColumns: readonly string[];
  readonly rowSecurity: "keep" | "on";
  readonly old: OldVersion | undefined;
  readonly next: NewVersion;
  readonly lexical: LexicalSearch | undefined;
  /** What an operator should know before applying it. */
  readonly warnings: readonly string[];
}

/** From so many rows on, vectors of their own table are advised: filling them is 2.3 times faster than a column. */
const LARGE_ROWS = 50_000;
/** Up to so many rows the migration takes the old vectors itself: writers wait about a second. */
const ADOPTED_AT_ONCE = 10_000;
/** Names that the match RPCs use themselves. */
const RPC_NAMES = [
  "query_embedding",
  "match_threshold",
  "match_count",
  "query_space",
  "similarity",
  "found_rows",
  "_distance",
  "_effort",
  "_visible",
  "_setting",
];
/** And those of the hybrid RPCs, where there are any. */
const HYBRID_NAMES = [
  ...["query_text", "rrf_k", "full_text_weight", "semantic_weight", "score"],
  ...["_place", "_score", "_rank", "_words", "_nearness", "_part"],
];

const wrong = (message: string, hint: string) => new ReembedError("invalid_request", message, hint);

/** Where the new vectors should stand, and why. */
export function recommendPlacement(facts: TableFacts): { placement: Placement; reasons: string[] } {
  const reasons = [
    ...facts.updateTriggers.map(
      ({ name, kind }) =>
        `the trigger ${name}${kind === "other" ? "" : ` (${kind})`} would fire on every row that is loaded`,
    ),
    ...facts.publications.map((name) => `the publication ${name} would send every row that is loaded`),
    ...(facts.rows >= LARGE_ROWS
      ? [`the table is large (${facts.rows.toLocaleString("en")} rows): filling a column rewrites every row`]
      : []),
  ];
  return reasons.length > 0
    ? { placement: "table", reasons }
    : { placement: "column", reasons: ["the table is small, and nothing listens to its updates"] };
}

/** A name for the collection made from the table's. */
export function defaultName(table: string): string {
  const plain = table
    .toLowerCase()
    .replace(/[^a-z0-9_]+/g, "_")
    .replace(/^[^a-z]+/, "")
    .replace(/_+$/, "")
    .slice(0, 40);
  return plain === "" ? "items" : plain;
}

/** The expression of texts that several columns make: those that are null leave their line empty. */
export function expressionOf(columns: readonly string[], facts: TableFacts, quote: Quoter): string {
  return columns
    .map((name) => {
      const { typeName } = columnNamed(facts, name, "--columns");
      return `coalesce(${quote.id(name)}${["text", "varchar"].includes(typeName) ? "" : "::text"}, '')`;
    })
    .join(" || E'\\n\\n' || ");
}

function columnNamed(
  { columns, schema, name: table }: Pick<TableFacts, "columns" | "schema" | "name">,
  name: string,
  field: string,
): TableColumn {
  const found = columns.find((column) => column.name === name);
  if (found !== undefined) return found;
  throw wrong(
    `${field}: ${JSON.stringify(`${schema}.${table}`)} has no column ${JSON.stringify(name.slice(0, 100))}`,
    `Its columns: ${columns.map((column) => column.name).join(", ")}.`,
  );
}

/** The key's columns as given, else the primary key's. */
export function keyOf(facts: TableFacts, given: readonly string[] | undefined): TableColumn[] {
  const names = given ?? facts.primaryKey;
  if (names.length === 0) {
    throw wrong(
      "--key is missing: the table has no primary key",
      "Name columns that are not null and have a unique index, or add a primary key.",
    );
  }
  return names.map((name) => columnNamed(facts, name, "--key"));
}

/**
 * @param usedColumns the columns that the expression reads, as PostgreSQL found them
 * @param oldTable the old vectors' own table, where they do not stand in the row
 * @throws ReembedError `invalid_request` that names the option and the rule
 */
export function makePlan(
  facts: TableFacts,
  answers: AddAnswers,
  usedColumns: readonly string[],
  oldTable: VectorTableFacts | undefined,
): Plan {
  const quote = createQuoter(new Set(facts.keywords));
  const collection = answers.name ?? defaultName(facts.name);
  requireName(collection, facts);
  const key = keyOf(facts, answers.key);
  const keyNames = key.map(({ name }) => name);
  const filterColumns = answers.filters ?? [];
  for (const name of filterColumns) refuseVector(columnNamed(facts, name, "--filters"), "--filters");
  const expression = answers.text ?? expressionOf(answers.textColumns ?? [], facts, quote);

  const table = quote.qualified(facts.schema, facts.name);
  const old = planOld(facts, answers, collection, table, key, oldTable, quote);
  const next = planNext(facts, answers, collection, table, keyNames, old, quote);
  const lexical = planLexical(facts, answers, expression, collection, table, quote);
  const reserved = lexical === undefined ? RPC_NAMES : [...RPC_NAMES, ...HYBRID_NAMES];
  const publicColumns = answers.returns ?? [
    ...new Set([...keyNames, ...usedColumns, ...filterColumns].filter((name) => !reserved.includes(name))),
  ];
  for (const name of publicColumns) refuseVector(columnNamed(facts, name, "--returns"), "--returns");
  return {
    quote,
    collection,
    table,
    facts,
    key,
    inputFunction: `reembed.${collection}_input`,
    expression,
    publicColumns,
    filterColumns,
    rowSecurity: facts.rowSecurity ? "keep" : answers.rowSecurity,
    old,
    next,
    lexical,
    warnings: warningsOf(facts, answers, old, next, collection),
  };
}

function requireName(collection: string, facts: TableFacts): void {
  if (!/^[a-z][a-z0-9_]{0,39}$/.test(collection)) {
    throw wrong(
      `--name: ${JSON.stringify(collection.slice(0, 100))} is no name of a collection`,
      "Lower-case letters, digits and underscores, a letter first, at most 40.",
    );
  }
  if (facts.collections.includes(collection)) {
    throw wrong(`--name: there is a collection ${collection} already`, "Choose another name with --name.");
  }
}

function refuseVector(column: TableColumn, field: string): void {
  if (isVector(column))
    throw wrong(
      `${field}: ${column.name} is a vector`,
      "Searches neither return vectors nor filter by them.",
    );
}

function planOld(
  facts: TableFacts,
  answers: AddAnswers,
  collection: string,
  table: string,
  key: readonly TableColumn[],
  oldTable: VectorTableFacts | undefined,
  quote: Quoter,
): OldVersion | undefined {
  if (answers.oldColumn == null) {
    if (oldTable !== undefined)
      throw wrong("--old-column is missing: --old-table names a table of vectors", "Name its vector column.");
    return undefined;
  }
  const holder = oldTable ?? facts;
  const column = columnNamed(holder, answers.oldColumn, "--old-column");
  if (!isVector(column)) {
    throw wrong(
      `--old-column: ${column.name} is ${column.type}, no vector`,
      "Name a column of type vector or halfvec.",
    );
  }
  const holderSql = quote.qualified(holder.schema, holder.name);
  if (column.dimensions === null) {
    throw wrong(
      `--old-column: ${column.name} has no width, so vectors of two models could stand in it`,
      `Give it one: alter table ${holderSql} alter column ${quote.id(column.name)} type extensions.${column.typeName}(<dimensions>);`,
    );
  }
  if (answers.oldSpace === undefined) {
    throw wrong(
      "--old-space is missing: the model that made the vectors that are there",
      "Such as openai/text-embedding-ada-002@1536, or external/my-model@768 for what only another program can make.",
    );
  }
  const space = parseSpace(answers.oldSpace, "--old-space", answers.servers);
  if (space.dimensions !== column.dimensions) {
    throw wrong(
      `--old-space: ${space.id} is ${space.dimensions} wide, ${column.name} is ${column.dimensions}`,
      "The vectors that are there were made by another model, or with another setting of dimensions.",
    );
  }
  const vectorKey = oldTable === undefined ? undefined : (answers.oldKey ?? oldTable.primaryKey);
  if (vectorKey !== undefined) {
    for (const name of vectorKey) columnNamed(holder, name, "--old-key");
    if (vectorKey.length !== key.length) {
      throw wrong(
        `--old-key: ${vectorKey.length} columns for a key of ${key.length}`,
        "Name the columns that hold the row's key, in its order; they must be unique: one vector a row.",
      );
    }
  }
  return {
    number: 1,
    space,
    vectorTable: oldTable === undefined ? table : holderSql,
    vectorColumn: column.name,
    vectorKey,
    matchFunction: matchFunctionOf(collection, 1, facts),
    writer: writerOf(space, answers.oldWriter),
    adoption: facts.rows < ADOPTED_AT_ONCE ? "now" : "later",
    indexes: holder.hnswIndexes.filter((index) => index.column === column.name).map(({ name }) => name),
  };
}

/** Who makes more of the old vectors. A space that nothing here can embed for is paused, so it has to be one of its own. */
function writerOf(space: SpaceChoice, given: Writer | undefined): Writer {
  const writer = given ?? (space.provider === "external" ? "app" : "reembed");
  if (writer === "reembed" && space.provider === "external") {
    throw wrong(
      `--old-writer: nothing here can embed for ${space.id}`,
      "Say --old-writer app, or name the provider that makes such vectors.",
    );
  }
  if (writer === "app" && space.provider !== "external") {
    throw wrong(
      `--old-writer: vectors that only the app writes are of a space of the provider external, not ${space.id}`,
      `Say --old-space external/${space.model}@${space.dimensions}; its jobs then wait, and no other collection's do.`,
    );
  }
  return writer;
}

function planNext(
  facts: TableFacts,
  answers: AddAnswers,
  collection: string,
  table: string,
  keyNames: readonly string[],
  old: OldVersion | undefined,
  quote: Quoter,
): NewVersion {
  if (answers.newSpace === undefined) {
    throw wrong(
      "--new-space is missing: the model whose vectors the table gets",
      "Such as openai/text-embedding-3-small@1536.",
    );
  }
  const space = parseSpace(answers.newSpace, "--new-space", answers.servers, answers.newPrice);
  if (space.provider === "external") {
    throw wrong(
      `--new-space: nothing here can embed for ${space.id}`,
      "Name a provider: openai, supabase, hash, or a server that speaks OpenAI's API.",
    );
  }
  if (old?.space.id === space.id) {
    throw wrong(`--new-space: ${space.id} is the old space`, "Name the model to move to.");
  }
  const placement = answers.vectors ?? recommendPlacement(facts).placement;
  const number = old === undefined ? 1 : 2;
  const version = {
    number,
    space,
    placement,
    type: vectorType(space.dimensions),
    matchFunction: matchFunctionOf(collection, number, facts),
  };
  if (placement === "table") {
    const name = free(`${collection}_embeddings_v${number}`, facts.relations);
    const vectorColumn = free("embedding", keyNames);
    return {
      ...version,
      vectorTable: quote.qualified(facts.schema, name),
      vectorColumn,
      vectorKey: keyNames,
    };
  }
  const taken = facts.columns.map((column) => column.name);
  const vectorColumn = free(`embedding_${space.dimensions}`, taken);
  return { ...version, vectorTable: table, vectorColumn, vectorKey: undefined };
}

/** A tsvector holds at most 1 MB: a longer text must not fail the app's own write. */
const LONGEST_LEXICAL_TEXT = 200_000;

function planLexical(
  facts: TableFacts,
  { lexical: config, lexicalColumn }: AddAnswers,
  text: string,
  collection: string,
  table: string,
  quote: Quoter,
): LexicalSearch | undefined {
  if (config == null) {
    if (lexicalColumn === undefined) return undefined;
    throw wrong(
      "--lexical is missing: --lexical-column names a column of words",
      "Name the text search configuration it was made with, such as --lexical english.",
    );
  }
  if (lexicalColumn !== undefined) {
    const column = columnNamed(facts, lexicalColumn, "--lexical-column");
    if (column.typeName !== "tsvector")
      throw wrong(
        `--lexical-column: ${column.name} is ${column.type}, no tsvector`,
        "Name a column of words.",
      );
    return { config, expression: quote.id(column.name), index: undefined, byHand: [] };
  }
  const expression = `to_tsvector(${literal(config)}, left((${text})::text, ${LONGEST_LEXICAL_TEXT}))`;
  const name = free(`${collection}_words_idx`, facts.relations);
  if (facts.rows < LARGE_ROWS) return { config, expression, index: name, byHand: [] };
  return {
    config,
    expression,
    index: name,
    byHand: [
      `create index concurrently ${name} on ${table} using gin ((${expression}));`,
      `select reembed.set_lexical_search(${literal(collection)}, ${literal(expression)}, ${literal(config)});`,
    ],
  };
}

/** The name, or with a number where it is taken. */
function free(name: string, taken: readonly string[]): string {
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? name : `${name}_${number}`;
    if (!taken.includes(candidate)) return candidate;
  }
}

/** The name that add_version gives a version's RPC by itself. */
export const defaultMatchFunction = (collection: string, number: number): string =>
  number === 1 ? `match_${collection}` : `match_${collection}_v${number}`;

/** The RPC's name. One that the app made itself is left alone: version 1's then has its number, too. */
function matchFunctionOf(collection: string, number: number, facts: TableFacts): string {
  const candidates = [
    ...new Set([defaultMatchFunction(collection, number), `match_${collection}_v${number}`]),
  ];
  const found = candidates.find((name) => !facts.matchFunctions.includes(name));
  if (found !== undefined) return found;
  throw wrong(`--name: there is a function ${candidates.at(-1)} already`, "Choose another name with --name.");
}

function warningsOf(
  facts: TableFacts,
  answers: AddAnswers,
  old: OldVersion | undefined,
  next: NewVersion,
  collection: string,
): string[] {
  const warnings: string[] = [];
  if (next.placement === "column") {
    for (const { name, definition, limited } of facts.updateTriggers) {
      const mend = definition === limited ? "" : `; before loading, drop it and make it anew as: ${limited}`;
      warnings.push(`the trigger ${name} fires for every row that is loaded${mend}`);
    }
    for (const name of facts.publications)
      warnings.push(
        `the publication ${name} sends every row that is loaded; publish it with a list of columns, or use --vectors table`,
      );
  }
  if (old?.writer === "app")
    warnings.push(
      `nothing here can make vectors of ${old.space.id}: the app must go on writing them; the jobs of v1 wait, and their number says how many of its vectors may be stale`,
    );
  const own = `match_${collection}`;
  if (facts.matchFunctions.includes(own))
    warnings.push(`the function ${own} is there and stays as it is: version 1 is searched by ${own}_v1`);
  if (
    !facts.rowSecurity &&
    answers.rowSecurity === "keep" &&
    facts.readers.some((role) => role !== "service_role")
  )
    warnings.push(
      "row level security is off: whoever may read the table finds all its rows; --rls on switches it on",
    );
  if (answers.rowSecurity === "on" && !facts.rowSecurity && facts.policies === 0)
    warnings.push(
      "the table has no policy: with row level security on, anon and authenticated see no row until you write one",
    );
  if (facts.readers.length === 0)
    warnings.push(
      "none of anon, authenticated and service_role may read the table: only its owner can search it",
    );
  if ((facts.oldestTransactionSeconds ?? 0) > 5)
    warnings.push(
      `a transaction has held the table for ${Math.round(facts.oldestTransactionSeconds ?? 0)} s: the migration gives up after a few seconds of waiting; apply it when that has ended`,
    );
  if (isOlder(facts.pgvector, [0, 8, 4]))
    warnings.push(`pgvector ${facts.pgvector} has known faults in vacuuming HNSW indexes; 0.8.4 mends them`);
  if (next.space.provider === "openai" && next.space.pricePerMtok === 0)
    warnings.push(`${next.space.id} has no price, so budgets count nothing for it: give --new-price`);
  return warnings;
}

function isOlder(version: string, than: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number);
  for (const [index, least] of than.entries()) {
    const part = parts[index] ?? 0;
    if (part !== least) return part < least;
  }
  return false;
}
