-- The schema reembed is the owner's alone: no API role enters it or holds a right in it, and the API does not expose it.
with api_roles as (select oid, rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role'))
select 'error' as level, 'schema reembed' as object, format('%s may enter it', string_agg(rolname, ', ' order by rolname)) as message,
       'revoke all on schema reembed from public, anon, authenticated, service_role;' as fix
  from api_roles where has_schema_privilege(oid, 'reembed', 'usage, create') having count(*) > 0
union all
select 'error', c.oid::regclass::text, format('%s may use it', string_agg(r.rolname, ', ' order by r.rolname)),
       format('revoke all on %s from public, anon, authenticated, service_role;', c.oid::regclass)
  from pg_class c join api_roles r on has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate, references, trigger')
 where c.relnamespace = 'reembed'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') group by c.oid
union all
select 'error', p.oid::regprocedure::text, format('%s may execute it', string_agg(r.rolname, ', ' order by r.rolname)),
       format('revoke execute on function %s from public, anon, authenticated, service_role;', p.oid::regprocedure)
  from pg_proc p join api_roles r on has_function_privilege(r.oid, p.oid, 'execute')
 where p.pronamespace = 'reembed'::regnamespace group by p.oid
union all
select 'error', 'schema reembed', 'the API exposes it (pgrst.db_schemas)',
       format('alter role authenticator%s set pgrst.db_schemas = %L; notify pgrst, ''reload config'';',
              case when s.setdatabase = 0 then '' else format(' in database %I', current_database()) end,
              (select string_agg(trim(part), ', ' order by n) from unnest(string_to_array(substr(setting, 18), ',')) with ordinality u(part, n) where trim(part) <> 'reembed'))
  from pg_db_role_setting s join pg_roles r on r.oid = s.setrole and r.rolname = 'authenticator', unnest(s.setconfig) setting
 where (s.setdatabase = 0 or s.setdatabase = (select d.oid from pg_database d where d.datname = current_database()))
   and setting ~ '^pgrst\.db_schemas=' and 'reembed' in (select trim(part) from unnest(string_to_array(substr(setting, 18), ',')) part)
