-- What the backfill function answered to the pokes of the last hour, as far as pg_net kept it. A poke that is not waited for to its end is no fault.
select 'error' as level, format('answers with status %s', r.status_code) as object,
       format('%s of the pokes in the last hour, the latest at %s', count(*), to_char(max(r.created) at time zone 'UTC', 'HH24:MI "UTC"')) as message,
       case when r.status_code in (401, 403) then 'The key is not the secret key named backfill: select reembed.set_secret(''backfill_key'', ''<the key>'');'
            when r.status_code = 404 then 'Deploy the function: supabase functions deploy backfill; and check the secret functions_url.'
            else 'The log of the function backfill says why; docs/errors.md lists its codes.' end as fix
  from net._http_response r
 where r.created > now() - interval '1 hour' and r.status_code >= 400
   and (r.content ~ '"request_id"' or r.content ~ 'Requested function was not found')
 group by r.status_code
