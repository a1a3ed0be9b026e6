-- Settings of roles, of the database or of our RPCs that stand in the way of the index. The RPCs set ef_search and the iterative scan themselves.
with settings as (
  select case when s.setrole = 0 then format('alter database %I', d.datname)
              when s.setdatabase = 0 then format('alter role %s', s.setrole::regrole)
              else format('alter role %s in database %I', s.setrole::regrole, d.datname) end as place,
         split_part(setting, '=', 1) as name, split_part(setting, '=', 2) as value
    from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) setting
   where s.setdatabase = 0 or d.datname = current_database())
select 'error' as level, substr(place, 7) as object, format('%s is %s: no search uses the vector index', name, value) as message, format('%s reset %s;', place, name) as fix
  from settings where name in ('enable_indexscan', 'enable_sort') and value in ('off', 'false', '0', 'no')
union all
select 'warning', substr(place, 7), format('%s is %s: it holds for SQL of your own, not for the match RPCs, which set their own', name, value), format('%s reset %s;', place, name)
  from settings where name ~ '^hnsw\.'
union all
select 'warning', 'public.' || p.proname, format('%s is set on it: the body sets its own, and the setting is an error for roles that have not loaded pgvector', split_part(setting, '=', 1)),
       format('alter function %s reset %s;', p.oid::regprocedure, split_part(setting, '=', 1))
  from reembed.versions v join pg_proc p on p.pronamespace = 'public'::regnamespace and p.proname = any (reembed.rpcs_of(v)), unnest(p.proconfig) setting
 where setting ~ '^hnsw\.'
