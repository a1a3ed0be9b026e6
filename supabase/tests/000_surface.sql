-- What holds for everything in public and reembed, whatever a later migration adds. Who may do what is docs/privileges.md.
begin;
select plan(3);

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
  $$ select oid::regprocedure from pg_proc
     where pronamespace in ('public'::regnamespace, 'reembed'::regnamespace)
       and not exists (select from unnest(proconfig) as setting where setting = 'search_path=pg_catalog, pg_temp') $$,
  'every function has a search path that nobody can put a type in front of'
);

select * from finish();
rollback;
