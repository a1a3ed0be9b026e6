/** The migration of an added table as SQL text, in the form of this project's own, and the one that takes it back. */
import { defaultMatchFunction, type Plan, type PlannedVersion } from "./plan.ts";
import { comment, dollarQuoted, literal, nameArray } from "./quote.ts";
import type { SpaceChoice } from "./spaces.ts";

/**
 * The migration: the text of a row, the old vectors adopted where there are any, the place of the new ones, the registry, the RPCs.
 * The access exclusive lock that a new column needs comes last, so that it is held for milliseconds.
 * @param downFile the file that takes it back, named in the header
 */
export function migrationSql(plan: Plan, downFile: string): string {
  const { old, next } = plan;
  const parts = [
    header(plan, downFile),
    "-- A lock that is not to be had in five seconds ends the migration: nothing is changed then, and it can be applied again.\nset local lock_timeout = '5s';",
    inputFunction(plan),
    ...(plan.rowSecurity === "on" ? [`alter table ${plan.table} enable row level security;`] : []),
    ...(old === undefined ? [] : [registerOld(plan)]),
    ...wordsIndex(plan),
    next.placement === "table" ? vectorTable(plan) : vectorColumn(plan),
    registerNext(plan),
    "notify pgrst, 'reload schema';",
  ];
  return `${parts.join("\n\n")}\n`;
}

/** The migration that takes it back: registry, triggers, RPCs, the new vectors and the indexes that Reembed built on the old ones. */
export function downSql(plan: Plan, migrationFile: string): string {
  const { quote, old, next } = plan;
  const parts = [
    comment(
      `Takes back ${migrationFile}: the collection ${plan.collection} and the vectors of version ${next.number}.`,
      ...(old === undefined ? [] : ["The rows and the vectors of version 1 stay as they are."]),
      "This is no migration of the folder supabase/migrations: run it by hand, in one transaction.",
    ),
    "set local lock_timeout = '5s';",
    `select reembed.remove_collection(${literal(plan.collection)});`,
    `drop function ${plan.inputFunction}(${plan.table});`,
    ...(plan.lexical?.index === undefined
      ? []
      : [`drop index if exists ${quote.qualified(plan.facts.schema, plan.lexical.index)};`]),
    next.placement === "table"
      ? `drop table ${next.vectorTable};`
      : `alter table ${plan.table} drop column ${quote.id(next.vectorColumn)};`,
    ...(old === undefined ? [] : [dropNewIndexes(old.vectorTable, old.vectorColumn, old.indexes)]),
    ...(plan.rowSecurity === "on" ? [`alter table ${plan.table} disable row level security;`] : []),
    "notify pgrst, 'reload schema';",
  ];
  return `${parts.join("\n\n")}\n`;
}

function header({ collection, table, old, next, facts }: Plan, downFile: string): string {
  const place = next.placement === "table" ? next.vectorTable : `the column ${next.vectorColumn} of ${table}`;
  return comment(
    `The collection ${collection}: rows of ${table}, ${old === undefined ? "embedded in" : `searched in ${old.space.id} and moved to`} ${next.space.id}.`,
    `Makes: reembed.${collection}_input, the text of a row; ${place} for the new vectors; ${old === undefined ? "" : `${old.matchFunction} and `}${next.matchFunction}, the searches.`,
    old === undefined
      ? "Risks: none for existing data. Nothing is embedded before `reembed backfill` starts loading."
      : old.adoption === "later"
        ? "Risks: each write of the table writes a job, too. Nothing is bought before `reembed backfill` starts loading."
        : `Risks: writers of ${table} (about ${facts.rows} rows) wait while the records of its vectors are written; searches do not. Nothing is bought before \`reembed backfill\` starts loading.`,
    `The way back: ${downFile}.`,
  );
}

function inputFunction({ inputFunction: name, expression, table }: Plan): string {
  const body = `  select (\n    ${expression}\n  )::text from (select ($1).*) as source`;
  return `create function ${name}(${table}) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as ${dollarQuoted(body)};
comment on function ${name}(${table}) is ${literal(`The text of a row of ${table} that is embedded.`)};
revoke execute on function ${name}(${table}) from public, anon, authenticated;`;
}

function registerOld({ collection, old, table, ...plan }: Plan): string {
  if (old === undefined) return "";
  const name = literal(collection);
  const lines = [
    ...(old.adoption === "later" ? [] : ["declare", "  v1 int;", "  step jsonb;", "  busy text;"]),
    "begin",
    `  ${addSpace(old.space)}`,
    ...addCollection({ collection, table, ...plan }),
    `  ${old.adoption === "later" ? "perform" : "v1 :="} ${addVersion(collection, plan.inputFunction, old, old.vectorTable === table ? undefined : old, old.adoption === "later")};`,
    ...(old.writer === "app"
      ? [
          `  perform reembed.pause_space(${literal(old.space.id)}, 'these vectors were brought from elsewhere: no provider here can make more of them');`,
        ]
      : []),
    `  perform reembed.start_loading(${name}, 1);`,
    ...(old.adoption === "later" ? [] : adoptNow(name)),
    "end",
  ];
  const how =
    old.adoption === "later"
      ? ` \`reembed adopt --collection ${collection}\` takes them, a few rows at a time.`
      : "";
  return `-- Version 1: the vectors that are there.${how}\ndo ${dollarQuoted(lines.join("\n"))};`;
}

/** Records are written under a lock that writers wait for: for small tables. */
function adoptNow(name: string): string[] {
  return [
    "  -- Records are written from the vectors that stand there: no token is paid. Rows without a vector get a job.",
    "  perform reembed.adopt_vectors(v1);",
    "  loop",
    "    step := reembed.enqueue_missing(v1, step ->> 'last');",
    "    for busy in select jsonb_array_elements_text(step -> 'busy') loop",
    "      perform reembed.enqueue_row(v1, busy);",
    "    end loop;",
    "    exit when step ->> 'last' is null;",
    "  end loop;",
    `  perform reembed.finish_enqueueing(${name}, 1);`,
    `  perform reembed.advance(${name}, 1);`,
  ];
}

function registerNext(plan: Plan): string {
  const { collection, next, old, lexical } = plan;
  const own = next.placement === "table" ? next : undefined;
  const lines = [
    "begin",
    `  ${addSpace(next.space)}`,
    ...(old === undefined ? addCollection(plan) : []),
    `  perform ${addVersion(collection, plan.inputFunction, next, own)};`,
    ...(lexical === undefined || lexical.byHand.length > 0
      ? []
      : [
          "  -- Searched by words, too: this makes the hybrid RPC of each version.",
          `  perform reembed.set_lexical_search(${literal(collection)}, ${literal(lexical.expression)}, ${literal(lexical.config)});`,
        ]),
    "end",
  ];
  return `-- Version ${next.number}: prepared. \`reembed backfill --collection ${collection} --version ${next.number}\` loads it.\ndo ${dollarQuoted(lines.join("\n"))};`;
}

function addSpace(space: SpaceChoice): string {
  const { provider, model, dimensions, pricePerMtok, threshold, maxInputTokens } = space;
  const args = [
    literal(provider),
    literal(model),
    String(dimensions),
    ...(pricePerMtok === 0 ? [] : [`price_per_mtok => ${pricePerMtok}`]),
    ...(threshold === 0 ? [] : [`default_threshold => ${threshold}`]),
    ...(maxInputTokens === 8192 ? [] : [`max_input_tokens => ${maxInputTokens}`]),
  ];
  return `perform reembed.add_space(${args.join(", ")});`;
}

function addCollection(
  plan: Pick<Plan, "collection" | "table" | "key" | "publicColumns" | "filterColumns">,
): string[] {
  return [
    `  perform reembed.add_collection(${literal(plan.collection)}, ${literal(plan.table)},`,
    `    key_columns => ${nameArray(plan.key.map(({ name }) => name))},`,
    `    public_columns => ${nameArray(plan.publicColumns)},`,
    `    filter_columns => ${nameArray(plan.filterColumns)});`,
  ];
}

function addVersion(
  collection: string,
  inputFunction: string,
  version: PlannedVersion,
  ownTable: PlannedVersion | undefined,
  adopts = false,
): string {
  const args = [
    literal(collection),
    literal(version.space.id),
    literal(version.vectorColumn),
    literal(inputFunction),
    ...(ownTable === undefined
      ? []
      : [
          `vector_table => ${literal(ownTable.vectorTable)}`,
          `vector_key => ${nameArray(ownTable.vectorKey ?? [])}`,
        ]),
    ...(version.matchFunction === defaultMatchFunction(collection, version.number)
      ? []
      : [`match_function => ${literal(version.matchFunction)}`]),
    ...(adopts ? ["adopts => true"] : []),
  ];
  return `reembed.add_version(${args.join(", ")})`;
}

/** A table for the new vectors, keyed by the row. Whoever may read a row may read its vector. */
function vectorTable({ quote, table, next, key, facts, collection }: Plan): string {
  const vectorKey = next.vectorKey ?? [];
  const rowKey = key.map(({ name }) => name);
  const ownName = next.vectorTable.slice(next.vectorTable.lastIndexOf(".") + 1);
  const same = rowKey
    .map((name, index) => `source.${quote.id(name)} = ${ownName}.${quote.id(vectorKey[index] ?? name)}`)
    .join(" and ");
  const readers = facts.readers.join(", ");
  const callers = facts.readers.filter((role) => role !== "service_role").join(", ");
  return [
    `create table ${next.vectorTable} (`,
    ...key.map(({ type }, index) => `  ${quote.id(vectorKey[index] ?? "")} ${type} not null,`),
    `  ${quote.id(next.vectorColumn)} ${next.type} not null,`,
    `  primary key (${quote.list(vectorKey)}),`,
    `  foreign key (${quote.list(vectorKey)}) references ${table} (${quote.list(rowKey)}) on delete cascade on update cascade`,
    ");",
    `comment on table ${next.vectorTable} is ${literal(`Vectors of ${collection} version ${next.number} (${next.space.id}), one a row of ${table}.`)};`,
    `alter table ${next.vectorTable} enable row level security;`,
    `revoke all on ${next.vectorTable} from public, anon, authenticated, service_role;`,
    ...(readers === "" ? [] : [`grant select on ${next.vectorTable} to ${readers};`]),
    ...(callers === ""
      ? []
      : [
          "-- A scalar subquery, which is looked up by the key for each row and never hashed.",
          `create policy "who reads the row reads its vector" on ${next.vectorTable} for select to ${callers}`,
          `  using ((select true from ${table} source where ${same}));`,
        ]),
  ].join("\n");
}

/** Of a large table it is built by hand, concurrently. */
function wordsIndex({ lexical, table }: Plan): string[] {
  if (lexical?.index === undefined || lexical.byHand.length > 0) return [];
  return [`create index ${lexical.index} on ${table} using gin ((${lexical.expression}));`];
}

/** A column for the new vectors, under the locks that a change of the table's triggers takes, too: `lock_tables` says why. */
function vectorColumn({ quote, table, next }: Plan): string {
  const lines = [
    "begin",
    "  for attempt in 1..15 loop",
    "    begin",
    `      perform reembed.lock_tables(array[${literal(table)}::regclass], 'access exclusive', attempt);`,
    `      alter table ${table} add column ${quote.id(next.vectorColumn)} ${next.type};`,
    "      exit;",
    "    exception when lock_not_available or deadlock_detected then",
    "      if attempt = 15 then",
    "        raise;",
    "      end if;",
    "      perform pg_sleep(0.05 * attempt);",
    "    end;",
    "  end loop;",
    "end",
  ];
  return `do ${dollarQuoted(lines.join("\n"))};`;
}

function dropNewIndexes(vectorTable: string, vectorColumn: string, known: readonly string[]): string {
  const lines = [
    "declare",
    "  built record;",
    "begin",
    "  for built in select i.indexrelid::regclass as name from pg_catalog.pg_index i",
    "      join pg_catalog.pg_class x on x.oid = i.indexrelid join pg_catalog.pg_am m on m.oid = x.relam",
    "      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]",
    `     where i.indrelid = pg_catalog.to_regclass(${literal(vectorTable)}) and a.attname = ${literal(vectorColumn)} and m.amname = 'hnsw'`,
    `       and x.relname <> all (${nameArray(known)}::name[]) loop`,
    "    execute pg_catalog.format('drop index %s', built.name);",
    "  end loop;",
    "end",
  ];
  return `-- Indexes that stood there before stay.\ndo ${dollarQuoted(lines.join("\n"))};`;
}
