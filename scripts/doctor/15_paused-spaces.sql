-- Spaces in which nothing is claimed, although versions in them are maintained. One of vectors brought from elsewhere is meant to be.
select case when s.provider = 'external' then 'info' else 'error' end as level, s.id as object,
       format('it is paused: %s; %s jobs wait', coalesce(s.pause_reason, 'no reason given'), (select count(*) from reembed.jobs j where j.version_id = any (u.versions))) as message,
       format('Mend the cause, then: select reembed.resume_space(%L);', s.id) as fix
  from reembed.spaces s
  join lateral (select array_agg(v.id) as versions from reembed.versions v where v.space_id = s.id and v.maintained) u on u.versions is not null
 where s.paused_until > clock_timestamp()
