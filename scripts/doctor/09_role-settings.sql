-- Time-outs and memory that were changed for an index build and not put back. While a version is loaded or indexed they may be meant.
with settings as (
  select s.setrole, s.setdatabase, split_part(setting, '=', 1) as name, split_part(setting, '=', 2) as value
    from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) setting
   where s.setrole <> 0 and (s.setdatabase = 0 or d.datname = current_database()))
select 'warning' as level, format('role %s', s.setrole::regrole) as object, x.message,
       format('alter role %s%s reset %s;', s.setrole::regrole, case when s.setdatabase = 0 then '' else format(' in database %I', current_database()) end, s.name) as fix
  from settings s join pg_roles r on r.oid = s.setrole
  cross join lateral (
    select format('statement_timeout is %s: a query that runs away is not ended', s.value) as message
     where s.name = 'statement_timeout' and (s.value in ('0', '0s', '0ms') or s.value ~ '^\d+\s*(h|d)$')
    union all
    select format('maintenance_work_mem is %s: every vacuum and index build of the role may take it', s.value) where s.name = 'maintenance_work_mem') x
 where (r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'postgres')
        or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'reembed'))
   and not exists (select from reembed.versions v where v.state in ('loading', 'indexing'))
