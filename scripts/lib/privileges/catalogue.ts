/** What the catalogue says each role may do with each object of the schemas public and reembed. */
import type { ClientBase } from "pg";

/** `PUBLIC`: what is granted to everybody, and so to every role that will ever be made. */
export const ROLES = ["anon", "authenticated", "service_role", "PUBLIC"] as const;
export type Role = (typeof ROLES)[number];

export interface ObjectPrivileges {
  readonly schema: "public" | "reembed";
  readonly kind: "schema" | "table" | "view" | "sequence" | "function";
  readonly name: string;
  /** Of each role, in the order of ROLES: what it may do, empty for nothing. */
  readonly rights: readonly string[];
  /** Of a table its row level security and policies, of a function whose rights it runs with; else empty. */
  readonly detail: string;
}

/**
 * Each object with what `has_..._privilege` says, whoever granted it. A right on some columns alone names them. PUBLIC is read from the grants.
 * Columns: schema, kind, name, role, rights, detail; one row an object and role.
 */
const OBJECTS = `
  with roles as (select role, n from unnest($1::text[]) with ordinality u(role, n)),
  objects as (
    select n.nspname as schema, 'schema' as kind, n.nspname::text as name, n.oid, '' as detail, n.nspacl as acl, acldefault('n', n.nspowner) as usual,
           array['usage', 'create'] as asked
      from pg_namespace n where n.nspname in ('public', 'reembed')
    union all
    select n.nspname, case when c.relkind in ('r', 'p') then 'table' when c.relkind = 'S' then 'sequence' else 'view' end, c.relname::text, c.oid,
           case when c.relkind not in ('r', 'p') then coalesce((select string_agg(o, ', ' order by o) from unnest(c.reloptions) o), '')
                when not c.relrowsecurity then 'no row level security: all'
                else coalesce((select string_agg(format('%s to %s where %s%s', lower(p.cmd), array_to_string(p.roles, ', '), coalesce(p.qual, 'true'),
                                                        ', checked ' || p.with_check), '; ' order by p.cmd, p.policyname)
                                 from pg_policies p where p.schemaname = n.nspname and p.tablename = c.relname), 'no policy') end,
           c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner),
           case c.relkind when 'S' then array['usage', 'select', 'update']
                else array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger', 'maintain'] end
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('public', 'reembed') and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       -- An identity's sequence is written through its table.
       and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i')
    union all
    select n.nspname, 'function', p.proname::text, p.oid, case when p.prosecdef then 'its owner''s rights' else '' end,
           p.proacl, acldefault('f', p.proowner), array['execute']
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname in ('public', 'reembed')
       and not exists (select from pg_depend d where d.objid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'e'))
  select o.schema, o.kind, o.name, r.role, o.detail,
         coalesce((select string_agg(a.one, ', ' order by a.n) from (
           select u.n, u.asked || case when whole then '' else ' (' || some_columns || ')' end as one
             from unnest(o.asked) with ordinality u(asked, n)
             cross join lateral (select case
                 when r.role = 'PUBLIC' then exists (select from aclexplode(coalesce(o.acl, o.usual)) x where x.grantee = 0 and lower(x.privilege_type) = u.asked)
                 when o.kind = 'schema' then has_schema_privilege(r.role, o.oid, u.asked)
                 when o.kind = 'sequence' then has_sequence_privilege(r.role, o.oid, u.asked)
                 when o.kind = 'function' then has_function_privilege(r.role, o.oid, u.asked)
                 else has_table_privilege(r.role, o.oid, u.asked) end as whole) w
             left join lateral (
               select string_agg(t.attname, ', ' order by t.attnum) as some_columns from pg_attribute t
                where not whole and o.kind in ('table', 'view') and t.attacl is not null and t.attrelid = o.oid and t.attnum > 0 and not t.attisdropped and u.asked in ('select', 'insert', 'update', 'references')
                  and case when r.role = 'PUBLIC' then exists (select from aclexplode(t.attacl) x where x.grantee = 0 and lower(x.privilege_type) = u.asked)
                           else has_column_privilege(r.role, o.oid, t.attnum, u.asked) end) c on true
            where whole or some_columns is not null) a), '') as rights
    from objects o cross join roles r
   order by o.schema, array_position(array['schema', 'table', 'view', 'sequence', 'function'], o.kind), o.name collate "C", r.n`;

/** @param client the owner of what migrations make */
export async function readPrivileges(client: ClientBase): Promise<ObjectPrivileges[]> {
  const { rows } = await client.query<Omit<ObjectPrivileges, "rights"> & { role: Role; rights: string }>(
    OBJECTS,
    [ROLES],
  );
  return Array.from({ length: rows.length / ROLES.length }, (_, at) => {
    const ofOne = rows.slice(at * ROLES.length, (at + 1) * ROLES.length);
    const [first] = ofOne;
    if (first === undefined) throw new Error("the catalogue answered nothing");
    const { schema, kind, name, detail } = first;
    return { schema, kind, name, detail, rights: ofOne.map(({ rights }) => rights) };
  });
}

/** Tables, views, sequences and functions of the client's role in other schemas: the page has no place for them. */
const STRAYS = `
  select format('%s %I.%I', o.kind, n.nspname, o.name) as stray
    from (select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.relnamespace as schema, c.relname as name, c.relowner as owner,
                 'pg_class'::regclass as class, c.oid
            from pg_class c where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
          union all
          select 'function', p.pronamespace, p.proname, p.proowner, 'pg_proc'::regclass, p.oid from pg_proc p) o
    join pg_namespace n on n.oid = o.schema
   -- supabase_migrations is the Supabase CLI's own.
   where n.nspname not in ('public', 'reembed', 'supabase_migrations') and o.owner = current_user::regrole
     and not exists (select from pg_depend d where d.classid = o.class and d.objid = o.oid and d.deptype = 'e')
   order by 1`;

/** What migrations have made outside `public` and `reembed`, which they must not. */
export async function readStrays(client: ClientBase): Promise<string[]> {
  const { rows } = await client.query<{ stray: string }>(STRAYS);
  return rows.map(({ stray }) => stray);
}
