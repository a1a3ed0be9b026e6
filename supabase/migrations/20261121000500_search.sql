-- What a client calls: one match RPC for each version, generated from the registry so that v1's and v2's never differ by accident,
-- and the route that says which version is active.
-- Makes: reembed.match_function_sql / create_match_function and the pieces that hybrid RPCs share with them, public.embedding_route.
-- Risks: creating a version's RPC drops an older signature of the same name in the same transaction, because an overload breaks both.
--
-- The shape of a match RPC, each part of which was measured:
--   * Space, width and model are literals: anon cannot read the registry. add_version and set_space make the RPC anew.
--   * `order by column <=> query limit k`, alone and innermost, is what the index serves; the threshold stands outside and the distance
--     is computed once. One statement a search: planning a second one costs more than sorting k rows again.
--   * An index scan looks at ef_search rows, and what of them the caller may not see, or is dead, is missing. How little a policy leaves, no plan knows, since it
--     is made before the caller's rows are counted. So a search goes on only as far as it must (all of it before the threshold):
--       1. one pass of the index, which is all that most callers ever need;
--       2. when it found less than a third of what was asked, the rows that the caller may see are listed, up to exact_rows() of them: if that is all of them,
--          they are compared one by one. A caller who may see three rows of a hundred thousand gets three, and pays for three. To go on with the index
--          would be dearer, and worse: what an iterative scan meets far from the query is not all that there is;
--       3. else the scan goes on, up to 20,000 rows;
--       4. and when that was not enough either, all that the caller may see are compared.
--     Without filters the scans must not sort, where there is an index: the planner takes every caller for an average one, and sorts ten thousand rows of the
--     one who has them.
--   * Rows of several passes through the index are not in the order of their distance, though the planner takes the scan for sorted: `+ 0` makes it sort.
--   * ef_search is the version's own, a literal too: where its index finds too little, set_ef_search raises it.
--   * A stored zero vector has no direction, its distance is NaN, and no index holds it: it is never returned.
--   * In queries, parameters are named with their function: the table may have a column of the same name, which would win.
--   * A custom plan each time: under a generic one `filter is null or column = filter` reads the whole table. So nothing else is
--     planned that need not be: an assignment sets as `perform` does, and is only evaluated.
--   * The planner takes a distance for as cheap as comparing two numbers and does not see that wide vectors are fetched from TOAST, so it
--     reads a table of a few thousand rows instead of its index, ten times slower. cpu_operator_cost tells it, by the width; it still
--     prefers the filter's own index, or the table, where a filter leaves few rows. No plan of this is worth compiling (jit).

create function reembed.query_vector_checks(v reembed.versions, rpc name) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  s reembed.spaces;
  must_be_named boolean;
begin
  select * into strict s from reembed.spaces where id = v.space_id;
  must_be_named := not v.takes_unnamed and exists (
    select from reembed.versions o join reembed.spaces os on os.id = o.space_id
     where o.collection_id = v.collection_id and o.id <> v.id and o.state <> 'retired' and o.space_id <> v.space_id and os.dimensions = s.dimensions);
  return format($checks$
  if query_space is not null and query_space <> %2$L then
    raise exception using errcode = 'RE002',
      message = format('query_space is %%s: %1$s searches vectors of %2$s', left(query_space, 100)), hint = %3$L;
  end if;
  if extensions.vector_dims(query_embedding) <> %4$s then
    raise exception using errcode = 'RE001',
      message = format('query_embedding has %%s dimensions: %1$s searches vectors of %4$s', extensions.vector_dims(query_embedding)), hint = %3$L;
  end if;%5$s
  if extensions.vector_norm(query_embedding) not between 1e-15 and 1e15 then
    raise exception using errcode = 'RE003',
      message = case when extensions.vector_norm(query_embedding) = 0 then 'query_embedding is a zero vector: it has no direction to compare'
                     else 'query_embedding has a length outside 1e-15 to 1e15: distances to it would overflow' end, hint = %3$L;
  end if;
  if match_count is null or match_count not between 1 and 1000 then
    raise exception using errcode = 'RE004',
      message = format('match_count is %%s: it must be between 1 and 1000', coalesce(match_count::text, 'null')), hint = 'Pass how many rows you want at most.';
  end if;$checks$,
    rpc, s.id, reembed.embedding_hint(s), s.dimensions,
    case when must_be_named then format($check$
  if query_embedding is not null and query_space is null then
    raise exception using errcode = 'RE002', message = %L, hint = %L;
  end if;$check$,
      format('query_space is null: %s has two versions of %s dimensions, so a query vector must name its space',
             (select c.name from reembed.collections c where c.id = v.collection_id), s.dimensions),
      format('Embed the query with %s and pass query_space => %L.', s.model, s.id)) else '' end);
end
$$;
comment on function reembed.query_vector_checks(reembed.versions, name) is
  'SQL text with which the RPC of this name refuses a query vector of another space, width or length, and a match_count out of range. A null vector passes.';

create function reembed.embedding_hint(s reembed.spaces) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('Embed the query with %s (%s, %s dimensions).', s.model, s.id, s.dimensions)
$$;
comment on function reembed.embedding_hint(reembed.spaces) is 'What a caller whose vector was refused should do.';

create function reembed.distance_to_query(v reembed.versions, rpc name) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('%s operator(extensions.<=>) %s', reembed.vector_of(v),
                -- Of length 1, because half precision overflows early; a cosine does not see it.
                case when format_type(a.atttypid, a.atttypmod) like 'extensions.halfvec%'
                     then format('extensions.l2_normalize(%I.query_embedding)::%s', rpc, format_type(a.atttypid, a.atttypmod))
                     else format('%I.query_embedding', rpc) end)
    from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column
$$;
comment on function reembed.distance_to_query(reembed.versions, name) is
  'SQL text of the cosine distance from a row''s vector to the RPC''s query_embedding, in the form that the index serves.';

create function reembed.filters_of(c reembed.collections) returns table (parameter text, filtered name, suffix text, n bigint)
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select 'filter_' || f, f, '', n from unnest(c.filter_columns) with ordinality u(f, n)
  union all select 'filter_' || f || '_any', f, '[]', n from unnest(c.list_filter_columns) with ordinality u(f, n)
$$;
comment on function reembed.filters_of(reembed.collections) is
  'The parameters by which an RPC filters: their names, the columns, and what is behind the column''s type: nothing for one value, [] for a list of which any fits.';

create function reembed.filter_parameters(c reembed.collections) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(format(E'  %I %s default null,\n', f.parameter, format_type(a.atttypid, null) || f.suffix), '' order by f.suffix, f.n), '')
    from reembed.filters_of(c) f
    join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attname = f.filtered
$$;
comment on function reembed.filter_parameters(reembed.collections) is 'SQL text of an RPC''s parameters filter_<column> and filter_<column>_any, one a line.';

create function reembed.filter_conditions(c reembed.collections, rpc name, alias text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(format(case f.suffix when '' then ' and (%3$I.%1$I is null or %4$s.%2$I = %3$I.%1$I)' else ' and (%3$I.%1$I is null or %4$s.%2$I = any (%3$I.%1$I))' end,
                                    f.parameter, f.filtered, rpc, alias), '' order by f.suffix, f.n), '')
    from reembed.filters_of(c) f
$$;
comment on function reembed.filter_conditions(reembed.collections, name, text) is 'SQL text of the conditions that the RPC''s filters put on the row `alias`.';

create function reembed.public_types(c reembed.collections) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%I %s', p, format_type(a.atttypid, null)), ', ' order by n)
    from unnest(c.public_columns) with ordinality u(p, n)
    join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attname = p
$$;
comment on function reembed.public_types(reembed.collections) is 'SQL text of the public columns with their types.';

create function reembed.distance_cost(s reembed.spaces) returns numeric
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select greatest(0.0025, s.dimensions / 10000.0)::numeric(6, 4)
$$;
comment on function reembed.distance_cost(reembed.spaces) is 'The cpu_operator_cost under which the planner sees what a distance in this space costs.';

create function reembed.exact_rows(v reembed.versions) returns int
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select least(20000, case a.attstorage when 'p' then 16000000 else 5000000 end / s.dimensions)
    from pg_catalog.pg_attribute a, reembed.spaces s
   where a.attrelid = v.vector_table and a.attname = v.vector_column and s.id = v.space_id
$$;
comment on function reembed.exact_rows(reembed.versions) is
  'How many vectors a search compares one by one, rather than look for the few that its caller may see in the index: as many as take about 30 ms. Three times as many where they stand in their rows (storage plain) and need not be fetched from TOAST.';

create function reembed.match_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  s reembed.spaces;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select * into strict s from reembed.spaces where id = v.space_id;
  return format($sql$
create function public.%1$I(
  query_embedding extensions.vector,
  match_threshold double precision default %2$s,
  match_count integer default 5,
%3$s  query_space text default null
) returns table (%4$s, similarity double precision)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set cpu_operator_cost = %7$s set jit = off
  set enable_sort = on set enable_hashjoin = on set enable_mergejoin = on as $body$
#variable_conflict use_column
<<own>>
declare
  found_rows bigint;
  _scan text;
  _visible tid[];
  _setting text;
begin
  if query_embedding is null then
    raise exception using errcode = 'RE003', message = 'query_embedding is null', hint = %5$L;
  end if;%6$s
  if match_threshold is not null and match_threshold not between -1 and 1 then
    raise exception using errcode = 'RE004',
      message = format('match_threshold is %%s: it must be between -1 and 1, or null for none', match_threshold), hint = 'A similarity is 1 - cosine distance.';
  end if;

  _setting := set_config('hnsw.ef_search', least(1000, greatest(%17$s, 2 * match_count))::text, true);
  _setting := set_config('hnsw.max_scan_tuples', '20000', true);
  _setting := set_config('enable_sort', %18$s, true);
  foreach _scan in array array['off', 'relaxed_order'] loop
    _setting := set_config('hnsw.iterative_scan', _scan, true);
    for %13$s, similarity, found_rows in
      select %14$s, 1 - n._distance, count(*) over ()
        from (select %15$s, %9$s as _distance from %10$s where true%11$s
               order by %9$s limit %1$I.match_count) n
       where n._distance <> 'NaN'
       order by n._distance + 0, %16$s
    loop
      exit when found_rows < match_count or similarity <= match_threshold;
      return next;
    end loop;
    if found_rows >= match_count then
      return;
    end if;
    if _scan = 'relaxed_order' or coalesce(found_rows, 0) * 3 < match_count then
      _visible := coalesce(_visible, array(select t.ctid from %19$s t where true%11$s limit %20$s + 1));
      exit when cardinality(_visible) <= %20$s;
    end if;
  end loop;

  _setting := set_config('enable_sort', 'on', true);
  if cardinality(_visible) <= %20$s then
    _setting := set_config('enable_hashjoin', 'off', true);
    _setting := set_config('enable_mergejoin', 'off', true);
    return query
      select %14$s, 1 - n._distance
        from (select * from (select %15$s, %9$s as _distance from %10$s where t.ctid = any (own._visible) and %12$s is not null offset 0) x
               where x._distance <> 'NaN' order by x._distance limit %1$I.match_count) n
       where %1$I.match_threshold is null or 1 - n._distance > %1$I.match_threshold
       order by n._distance, %16$s;
  else
    return query
      select %14$s, 1 - n._distance
        from (select * from (select %15$s, %9$s as _distance from %10$s where %12$s is not null%11$s offset 0) x
               where x._distance <> 'NaN' order by x._distance limit %1$I.match_count) n
       where %1$I.match_threshold is null or 1 - n._distance > %1$I.match_threshold
       order by n._distance, %16$s;
  end if;
end
$body$;
revoke execute on function public.%1$I from public;
grant execute on function public.%1$I to anon, authenticated, service_role;
comment on function public.%1$I is %8$L;
$sql$,
    v.match_function,
    v.match_threshold,
    reembed.filter_parameters(c),
    reembed.public_types(c),
    reembed.embedding_hint(s),
    reembed.query_vector_checks(v, v.match_function),
    reembed.distance_cost(s),
    format('Rows of %s nearest to query_embedding (%s, %s dimensions), best first; similarity = 1 - cosine distance. RLS decides what the caller sees. Errors: RE001 wrong width, RE002 wrong or unnamed space, RE003 null or zero vector, RE004 match_count or match_threshold out of range.',
           c.name, s.id, s.dimensions),
    reembed.distance_to_query(v, v.match_function),
    format('%s t%s', c.source_table, replace(reembed.vector_join(v), ' left join ', ' join ')),
    reembed.filter_conditions(c, v.match_function, 't'),
    reembed.vector_of(v),
    (select string_agg(format('%I', p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)),
    (select string_agg(format('n.%I', p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)),
    (select string_agg(format('t.%I', p), ', ' order by p) from (select unnest(c.public_columns) union select unnest(c.key_columns)) u(p)),
    reembed.key_list(c, 'n'),
    v.ef_search,
    coalesce((select format('case when num_nonnulls(%s) = 0 then ''off'' else ''on'' end', string_agg(format('%I.%I', v.match_function, f.parameter), ', ')) from reembed.filters_of(c) f
               having count(*) > 0), '''off'''),
    c.source_table,
    reembed.exact_rows(v));
end
$$;
comment on function reembed.match_function_sql(reembed.versions) is 'SQL text of a version''s match RPC, with its grants: width, space and threshold are literals.';

create function reembed.create_match_function(version_id int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  older record;
begin
  select * into strict v from reembed.versions where id = create_match_function.version_id;
  for older in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                where p.pronamespace = 'public'::regnamespace and p.proname = v.match_function loop
    execute format('drop function %s', older.signature);
  end loop;
  execute reembed.match_function_sql(v);
  perform reembed.create_hybrid_function(v);
  perform reembed.create_recent_function(v);
  notify pgrst, 'reload schema';
end
$$;
comment on function reembed.create_match_function(int) is
  'Makes or renews a version''s match RPC in one transaction, older signatures of its name dropped; with it the hybrid RPC (520_hybrid) where the collection has a lexical side, and the recent one (530_recency) where its rows have a time.';

create function reembed.set_ef_search(collection text, version int, ef_search int, actor text default null, reason text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  perform reembed.check_range('ef_search', ef_search, 10, 1000);
  if v.state = 'retired' then
    raise exception using errcode = 'RE010', message = format('version %s of %s was finalized: it is not searched any more', v.number, set_ef_search.collection),
      hint = 'Name a version that still has its vectors.';
  end if;
  update reembed.versions x set ef_search = set_ef_search.ef_search where x.id = v.id;
  perform reembed.create_match_function(v.id);
  insert into reembed.events (actor, kind, collection, version, reason, detail)
  values (coalesce(set_ef_search.actor, session_user), 'set_ef_search', set_ef_search.collection, v.number, set_ef_search.reason,
          jsonb_build_object('from', v.ef_search, 'to', set_ef_search.ef_search));
end
$$;
comment on function reembed.set_ef_search(text, int, int, text, text) is
  'How many candidates the searches of a version keep while they walk its index, 10 to 1000: the remedy where its index finds too little. Its RPCs are made anew, and an evaluation made before counts no more. RE004, RE005, RE006, RE010 on bad arguments.';

create function reembed.has_index(v reembed.versions) returns boolean
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_catalog.pg_index i
      join pg_catalog.pg_class x on x.oid = i.indexrelid
      join pg_catalog.pg_am m on m.oid = x.relam
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      join pg_catalog.pg_opclass o on o.oid = i.indclass[0]
     where i.indrelid = v.vector_table and i.indisvalid and m.amname = 'hnsw' and a.attname = v.vector_column and i.indpred is null and o.opcname like '%cosine_ops')
$$;
comment on function reembed.has_index(reembed.versions) is 'Whether a valid HNSW index for cosine distance stands on the version''s vectors.';

create function reembed.pending(v reembed.versions) returns bigint
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select count(*) from reembed.jobs j where j.version_id = v.id and j.priority = 1 and j.failed_at is null
$$;
comment on function reembed.pending(reembed.versions) is 'How many backfill jobs of a version are not done.';

create function reembed.coverage(v reembed.versions) returns double precision
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  rows_total bigint;
  rows_pending bigint;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select greatest(x.reltuples, 0)::bigint into rows_total from pg_catalog.pg_class x where x.oid = c.source_table;
  if not v.maintained or not reembed.is_intact(v) then
    return 0;
  end if;
  if rows_total < 10000 then
    execute format('select count(*) from %s', c.source_table) into rows_total;
  end if;
  select count(*) into rows_pending from reembed.jobs j where j.version_id = v.id and j.priority = 1;
  return case when rows_total = 0 then 1 else greatest(0, 1 - rows_pending::double precision / rows_total) end;
end
$$;
comment on function reembed.coverage(reembed.versions) is
  'The share (0 to 1) of a collection''s rows that a version does not still have to load; above ten thousand rows the total is the planner''s estimate.';

create function reembed.takes_traffic(v reembed.versions) returns boolean
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(v.state = 'ready' and v.maintained and reembed.is_intact(v), false)
$$;
comment on function reembed.takes_traffic(reembed.versions) is 'Whether a version that is not active may answer a share of the callers: it is ready and kept current.';

create function public.embedding_route(collection text, version int default null, caller_bucket int default null) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(embedding_route.collection);
  v reembed.versions;
  s reembed.spaces;
  is_shared boolean := false;
begin
  if caller_bucket is not null then
    perform reembed.check_range('caller_bucket', caller_bucket, 0, 99);
  end if;
  if embedding_route.version is null then
    if caller_bucket is not null and c.traffic_percent > 0 then
      select * into v from reembed.versions x where x.id = c.traffic_version;
      is_shared := reembed.takes_traffic(v);
    end if;
    if not is_shared or caller_bucket >= c.traffic_percent then
      select * into strict v from reembed.versions x where x.id = c.active_version;
    end if;
  else
    v := reembed.version_numbered(c.name, embedding_route.version);
    if v.state = 'retired' then
      raise exception using errcode = 'RE010', message = format('version %s of collection %s was finalized', v.number, c.name),
        hint = 'Name no version to search the active one.';
    end if;
  end if;
  select * into strict s from reembed.spaces x where x.id = v.space_id;
  return jsonb_build_object(
    'collection', c.name, 'version', v.number, 'active', v.id = c.active_version, 'space', s.id, 'provider', s.provider, 'model', s.model,
    'dimensions', s.dimensions, 'distance', s.distance, 'query_prefix', s.query_prefix, 'document_prefix', s.document_prefix,
    'max_input_tokens', s.max_input_tokens, 'function', v.match_function, 'filters', c.filter_columns, 'threshold', v.match_threshold)
    || case when s.image_tokens is null then '{}'::jsonb else jsonb_build_object('image_tokens', s.image_tokens) end
    || case when v.hybrid_function is null then '{}'::jsonb else jsonb_build_object('hybrid', v.hybrid_function) end
    || case when v.recent_function is null then '{}'::jsonb else jsonb_build_object('recent', v.recent_function) end
    || case when v.state = 'ready' and not exists (select from reembed.jobs j where j.version_id = v.id and j.priority = 1) then '{}'::jsonb
            else jsonb_build_object('coverage', reembed.coverage(v)) end
    || case when c.log_queries then jsonb_build_object('log_queries', true) else '{}'::jsonb end
    || case when is_shared then jsonb_build_object('count_searches', true) else '{}'::jsonb end;
end
$$;
comment on function public.embedding_route(text, int, int) is
  'Which version answers searches of a collection: the one named; else, of a caller in the buckets 0 to 99 below the share of a canary, its version; else the active one: { collection, version, active, space, provider, model, dimensions, distance, query_prefix, document_prefix, max_input_tokens, function, filters, threshold } and, where documents are images, image_tokens;, while it is not fully loaded, coverage (0 to 1); log_queries: true where searches by text are written into the query log, count_searches: true where versions share the callers and their searches are counted. Public and read-only. RE004, RE005, RE006: bad arguments; RE010: finalized.';
revoke execute on function public.embedding_route(text, int, int) from public;
grant execute on function public.embedding_route(text, int, int) to anon, authenticated, service_role;

revoke execute on all functions in schema reembed from public;
