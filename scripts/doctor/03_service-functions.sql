-- The doors for the service are closed to everybody else, and open to it.
select 'error' as level, p.oid::regprocedure::text as object, format('%s may execute it', string_agg(r.rolname, ', ' order by r.rolname)) as message,
       format('revoke execute on function %s from public, anon, authenticated;', p.oid::regprocedure) as fix
  from pg_proc p join pg_roles r on r.rolname in ('anon', 'authenticated') and has_function_privilege(r.oid, p.oid, 'execute')
 where p.pronamespace = 'public'::regnamespace and p.proname ~ '^reembed_'
 group by p.oid
union all
select 'error', p.oid::regprocedure::text, 'service_role may not execute it, so that the edge functions fail',
       format('grant execute on function %s to service_role;', p.oid::regprocedure)
  from pg_proc p join pg_roles r on r.rolname = 'service_role' and not has_function_privilege(r.oid, p.oid, 'execute')
 where p.pronamespace = 'public'::regnamespace and p.proname ~ '^reembed_'
