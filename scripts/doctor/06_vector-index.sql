-- Each version that answers, or is about to, has a valid HNSW index; below 2,000 rows an exact scan is as good.
select case when b.pid is null then 'error' else 'info' end as level, i.indexrelid::regclass::text as object,
       case when b.pid is null then 'it is invalid: a build failed, and no search uses it' else format('it is being built by pid %s', b.pid) end as message,
       case when b.pid is null then format('drop index concurrently %s;', i.indexrelid::regclass) else 'Wait: select * from pg_stat_progress_create_index; shows how far it is.' end as fix
  from reembed.versions v
  join pg_index i on i.indrelid = v.vector_table and not i.indisvalid
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = v.vector_column
  left join pg_stat_progress_create_index b on b.index_relid = i.indexrelid
 where v.state <> 'retired'
union all
select case when t.rows >= 2000 then 'error' else 'info' end, format('%s v%s', c.name, v.number),
       format('no HNSW index stands on its vectors: every search reads all %s rows', t.rows), reembed.index_sql(c.name, v.number) || ';'
  from reembed.versions v join reembed.collections c on c.id = v.collection_id
  cross join lateral (select case when reembed.is_intact(v) then coalesce(reembed.table_rows(c), (select greatest(x.reltuples, 0)::bigint from pg_class x where x.oid = c.source_table)) end as rows) t
 where (v.id = c.active_version or v.state in ('ready', 'standby')) and v.state <> 'retired' and reembed.is_intact(v) and not reembed.has_index(v)
