-- What the schedule stands on: pg_cron 1.5 for schedules in seconds, and a way to send the poke.
select 'info' as level, 'extension pg_cron' as object, 'it is not installed here: nothing in the database wakes a worker' as message,
       'Enable pg_cron and run reembed.schedule(), or keep reembed work running.' as fix
 where to_regnamespace('cron') is null
union all
select 'warning', 'extension pg_cron', format('it is %s: schedules in seconds need 1.5', e.extversion), 'alter extension pg_cron update;'
  from pg_extension e where e.extname = 'pg_cron' and string_to_array(e.extversion, '.')::int[] < array[1, 5]
union all
select 'error', 'extensions pg_net, http', 'pg_cron is there, and neither pg_net nor http: the poke cannot be sent',
       case when exists (select from pg_available_extensions a where a.name = 'pg_net') then 'create extension pg_net;' else 'create extension http with schema extensions;' end
 where to_regnamespace('cron') is not null and to_regnamespace('net') is null
   and to_regprocedure('extensions.http(extensions.http_request)') is null
