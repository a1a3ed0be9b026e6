-- How the searches of a collection fare while a worker stores vectors: by this it holds itself back.
-- Makes: watch_searches() with its door for service_role.
-- Risks: none; three searches of ten rows each call, and workers call it twice a second at most.

create function reembed.watch_searches(version_id int) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_sort = off set jit = off as $$
declare
  v reembed.versions;
  index_id oid;
  probe extensions.vector;
  began timestamptz;
begin
  select a.* into v
    from reembed.versions x join reembed.collections c on c.id = x.collection_id join reembed.versions a on a.id = c.active_version
   where x.id = watch_searches.version_id;
  select i.indexrelid into index_id
    from pg_catalog.pg_index i
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    join pg_catalog.pg_am m on m.oid = x.relam
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
   where i.indrelid = v.vector_table and a.attname = v.vector_column and m.amname = 'hnsw' and i.indisvalid limit 1;
  if index_id is null then
    return jsonb_build_object('searches', null, 'search_ms', null);
  end if;
  execute format('select t.%1$I::extensions.vector from %2$s t where t.%1$I is not null limit 1', v.vector_column, v.vector_table) into probe;
  began := clock_timestamp();
  for attempt in 1..3 loop
    execute format('select count(*) from (select from %2$s t order by t.%1$I operator(extensions.<=>) $1%3$s limit 10) x',
      v.vector_column, v.vector_table, (select '::' || format_type(a.atttypid, a.atttypmod) from pg_catalog.pg_attribute a
                                         where a.attrelid = v.vector_table and a.attname = v.vector_column)) using probe;
  end loop;
  return jsonb_build_object('searches', pg_catalog.pg_stat_get_numscans(index_id), 'search_ms', extract(epoch from clock_timestamp() - began) * 1000 / 3);
end
$$;
comment on function reembed.watch_searches(int) is
  'How the collection of a version is searched now: { searches: how often the active version''s index was read so far, by PostgreSQL''s counter, to which each call adds three; search_ms: the mean of these three searches }. Both null where the active version has no index: such a table is small.';

create function public.reembed_watch_searches(version_id int) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.watch_searches(version_id)
$$;
revoke execute on function public.reembed_watch_searches(int) from public, anon, authenticated;
grant execute on function public.reembed_watch_searches(int) to service_role;
comment on function public.reembed_watch_searches(int) is 'For service_role: reembed.watch_searches, which documents it.';

revoke execute on all functions in schema reembed from public;
