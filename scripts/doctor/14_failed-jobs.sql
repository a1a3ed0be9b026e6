-- Jobs that were given up, against the share that the collection's gate lets pass.
select case when f.jobs > c.gate_failed_share * t.rows then 'error' else 'warning' end as level, format('%s v%s', c.name, v.number) as object,
       format('%s of its %s rows failed%s', f.jobs, t.rows, case when f.jobs > c.gate_failed_share * t.rows then ': more than its gate lets pass' else '' end) as message,
       format('reembed status shows the reasons; mend them, then: select reembed.retry(%L);', c.name) as fix
  from reembed.versions v join reembed.collections c on c.id = v.collection_id
  cross join lateral (select count(*) as jobs from reembed.jobs j where j.version_id = v.id and j.failed_at is not null) f
  cross join lateral (select case when reembed.is_intact(v) then coalesce(reembed.table_rows(c), (select greatest(x.reltuples, 0)::bigint from pg_class x where x.oid = c.source_table), 0) end as rows) t
 where f.jobs > 0 and v.state <> 'retired' and reembed.is_intact(v)
