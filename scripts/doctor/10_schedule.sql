-- The schedule: there, active, with its secrets, and running.
with jobs as (select j.jobid, j.jobname, j.schedule, j.active from cron.job j where j.jobname ~ '^reembed-backfill-'),
runs as (
  select j.*, (select max(d.start_time) from cron.job_run_details d where d.jobid = j.jobid) as last_start,
         (select count(*) filter (where d.status = 'failed') = 3
            from (select x.status from cron.job_run_details x where x.jobid = j.jobid and x.status in ('failed', 'succeeded') order by x.runid desc limit 3) d) as fails,
         case when j.schedule ~ 'second' or j.schedule = '* * * * *' then interval '10 minutes' else interval '1 day' end as patience
    from jobs j)
select 'info' as level, 'schedule' as object, 'nothing is scheduled: edits wait until a worker runs' as message,
       'select reembed.schedule(); or keep reembed work running.' as fix
 where not exists (select from jobs) and exists (select from reembed.versions v where v.maintained)
union all
select 'error', jobname, 'it is switched off', format('select cron.alter_job(%s, active := true);', jobid) from jobs where not active
union all
select 'error', 'secret ' || n.name, 'it is not set: the poke does not know where to go',
       format('select reembed.set_secret(%L, ''<value>''); see docs/operations.md, Schedule.', n.name)
  from unnest(array['functions_url', 'backfill_key']) n(name) where exists (select from jobs) and reembed.secret(n.name) is null
union all
select 'error', jobname, 'its last three runs failed', 'select reembed.poke(); by hand shows the error; so does return_message in cron.job_run_details.' from runs where active and fails
union all
select 'error', jobname, format('pg_cron has not run it since %s', to_char(last_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')),
       'pg_cron''s background worker does not run: restart the database, or enable pg_cron anew.' from runs where active and last_start < now() - patience
union all
select 'warning', 'schedule', 'cron.job_run_details is not purged, and grows with every tick', 'select reembed.schedule();'
 where exists (select from jobs) and not exists (select from cron.job j where j.jobname = 'reembed-purge' and j.active)
