/**
 * Rows of two tenants in any collection whose policies tell them apart, and every door of the API by which one of them might see the other's. Told from the
 * catalogue: what a migration adds is filled and tried without a line here.
 */
import { type Client, type ClientBase, escapeIdentifier } from "pg";

export interface Tenant {
  readonly id: string;
  /** A word that stands in each of the tenant's texts and nowhere else. */
  readonly secret: string;
}

/** A word that stands in everybody's texts: what a search by words asks for. */
export const SHARED = "everybodysword";

export const TENANTS = {
  owner: { id: "00000000-0000-4000-8000-0000000000aa", secret: "ownersecret1f3a" },
  other: { id: "00000000-0000-4000-8000-0000000000bb", secret: "othersecret9c2d" },
} as const satisfies Record<string, Tenant>;

export interface TenantCollection {
  readonly name: string;
  /** Quoted and qualified, as the following. */
  readonly table: string;
  readonly versions: readonly {
    readonly table: string;
    readonly key: readonly string[];
    readonly column: string;
    readonly dimensions: number;
  }[];
  readonly keyColumns: readonly string[];
}

/** The collections whose rows not everybody reads. */
export async function tenantCollections(client: Client): Promise<TenantCollection[]> {
  const { rows } = await client.query<TenantCollection>(
    `select c.name, c.source_table::text as table, c.key_columns::text[] as "keyColumns",
            (select jsonb_agg(jsonb_build_object('table', v.vector_table::regclass::text, 'key', v.vector_key, 'column', v.vector_column, 'dimensions', s.dimensions) order by v.number)
               from reembed.versions v join reembed.spaces s on s.id = v.space_id where v.collection_id = c.id and v.state <> 'retired') as versions
       from reembed.collections c
      where (select x.relrowsecurity from pg_class x where x.oid = c.source_table)
        and not exists (select from pg_policy p where p.polrelid = c.source_table and p.polpermissive and p.polcmd in ('r', '*')
                           and coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true')
      order by 1`,
  );
  return rows;
}

interface Column {
  readonly name: string;
  readonly type: string;
  readonly required: boolean;
  readonly isOwner: boolean;
  readonly allowed: string | null;
  readonly parent: string | null;
  readonly parentColumn: string | null;
}

/** The columns that can be written; whose row it is says a policy that compares the column with the caller, or else the column's name. */
async function columnsOf(client: ClientBase, table: string): Promise<Column[]> {
  const { rows } = await client.query<Column>(
    `with policies as (
       select string_agg(concat(pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid)), ' ') as said
         from pg_policy p where p.polrelid = $1::regclass)
     select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull and not a.atthasdef as required,
            coalesce(p.said ~ format('\\m%1$s = \\( ?SELECT auth\\.uid|auth\\.uid\\(\\)[^=]{0,12} = %1$s\\M|\\m%1$s = auth\\.uid', a.attname), false)
              or a.attname in ('owner_id', 'user_id', 'owner', 'tenant_id') as "isOwner",
            (select substring(pg_get_constraintdef(k.oid) from '''([^'']+)''') from pg_constraint k
              where k.conrelid = a.attrelid and k.contype = 'c' and k.conkey = array[a.attnum] limit 1) as allowed,
            f.confrelid::regclass::text as parent, (select b.attname from pg_attribute b where b.attrelid = f.confrelid and b.attnum = f.confkey[1]) as "parentColumn"
       from pg_attribute a cross join policies p
       left join lateral (select * from pg_constraint f where f.conrelid = a.attrelid and f.contype = 'f' and f.conkey = array[a.attnum] limit 1) f on true
      where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
      order by a.attnum`,
    [table],
  );
  return rows;
}

function exampleOf({ type, allowed }: Column, tenant: Tenant): unknown {
  if (allowed !== null) return allowed;
  const text = `${SHARED} ${tenant.secret}`;
  if (type === "text[]") return [text];
  if (/^(text|character varying|citext)/.test(type)) return text;
  if (/^jsonb?$/.test(type)) return JSON.stringify({ text });
  if (type === "uuid") return crypto.randomUUID();
  if (/^(smallint|integer|bigint|numeric|real|double precision)/.test(type)) return 1;
  if (type === "boolean") return true;
  if (/^(timestamp|date)/.test(type)) return "2026-01-01";
  throw new Error(`a row of a tenant needs a value of type ${type}: tell exampleOf how`);
}

/**
 * Writes a row that is the tenant's into any table, with the rows that it refers to. Returns the row.
 * @param given columns with their values
 */
async function insertFor(
  client: ClientBase,
  table: string,
  tenant: Tenant,
  given: Readonly<Record<string, unknown>> = {},
): Promise<Record<string, unknown>> {
  const values: Record<string, unknown> = { ...given };
  for (const column of await columnsOf(client, table)) {
    if (column.name in values) continue;
    const isText = /^(text|character varying|text\[\])/.test(column.type);
    if (column.isOwner) values[column.name] = tenant.id;
    else if (column.parent !== null) {
      if (!column.required || column.parentColumn === null) continue;
      values[column.name] = (await rowOf(client, column.parent, tenant))[column.parentColumn];
    } else if (column.required || isText) values[column.name] = exampleOf(column, tenant);
  }
  const names = Object.keys(values);
  const { rows } = await client.query<{ row: Record<string, unknown> }>(
    `insert into ${table} as t (${names.map((name) => escapeIdentifier(name)).join(", ")}) values (${names.map((_, n) => `$${n + 1}`).join(", ")})
     on conflict do nothing returning to_jsonb(t) as row`,
    Object.values(values),
  );
  return rows[0]?.row ?? values;
}

/** The tenant's row of a table, which is written where there is none: a table may have several collections, or be referred to by another. */
async function rowOf(client: ClientBase, table: string, tenant: Tenant): Promise<Record<string, unknown>> {
  const { rows } = await client.query<{ row: Record<string, unknown> }>(
    `select to_jsonb(t) as row from ${table} t where t::text like $1 limit 1`,
    [`%${tenant.secret}%`],
  );
  return rows[0]?.row ?? insertFor(client, table, tenant);
}

/** All numbers alike: the same direction for everybody, so that a search by meaning asks for all rows at once. */
export const vectorOfWidth = (dimensions: number): string => JSON.stringify(Array(dimensions).fill(0.5));

/** Gives a tenant a row in the collection, with its vector in each version. */
export async function fillFor(
  client: ClientBase,
  collection: TenantCollection,
  tenant: Tenant,
): Promise<void> {
  const row = await rowOf(client, collection.table, tenant);
  const keys = collection.keyColumns.map((name) => row[name]);
  for (const { table, key, column, dimensions } of collection.versions) {
    const vector = vectorOfWidth(dimensions);
    if (table === collection.table) {
      const condition = collection.keyColumns
        .map((name, n) => `${escapeIdentifier(name)} = $${n + 2}`)
        .join(" and ");
      await client.query(`update ${table} set ${escapeIdentifier(column)} = $1 where ${condition}`, [
        vector,
        ...keys,
      ]);
    } else {
      const named = Object.fromEntries(key.map((name, n) => [name, keys[n]]));
      await insertFor(client, table, tenant, { ...named, [column]: vector });
    }
  }
}

/** A way in, as SQL that a role of the API may run. */
export interface Door {
  readonly name: string;
  readonly sql: string;
  readonly values: readonly unknown[];
}

/** Every table, view and function of public that a role may read or call, and what each counts, asked for everything. */
export async function doorsFor(
  client: Client,
  role: string,
  widths: readonly number[],
  collections: readonly string[],
): Promise<Door[]> {
  const { rows: relations } = await client.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and has_any_column_privilege($1, c.oid, 'select') order by 1`,
    [role],
  );
  const { rows: functions } = await client.query<{
    name: string;
    args: { name: string; type: string; optional: boolean }[];
  }>(
    `select p.proname as name,
            coalesce((select jsonb_agg(jsonb_build_object('name', p.proargnames[n], 'type', format_type(t, null), 'optional', n > p.pronargs - p.pronargdefaults) order by n)
                        from unnest(p.proargtypes::oid[]) with ordinality u(t, n)), '[]'::jsonb) as args
       from pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype and has_function_privilege($1, p.oid, 'execute') order by 1`,
    [role],
  );
  const doors: Door[] = relations.flatMap(({ name }) => [
    { name: `select from ${name}`, sql: `select to_jsonb(t) as found from ${name} t`, values: [] },
  ]);
  for (const { name, args } of functions) {
    for (const width of widths) {
      for (const collection of args.some((argument) => argument.name === "collection") ? collections : [""]) {
        const asked = args.flatMap((argument) => {
          const value = widest(argument, width, collection);
          return value === undefined ? [] : [{ argument, value }];
        });
        const list = asked
          .map(({ argument }, n) => `${escapeIdentifier(argument.name)} => $${n + 1}::${argument.type}`)
          .join(", ");
        doors.push({
          name: `${name}, ${width} wide${collection && `, ${collection}`}`,
          sql: `select to_jsonb(f) as found from public.${escapeIdentifier(name)}(${list}) f`,
          values: asked.map(({ value }) => value),
        });
      }
    }
  }
  return doors;
}

/** The value of an argument with which a function gives the most; undefined where leaving it out does. */
function widest(
  argument: { name: string; type: string; optional: boolean },
  width: number,
  collection: string,
): unknown {
  const { name, type, optional } = argument;
  if (name === "collection") return collection;
  if (/vector$|halfvec$/.test(type)) return vectorOfWidth(width);
  if (/^match_count$|^(row_)?limit$|^count$/.test(name)) return 1000;
  if (/threshold|min_similarity/.test(name)) return optional ? null : -1;
  if (/query_text|^query$|^text$|words/.test(name)) return SHARED;
  if (optional) return undefined;
  if (/^(text|character varying)/.test(type)) return SHARED;
  if (type.endsWith("[]")) return [];
  if (/^jsonb?$/.test(type)) return "{}";
  if (type === "uuid") return TENANTS.owner.id;
  if (/^(smallint|integer|bigint)/.test(type)) return 1;
  if (/^(numeric|real|double precision)/.test(type)) return 0.5;
  return null;
}
