-- What holds for everything in public and reembed, whatever a later migration adds.
begin;
select plan(7);

select is_empty(
  $$ select proname, count(*) from pg_proc where pronamespace = 'public'::regnamespace group by proname having count(*) > 1 $$,
  'no function of public is overloaded: PostgREST could not choose'
);

select is_empty(
  $$ select relname from pg_class
     where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity $$,
  'every table of public has row level security'
);

select is_empty(
  $$ select role, relname, privilege
     from pg_class,
          unnest(array['anon', 'authenticated']) as role,
          unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as privilege
     where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')
       and has_table_privilege(role, pg_class.oid, privilege) $$,
  'anon and authenticated write no table of public'
);

select is_empty(
  $$ select role, proname
     from pg_proc, unnest(array['anon', 'authenticated']) as role
     where pronamespace = 'public'::regnamespace
       and proname !~ '^(match|hybrid)_' and proname <> 'embedding_route'
       and has_function_privilege(role, pg_proc.oid, 'execute') $$,
  'of the functions in public, anon and authenticated execute the searches and embedding_route'
);

select is_empty(
  $$ select role from unnest(array['anon', 'authenticated']) as role where has_schema_privilege(role, 'reembed', 'usage') $$,
  'anon and authenticated cannot enter reembed'
);

select is_empty(
  $$ select role, object
     from unnest(array['anon', 'authenticated']) as role,
          lateral (
            select oid::regprocedure::text as object from pg_proc
            where pronamespace = 'reembed'::regnamespace and has_function_privilege(role, oid, 'execute')
            union all
            select oid::regclass::text from pg_class
            where relnamespace = 'reembed'::regnamespace and relkind in ('r', 'p', 'v', 'm')
              and has_table_privilege(role, oid, 'select, insert, update, delete, truncate')
          ) as objects $$,
  'nor hold a right on anything in it'
);

select is_empty(
  $$ select oid::regprocedure from pg_proc
     where pronamespace in ('public'::regnamespace, 'reembed'::regnamespace)
       and not exists (select from unnest(proconfig) as setting where setting = 'search_path=pg_catalog, pg_temp') $$,
  'every function has a search path that nobody can put a type in front of'
);

select * from finish();
rollback;
