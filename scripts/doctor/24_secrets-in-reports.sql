-- Keys that a person or a provider's message has put into our own reports.
select 'error' as level, format('reembed.events, id %s', e.id) as object, 'its reason or detail holds a key' as message,
       format('update reembed.events set reason = null, detail = ''{}'' where id = %s;', e.id) as fix
  from reembed.events e where concat_ws(' ', e.actor, e.reason, e.detail) ~ $1
union all
select 'error', format('reembed.spaces, %s', s.id), 'its pause_reason holds a key', format('update reembed.spaces set pause_reason = ''removed'' where id = %L;', s.id)
  from reembed.spaces s where s.pause_reason ~ $1
union all
select 'error', format('reembed.jobs of version %s', j.version_id), format('%s errors hold a key', count(*)),
       format('update reembed.jobs set error = ''removed'' where version_id = %s and failed_at is not null;', j.version_id)
  from reembed.jobs j where j.error ~ $1 group by j.version_id
union all
select 'error', 'reembed.usage', format('%s outcomes hold a key', count(*)), 'update reembed.usage set outcome = ''removed'' where length(outcome) > 40;'
  from reembed.usage u where u.outcome ~ $1 having count(*) > 0
union all
select 'error', 'reembed.completions', format('%s outcomes hold a key', count(*)), 'update reembed.completions set outcome = ''removed'' where length(outcome) > 40;'
  from reembed.completions u where u.outcome ~ $1 having count(*) > 0
