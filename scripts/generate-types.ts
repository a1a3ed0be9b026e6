/**
 * Writes `supabase/functions/_shared/database.types.ts`: what supabase-js needs to know of the schema public, in the form of `supabase gen
 * types typescript`. That command wants Docker, and types a vector argument as a string where clients pass an array of numbers; this
 * reads the same catalogue and types it as what is passed.
 *
 *   npm run types            write the file
 *   npm run types -- --check fail when the committed file is not what the migrations give
 */
import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { ClientBase } from "pg";
import { MIGRATIONS_DIRECTORY } from "./lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, findServer, withClient } from "./lib/test-server.ts";

const TYPES_FILE = fileURLToPath(new URL("../supabase/functions/_shared/database.types.ts", import.meta.url));

interface Column {
  readonly name: string;
  readonly type: string;
  readonly nullable: boolean;
  /** May be left out of an insert. */
  readonly optional: boolean;
  /** Computed by the database: no insert may name it. */
  readonly generated: boolean;
}

interface Relation {
  readonly name: string;
  readonly kind: "table" | "view";
  readonly columns: readonly Column[];
  readonly relationships: readonly {
    readonly foreignKeyName: string;
    readonly columns: readonly string[];
    readonly isOneToOne: boolean;
    readonly referencedRelation: string;
    readonly referencedColumns: readonly string[];
  }[];
}

interface Routine {
  readonly name: string;
  readonly args: readonly { readonly name: string; readonly type: string; readonly optional: boolean }[];
  readonly isSet: boolean;
  readonly returns: string;
  /** The table or view whose row it returns. */
  readonly returnsRelation: string | null;
  /** The columns of `returns table (...)`, or of OUT arguments. */
  readonly returnsColumns: readonly { readonly name: string; readonly type: string }[] | null;
}

interface EnumType {
  readonly name: string;
  readonly values: readonly string[];
}

// Types are told by name, with `[]` behind an array's and a domain resolved; what an extension made is left out.
const RELATIONS = `
  select relation.relname as name,
         case when relation.relkind in ('v', 'm') then 'view' else 'table' end as kind,
         (select jsonb_agg(jsonb_build_object(
            'name', attname,
            'type', case when type.typelem <> 0 and type.typcategory = 'A' then type.typelem::regtype::text || '[]'
                         when type.typtype = 'd' then type.typbasetype::regtype::text
                         else type.oid::regtype::text end,
            'nullable', not attnotnull,
            'optional', not attnotnull or atthasdef or attidentity <> '',
            'generated', attgenerated <> '' or attidentity = 'a') order by attname)
          from pg_attribute join pg_type as type on type.oid = atttypid
          where attrelid = relation.oid and attnum > 0 and not attisdropped) as columns,
         coalesce((select jsonb_agg(jsonb_build_object(
            'foreignKeyName', conname,
            'columns', (select jsonb_agg(attname order by position)
                        from unnest(conkey) with ordinality as k (number, position)
                        join pg_attribute on attrelid = conrelid and attnum = k.number),
            'isOneToOne', exists (select from pg_index where indrelid = conrelid and indisunique and indpred is null
                                  and conkey @> indkey::smallint[] and conkey <@ indkey::smallint[]),
            'referencedRelation', confrelid::regclass::text,
            'referencedColumns', (select jsonb_agg(attname order by position)
                                  from unnest(confkey) with ordinality as k (number, position)
                                  join pg_attribute on attrelid = confrelid and attnum = k.number)) order by conname)
          from pg_constraint join pg_class as referenced on referenced.oid = confrelid
          where contype = 'f' and conrelid = relation.oid
            and referenced.relnamespace = 'public'::regnamespace), '[]') as relationships
  from pg_class as relation
  where relation.relnamespace = 'public'::regnamespace and relation.relkind in ('r', 'p', 'v', 'm', 'f')
    and not exists (select from pg_depend where objid = relation.oid and deptype = 'e')
  order by relation.relname`;

const ROUTINES = `
  select routine.proname as name,
         coalesce((select jsonb_agg(jsonb_build_object(
            'name', coalesce(routine.proargnames[position], ''),
            'type', oid::regtype::text,
            'optional', position > routine.pronargs - routine.pronargdefaults) order by position)
          from unnest(routine.proargtypes::oid[]) with ordinality as argument (oid, position)), '[]') as args,
         routine.proretset as "isSet",
         routine.prorettype::regtype::text as returns,
         (select relname from pg_class
          where reltype = routine.prorettype and relnamespace = 'public'::regnamespace) as "returnsRelation",
         (select jsonb_agg(jsonb_build_object('name', routine.proargnames[position], 'type', oid::regtype::text) order by position)
          from unnest(routine.proallargtypes) with ordinality as argument (oid, position)
          where routine.proargmodes[position] in ('t', 'o', 'b')) as "returnsColumns"
  from pg_proc as routine
  where routine.pronamespace = 'public'::regnamespace and routine.prokind = 'f'
    and routine.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
    and not exists (select from pg_depend where objid = routine.oid and deptype = 'e')
  order by routine.proname`;

const ENUMS = `
  select typname as name, jsonb_agg(enumlabel order by enumsortorder) as values
  from pg_type join pg_enum on enumtypid = pg_type.oid
  where typnamespace = 'public'::regnamespace
  group by typname order by typname`;

const NUMBERS = new Set(["smallint", "integer", "bigint", "real", "double precision", "numeric", "oid"]);
const VECTORS = new Set(["vector", "halfvec"]);

/**
 * The types of the schema public, as the text of a TypeScript module, not yet formatted.
 * @throws Error when a function of public is overloaded: PostgREST could not choose, nor could a type.
 */
async function generateTypes(client: ClientBase): Promise<string> {
  // Names of types in these two schemas then come without the schema.
  await client.query("set search_path = public, extensions");
  const { rows: relations } = await client.query<Relation>(RELATIONS);
  const { rows: routines } = await client.query<Routine>(ROUTINES);
  const { rows: enums } = await client.query<EnumType>(ENUMS);
  const overloaded = routines.find((routine, index) => routine.name === routines[index - 1]?.name);
  if (overloaded) throw new Error(`public.${overloaded.name} is overloaded`);

  const tables = relations.filter((relation) => relation.kind === "table");
  const views = relations.filter((relation) => relation.kind === "view");
  return `// Written by "npm run types" from the migrations. Do not edit.

export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];

export type Database = {
  public: {
    Tables: ${record(tables, (table) => relationType(table, enums))};
    Views: ${record(views, (view) => relationType(view, enums))};
    Functions: ${record(routines, (routine) => routineType(routine, enums))};
    Enums: ${record(enums, (type) => type.values.map(quote).join(" | "))};
    CompositeTypes: { [_ in never]: never };
  };
};
`;
}

function relationType(relation: Relation, enums: readonly EnumType[]): string {
  const writable = (column: Column, optional: boolean) => {
    if (column.generated) return `${quote(column.name)}?: never`;
    return `${quote(column.name)}${optional ? "?" : ""}: ${sent(column.type, enums)}${orNull(column)}`;
  };
  const parts = [
    `Row: { ${relation.columns.map((c) => `${quote(c.name)}: ${received(c.type, enums)}${orNull(c)}`).join("; ")} }`,
  ];
  if (relation.kind === "table") {
    parts.push(
      `Insert: { ${relation.columns.map((c) => writable(c, c.optional)).join("; ")} }`,
      `Update: { ${relation.columns.map((c) => writable(c, true)).join("; ")} }`,
    );
  }
  parts.push(`Relationships: ${JSON.stringify(relation.relationships)}`);
  return `{ ${parts.join("; ")} }`;
}

function routineType(routine: Routine, enums: readonly EnumType[]): string {
  const args = routine.args.map(
    (arg) => `${quote(arg.name)}${arg.optional ? "?" : ""}: ${sent(arg.type, enums)}`,
  );
  const { returnsColumns, returnsRelation, isSet } = routine;
  let returns = received(routine.returns, enums);
  if (returnsRelation !== null) {
    returns = `Database['public']['Tables'][${quote(returnsRelation)}]['Row']`;
  } else if (returnsColumns !== null && (isSet || returnsColumns.length > 1)) {
    returns = `{ ${returnsColumns.map((c) => `${quote(c.name)}: ${received(c.type, enums)}`).join("; ")} }`;
  }
  return `{ Args: ${args.length === 0 ? "never" : `{ ${args.join("; ")} }`}; Returns: ${isSet ? `(${returns})[]` : returns} }`;
}

/** What PostgREST answers for a value of this type. */
function received(type: string, enums: readonly EnumType[]): string {
  if (type.endsWith("[]")) return `(${received(type.slice(0, -2), enums)})[]`;
  if (NUMBERS.has(type)) return "number";
  if (type === "boolean") return "boolean";
  if (type === "json" || type === "jsonb") return "Json";
  if (type === "void") return "undefined";
  if (enums.some((known) => known.name === type)) return `Database['public']['Enums'][${quote(type)}]`;
  return "string";
}

/** What PostgREST takes for it: a vector as an array of numbers or as its text; an array of vectors only as texts. */
function sent(type: string, enums: readonly EnumType[]): string {
  return VECTORS.has(type) ? "number[] | string" : received(type, enums);
}

function orNull(column: Column): string {
  return column.nullable ? " | null" : "";
}

function quote(text: string): string {
  return JSON.stringify(text);
}

function record<T extends { readonly name: string }>(
  entries: readonly T[],
  type: (entry: T) => string,
): string {
  if (entries.length === 0) return "{ [_ in never]: never }";
  return `{ ${entries.map((entry) => `${quote(entry.name)}: ${type(entry)}`).join("; ")} }`;
}

/** Formats TypeScript as the rest of the repository. */
function format(source: string): string {
  const biome = fileURLToPath(new URL("../node_modules/.bin/biome", import.meta.url));
  const result = spawnSync(biome, ["format", `--stdin-file-path=${TYPES_FILE}`], {
    input: source,
    encoding: "utf8",
  });
  if (result.status !== 0) throw new Error(`biome cannot format the generated types: ${result.stderr}`);
  return result.stdout;
}

/** The formatted types of the schema public in the database that `url` names. */
export async function typesOf(url: string): Promise<string> {
  return format(await withClient(url, generateTypes));
}

/** True when the committed file is exactly this text. */
export async function isCommitted(types: string): Promise<boolean> {
  return (await readFile(TYPES_FILE, "utf8").catch(() => "")) === types;
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } });
  const server = await findServer(process.env);
  if (server === null) throw new Error('no PostgreSQL for this: "npm run postgres" starts one');
  const name = await cloneDatabase(server, { defaults: "old", migrations: MIGRATIONS_DIRECTORY });
  try {
    const types = await typesOf(databaseUrl(server, name, "postgres"));
    if (!values.check) await writeFile(TYPES_FILE, types);
    else if (!(await isCommitted(types))) {
      console.error("database.types.ts is not what the migrations give: npm run types, and commit it");
      process.exitCode = 1;
    }
  } finally {
    await dropDatabase(server, name);
  }
}
