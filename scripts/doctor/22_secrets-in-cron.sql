-- Keys in the commands of pg_cron, which every role that may read cron.job sees.
select 'error' as level, coalesce(j.jobname, 'job ' || j.jobid) as object, 'its command holds a key' as message,
       format('Make a new key; take the old one out: select cron.unschedule(%s); then reembed.set_secret() and reembed.schedule(), or read the key from vault.', j.jobid) as fix
  from cron.job j where j.command ~ $1
