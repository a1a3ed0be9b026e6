-- Leases whose time is over and that nobody took again: their workers died. Nothing is lost; the next claim takes them.
select 'warning' as level, format('%s v%s', c.name, v.number) as object,
       format('%s jobs were leased by workers that died, the first %s minutes ago', count(*), floor(extract(epoch from now() - min(j.lease_until)) / 60)) as message,
       'Run a worker: its claims take them again (npm run -s reembed -- work).' as fix
  from reembed.jobs j join reembed.versions v on v.id = j.version_id join reembed.collections c on c.id = v.collection_id
 where j.lease_token is not null and j.failed_at is null and j.lease_until < now() - interval '10 minutes'
 group by c.name, v.number
