/** The facts of a live table that decide how it is added: read in one statement, nothing changed. */
import { escapeIdentifier } from "pg";
import { z } from "zod";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import type { Database } from "../connection.ts";

const column = z.object({
  name: z.string(),
  /** With its modifier, and its schema unless that is pg_catalog. */
  type: z.string(),
  /** Without a schema and a modifier. */
  typeName: z.string(),
  notNull: z.boolean(),
  generated: z.boolean(),
  /** Of a vector or halfvec; null where it has no width, and for other types. */
  dimensions: z.number().nullable(),
});

const trigger = z.object({
  name: z.string(),
  kind: z.enum(["webhook", "moddatetime", "other"]),
  definition: z.string(),
  /** The same, firing only when a column that is no vector is written. */
  limited: z.string(),
});

const facts = z.object({
  schema: z.string(),
  name: z.string(),
  kind: z.string(),
  persistence: z.string(),
  inherits: z.boolean(),
  bytes: z.number(),
  rowSecurity: z.boolean(),
  policies: z.number(),
  readers: z.array(z.string()),
  primaryKey: z.array(z.string()),
  columns: z.array(column),
  updateTriggers: z.array(trigger),
  publications: z.array(z.string()),
  collection: z.string().nullable(),
  /** Names of relations in its schema, so that a new one takes none of them. */
  relations: z.array(z.string()),
  matchFunctions: z.array(z.string()),
  collections: z.array(z.string()),
  oldestTransactionSeconds: z.number().nullable(),
  /** Of the role that connects; 0: none. */
  statementTimeoutMs: z.number(),
  pgvector: z.string(),
  keywords: z.array(z.string()),
  hnswIndexes: z.array(z.object({ name: z.string(), column: z.string() })),
});

export type TableColumn = z.infer<typeof column>;
/** Rows are counted up to a hundred thousand and estimated beyond. */
export type TableFacts = z.infer<typeof facts> & { readonly rows: number };

/** What is asked of a table that holds the old vectors beside the rows. */
export type VectorTableFacts = Pick<
  z.infer<typeof facts>,
  "schema" | "name" | "columns" | "primaryKey" | "hnswIndexes"
>;

/** A row count beyond this is the planner's estimate. */
const COUNTED_ROWS = 100_000;

const VECTOR_TYPES = ["vector", "halfvec"];
export const isVector = ({ typeName }: TableColumn): boolean => VECTOR_TYPES.includes(typeName);

/**
 * Reads a table's facts.
 * @param db opened with one connection
 * @param table as written: the name as it is, or as SQL writes it, with or without a schema; public is where it is looked for
 * @throws ReembedError `invalid_request` when there is no such table, or none that can be added, with the reason
 */
export async function inspectTable(db: Database, table: string): Promise<TableFacts> {
  const oid = await findTable(db, table);
  const found = await readFacts(db, oid);
  requireAddable(found);
  const [counted] = await db.query<{ rows: number; estimate: number }>(
    `select (select count(*)::int from (select from ${escapeIdentifier(found.schema)}.${escapeIdentifier(found.name)} limit ${COUNTED_ROWS}) x) as rows,
            (select greatest(reltuples, 0)::float8 from pg_class where oid = $1) as estimate`,
    [oid],
  );
  const rows = counted?.rows ?? 0;
  return { ...found, rows: rows < COUNTED_ROWS ? rows : Math.max(rows, Math.round(counted?.estimate ?? 0)) };
}

/**
 * Reads the facts of the table in which a collection's old vectors stand.
 * @throws ReembedError `invalid_request` when there is no such table
 */
export async function inspectVectorTable(db: Database, table: string): Promise<VectorTableFacts> {
  return readFacts(db, await findTable(db, table));
}

/** With a search path in which every type but PostgreSQL's own comes with its schema; in a transaction, because PGlite has one session for all. */
async function readFacts(db: Database, oid: number): Promise<z.infer<typeof facts>> {
  await db.query("begin read only");
  try {
    await db.query("set local search_path = pg_catalog, pg_temp");
    const [row] = await db.query<{ facts: unknown }>(FACTS_SQL, [oid]);
    return facts.parse(row?.facts);
  } finally {
    await db.query("rollback");
  }
}

async function findTable(db: Database, table: string): Promise<number> {
  const [exact] = await db.query<{ oid: number }>(
    `select c.oid::int8::int as oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where (n.nspname = 'public' and c.relname = $1 or n.nspname || '.' || c.relname = $1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
      order by n.nspname <> 'public' limit 1`,
    [table],
  );
  if (exact !== undefined) return exact.oid;
  const [parsed] = await db
    .query<{ oid: number | null }>(
      "select coalesce(pg_catalog.to_regclass($1), pg_catalog.to_regclass('public.' || $1))::oid::int8::int as oid",
      [table],
    )
    // Not written as SQL writes a name.
    .catch(() => []);
  if (parsed?.oid != null) return parsed.oid;
  throw new ReembedError(
    "invalid_request",
    `there is no table ${JSON.stringify(table.slice(0, 200))}`,
    "Write it as it is called, with its schema when that is not public; the role must be allowed to see it.",
  );
}

function requireAddable({
  schema,
  name,
  kind,
  persistence,
  inherits,
  collection,
}: z.infer<typeof facts>): void {
  const refuse = (what: string, hint: string) =>
    new ReembedError("invalid_request", `${JSON.stringify(`${schema}.${name}`)} ${what}`, hint);
  if (collection !== null)
    throw refuse(`is the collection ${collection} already`, "Add a version to it: reembed.add_version.");
  if (kind === "p" || inherits) {
    throw refuse(
      "is partitioned, or takes part in inheritance",
      "Rows are written into partitions without the parent's triggers seeing it, so an edit would be forgotten. Keep the texts in one table, or add one of the partitions' rows as a table of its own.",
    );
  }
  if (kind === "v" || kind === "m")
    throw refuse(
      "is a view",
      "Add the table that its rows come from: a view has no triggers that see their changes.",
    );
  if (kind === "f")
    throw refuse("is a foreign table", "Add it where it stands: its changes are not seen from here.");
  if (persistence === "t") throw refuse("is temporary", "Add a table that stays.");
  if (["reembed", "pg_catalog", "information_schema"].includes(schema))
    throw refuse("belongs to the system", "Add a table of your own.");
}

const FACTS_SQL = `
select jsonb_build_object(
  'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
  'inherits', c.relispartition or exists (select from pg_inherits i where c.oid in (i.inhparent, i.inhrelid)),
  'bytes', pg_total_relation_size(c.oid),
  'rowSecurity', c.relrowsecurity,
  'policies', (select count(*) from pg_policy p where p.polrelid = c.oid),
  'readers', (select coalesce(jsonb_agg(r.role order by r.role), '[]') from unnest(array['anon', 'authenticated', 'service_role']) r(role)
               where has_table_privilege(r.role, c.oid, 'select') and has_schema_privilege(r.role, n.oid, 'usage')),
  'primaryKey', (select coalesce(jsonb_agg(a.attname order by k.n), '[]') from pg_index i
                   cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, n)
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                  where i.indrelid = c.oid and i.indisprimary and k.n <= i.indnkeyatts),
  'columns', (select coalesce(jsonb_agg(jsonb_build_object(
                'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'typeName', t.typname, 'notNull', a.attnotnull,
                'generated', a.attgenerated <> '',
                'dimensions', case when t.typname in ('vector', 'halfvec') and a.atttypmod > 0 then a.atttypmod end) order by a.attnum), '[]')
                from pg_attribute a join pg_type t on t.oid = a.atttypid
               where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
  'updateTriggers', (select coalesce(jsonb_agg(jsonb_build_object(
                'name', g.tgname, 'definition', pg_get_triggerdef(g.oid),
                'kind', case when f.proname = 'http_request' then 'webhook' when f.proname = 'moddatetime' then 'moddatetime' else 'other' end,
                -- The event stands before the table; a trigger whose name holds the same words comes first.
                'limited', case when g.tgattr = '' then regexp_replace(pg_get_triggerdef(g.oid), '^(CREATE (?:CONSTRAINT )?TRIGGER (?:[^"]\\S*|"(?:[^"]|"")*") .*?UPDATE)( (?:OR|ON) )',
                    '\\1 OF ' || (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a join pg_type t on t.oid = a.atttypid
                                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and t.typname not in ('vector', 'halfvec')) || '\\2')
                  else pg_get_triggerdef(g.oid) end) order by g.tgname), '[]')
                from pg_trigger g join pg_proc f on f.oid = g.tgfoid
               where g.tgrelid = c.oid and not g.tgisinternal and g.tgtype & 16 > 0 and g.tgenabled <> 'D' and g.tgname !~ '^reembed_\\d+_'),
  'publications', (select coalesce(jsonb_agg(p.pubname order by p.pubname), '[]') from pg_publication_tables p
                    where p.schemaname = n.nspname and p.tablename = c.relname),
  'collection', (select min(x.name) from reembed.collections x where x.source_table = c.oid),
  'relations', (select coalesce(jsonb_agg(x.relname), '[]') from pg_class x where x.relnamespace = n.oid),
  'matchFunctions', (select coalesce(jsonb_agg(distinct p.proname), '[]') from pg_proc p
                      where p.pronamespace = 'public'::regnamespace and p.proname ~ '^(match|hybrid|recent)_'),
  'collections', (select coalesce(jsonb_agg(x.name), '[]') from reembed.collections x),
  'oldestTransactionSeconds', (select extract(epoch from max(clock_timestamp() - s.xact_start))::float8 from pg_locks l join pg_stat_activity s on s.pid = l.pid
                                where l.relation = c.oid and l.granted and s.pid <> pg_backend_pid()),
  'statementTimeoutMs', (select s.setting::float8 from pg_settings s where s.name = 'statement_timeout'),
  'pgvector', (select e.extversion from pg_extension e where e.extname = 'vector'),
  'keywords', (select jsonb_agg(k.word) from pg_get_keywords() k where k.catcode <> 'U'),
  'hnswIndexes', (select coalesce(jsonb_agg(jsonb_build_object('name', x.relname, 'column', a.attname)), '[]') from pg_index i
                    join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
                    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                   where i.indrelid = c.oid and m.amname = 'hnsw')
) as facts
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1`;
