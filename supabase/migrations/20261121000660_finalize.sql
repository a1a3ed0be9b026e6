-- The end of a version: it is retired, and what it took is given back.
-- Makes: finalize, finalize_sql, which writes the migration that calls it.
-- Risks: after finalize there is no way back to the version. It takes access exclusive on the collection's table for a moment, under lock_timeout with
-- retry, and so do the drops that follow in the same transaction; what is dropped is unlinked at the commit, so that searches wait for milliseconds.
-- Jobs and records of a large version are swept after it, a part at a time.

create function reembed.finalize(collection text, version int, reason text default null, actor text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v reembed.versions := reembed.version_numbered(collection, version);
  sibling reembed.versions;
  rpc name;
begin
  perform reembed.locked_collection(c.name);
  if exists (select from reembed.collections x where x.id = c.id and x.active_version = v.id) then
    perform reembed.refuse_step(v, 'finalize', 'it is the active version');
  end if;
  if v.state = 'retired' then
    perform reembed.refuse_step(v, 'finalize');
  end if;
  perform reembed.stop_maintaining(v.id, 'finalize', 'retired', finalize.actor, finalize.reason);
  for sibling in select * from reembed.versions x where x.collection_id = c.id and x.state <> 'retired' and reembed.is_intact(x) order by x.id loop
    -- What named the retired version's column, or asked for the name of a space because of it, is renewed in place: no search meets a gap.
    if sibling.maintained then
      execute reembed.trigger_function_sql(sibling);
    end if;
    foreach rpc in array reembed.rpcs_of(sibling) loop
      execute replace(reembed.rpc_sql(sibling, rpc), format('create function public.%I(', rpc), format('create or replace function public.%I(', rpc));
    end loop;
  end loop;
  perform reembed.renew_dependents(c);
end
$$;
comment on function reembed.finalize(text, int, text, text) is
  'Retires a version for good: no edit reaches it any more, no search finds it, no rollback leads to it. Its vectors stay until somebody drops them, as the migration that finalize_sql writes does after it. RE007: it is active; RE009: a table stayed locked for fifteen seconds; RE010: it was finalized before.';

create function reembed.finalize_sql(collection text, version int, keep_rpc boolean default false, reason text default null) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  active reembed.versions;
  in_source constant boolean := reembed.stands_in_source(v);
  drops text := '';
  rpcs text := '';
  index_bytes bigint;
  column_bytes bigint;
  rewrite text;
  found_object record;
begin
  select * into strict active from reembed.versions x where x.id = c.active_version;
  if v.id = active.id then
    perform reembed.refuse_step(v, 'finalize', 'it is the active version');
  end if;
  if v.state = 'retired' then
    perform reembed.refuse_step(v, 'finalize');
  end if;
  for found_object in
    select i.indexrelid::regclass as name from pg_catalog.pg_index i
     join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[]) and a.attname = v.vector_column
    where i.indrelid = v.vector_table order by 1::text loop
    drops := drops || format(E'drop index %s;\n', found_object.name);
  end loop;
  select coalesce(sum(pg_catalog.pg_relation_size(i.indexrelid)), 0) into index_bytes
    from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[]) and a.attname = v.vector_column
   where i.indrelid = v.vector_table;
  if not reembed.is_intact(v) then
    column_bytes := 0;
  elsif in_source then
    -- Four bytes a number, two in half precision, and eight of header: as the type itself counts.
    column_bytes := (select count(*) from reembed.records r where r.version_id = v.id and r.skipped is null)
      * (8 + (select s.dimensions from reembed.spaces s where s.id = v.space_id)
             * (select case when a.atttypid = 'extensions.halfvec'::regtype then 2 else 4 end from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column));
    drops := drops || format(E'alter table %s drop column %I;\n', v.vector_table, v.vector_column);
    rewrite := format('vacuum full %s', v.vector_table);
  else
    column_bytes := pg_catalog.pg_total_relation_size(v.vector_table) - index_bytes;
    drops := format(E'drop table %s;\n', v.vector_table);
  end if;
  for found_object in
    select p.oid, p.proname, p.oid::regprocedure::text as signature, format('public.%I', coalesce(case p.proname when v.hybrid_function then active.hybrid_function when v.recent_function then active.recent_function end, active.match_function)) as heir
      from pg_catalog.pg_proc p
     where p.pronamespace = 'public'::regnamespace and p.proname = any (reembed.rpcs_of(v)) order by p.proname loop
    rpcs := rpcs || case when keep_rpc then format($sql$create or replace function public.%1$I(%2$s) returns %3$s
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $body$
begin
  raise exception using errcode = 'RE010', message = %4$L, hint = %5$L;
end
$body$;
comment on function %6$s is %7$L;
$sql$, found_object.proname, pg_catalog.pg_get_function_arguments(found_object.oid), pg_catalog.pg_get_function_result(found_object.oid),
        format('version %s of collection %s was finalized', v.number, c.name),
        format('Call %s with a vector of %s; embedding_route(%L) always tells which.', found_object.heir, active.space_id, c.name),
        found_object.signature, format('Version %s of %s was finalized: says so (RE010) and names its heir.', v.number, c.name))
      else format(E'drop function %s;\n', found_object.signature) end;
  end loop;
  return jsonb_build_object('collection', c.name, 'version', v.number, 'space', v.space_id, 'active', active.number,
    'index_bytes', index_bytes, 'vector_bytes', column_bytes, 'rewrite', rewrite,
    'sql', format($sql$-- Finalizes version %1$s of %2$s (%3$s). Version %4$s (%5$s) is active.
-- Takes away: its triggers, its index, %6$s%7$s. After it there is no way back to version %1$s.
-- Space: the index's %8$s come back at the commit. %9$s
-- One transaction: when a statement fails, nothing was changed and it can be applied again. It refuses while version %1$s is active.

-- First, since it waits for the tables in the way that searches can bear: short waits with pauses between.
select reembed.finalize(%10$L, %1$s, reason => %11$L);

set local lock_timeout = '5s';
%12$s%13$s
notify pgrst, 'reload schema';
$sql$, v.number, c.name, v.space_id, active.number, active.space_id,
      case when in_source then format('its column %s.%I', v.vector_table, v.vector_column) else format('its table %s', v.vector_table) end,
      case when rpcs = '' then '' when keep_rpc then '; its RPC stays and says that the version was finalized' else ' and its RPC' end,
      pg_catalog.pg_size_pretty(index_bytes),
      case when in_source then format('The column''s %s come back with a rewrite of the table only: `%s` by itself,'
             || E'\n-- after this migration, locks the table until it is done and needs room for a second copy; pg_repack does it without the lock. Without a'
             || E'\n-- rewrite a row''s share is free for new rows once the row is updated and vacuumed.', pg_catalog.pg_size_pretty(column_bytes), rewrite)
           else format('So do the table''s %s.', pg_catalog.pg_size_pretty(column_bytes)) end,
      c.name, coalesce(reason, format('moved to version %s', active.number)), drops, rpcs));
end
$$;
comment on function reembed.finalize_sql(text, int, boolean, text) is
  'The migration that finalizes a version and drops its index, its column or table, and its RPC (or leaves that as an error that names its heir): { collection, version, space, active, index_bytes: back at the commit, vector_bytes, rewrite: the statement that gives a column''s bytes back, null where a table is dropped, sql }. Changes nothing. RE007: it is active, or its column is another''s too; RE010: it was finalized.';

revoke execute on all functions in schema reembed from public;
