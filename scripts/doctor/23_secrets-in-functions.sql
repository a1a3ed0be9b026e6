-- Keys in the bodies of functions and in the arguments of triggers, which dumps and every role with a connection see.
select 'error' as level, p.oid::regprocedure::text as object, 'its body holds a key' as message,
       'Make a new key, keep it in vault, and read it there.' as fix
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where n.nspname not in ('pg_catalog', 'information_schema') and p.prosrc ~ $1
   and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select 'warning', format('trigger %I on %s', g.tgname, g.tgrelid::regclass), 'its arguments hold a key, as webhooks of the dashboard do',
       'Make a new key, and call a function that reads it from vault.'
  from pg_trigger g where not g.tgisinternal and encode(g.tgargs, 'escape') ~ $1
