-- Jobs that could be worked on and that nobody claims: no worker runs, or none that can embed in this space.
select 'error' as level, format('%s v%s', c.name, v.number) as object,
       format('its jobs are due, the oldest since %s minutes, and for ten minutes no worker has asked the provider', floor(extract(epoch from now() - w.oldest) / 60)) as message,
       'Start a worker (npm run -s reembed -- work), or mend the schedule.' as fix
  from reembed.versions v join reembed.collections c on c.id = v.collection_id join reembed.spaces s on s.id = v.space_id
  cross join lateral (select min(j.enqueued_at) as oldest from reembed.jobs j where j.version_id = v.id and j.failed_at is null and j.run_at <= now()
                         and (j.priority = 0 or not reembed.is_in_batches(v.id))) w
 where v.maintained and reembed.is_intact(v) and s.provider <> 'external' and coalesce(s.paused_until <= now(), true) and reembed.out_of_budget(v) is null
   and w.oldest < now() - interval '10 minutes'
   and not exists (select from reembed.usage u where u.version_id = v.id and u.at > now() - interval '10 minutes')
