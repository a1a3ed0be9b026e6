-- What a client calls: one match RPC for each version, generated from the registry so that v1's and v2's never differ by accident,
-- and the route that says which version is active.
-- Makes: reembed.match_function_sql / create_match_function and the pieces that hybrid RPCs share with them, public.embedding_route.
-- Risks: creating a version's RPC drops an older signature of the same name in the same transaction, because an overload breaks both.
--
-- The shape of a match RPC, each part of which was measured:
--   * Space, width and model are literals: anon cannot read the registry. add_version and set_space make the RPC anew.
--   * `order by column <=> query limit k`, alone and innermost, is what the index serves; the threshold stands outside and the distance
--     is computed once.
--   * An index scan looks at ef_search rows, and what of them the caller may not see, or is dead, is missing. How little a policy leaves, no plan knows, since it
--     is made before the caller's rows are counted. So a search goes on only as far as it must (all of it before the threshold):
--       1. one pass of the index, which is all that most callers ever need;
--       2. when it found less than a third of what was asked, the rows that the caller may see are listed, up to exact_rows() of them: if that is all of them,
--          they are compared one by one. A caller who may see three rows of a hundred thousand gets three, and pays for three. To go on with the index
--          would be dearer, and worse: what an iterative scan meets far from the query is not all that there is;
--       3. else the scan goes on, up to 20,000 rows;
--       4. and when that was not enough either, all that the caller may see are compared.
--     Without filters the scans must not sort, where there is an index: the planner takes every caller for an average one, and sorts ten thousand rows of the
--     one who has them. Nor may it keep what an average caller sees (materialize) to join vectors of another table with: each row that the index gives is looked up.
--   * Rows of several passes through the index are not in the order of their distance, though the planner takes the scan for sorted: `+ 0` makes it sort.
--   * ef_search is the version's own, a literal too: where its index finds too little, set_ef_search raises it.
--   * A stored zero vector has no direction, its distance is NaN, and no index holds it: it is never returned.
--   * In queries, parameters are named with their function: the table may have a column of the same name, which would win.
--   * Planning costs as much as half of a search. Without filters the pass through the index is planned once in a session (a generic plan): there is one way to do
--     it, unless index scans are switched off to compare with an exact search. Filters, and what is counted and compared one by one, are planned each time: under a generic plan `filter is null or column = filter` reads the whole
--     table, and what the policy leaves to one caller is no estimate for the next. An assignment sets as `perform` does, and is not planned at all.
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

create function reembed.query_variable(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when t.name like 'extensions.halfvec%' then format('_query %s;', t.name) else '_query extensions.vector;' end
    from pg_catalog.pg_attribute a, format_type(a.atttypid, a.atttypmod) t(name)
   where a.attrelid = v.vector_table and a.attname = v.vector_column
$$;
comment on function reembed.query_variable(reembed.versions) is 'SQL text of the declaration of an RPC''s variable for the query''s vector, in the form that the index serves.';

create function reembed.query_assignment(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- Of length 1, because half precision overflows early; a cosine does not see it.
  select case when a.atttypid = 'extensions.halfvec'::regtype then '_query := extensions.l2_normalize(query_embedding);' else '_query := query_embedding;' end
    from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column
$$;
comment on function reembed.query_assignment(reembed.versions) is 'SQL text that sets this variable from an RPC''s query_embedding, once it is checked.';

create function reembed.distance_to_query(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$ select format('%s operator(extensions.<=>) own._query', reembed.vector_of(v)) $$;
comment on function reembed.distance_to_query(reembed.versions) is 'SQL text of the cosine distance from a row''s vector to the RPC''s query.';

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

create function reembed.unfiltered(c reembed.collections, rpc name) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(format('%I.%I is null', rpc, f.parameter), ' and '), 'true') from reembed.filters_of(c) f
$$;
comment on function reembed.unfiltered(reembed.collections, name) is 'SQL text of whether an RPC was called without a filter.';

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

create function reembed.search_steps(v reembed.versions, rpc name, selected text, wanted text, by_index text[], one_by_one text[]) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  rows_with_vectors text;
  filters text;
  is_joined constant boolean := not reembed.stands_in_source(v);
  -- Of a pass through the index under the conditions that it is given, which stand between the two.
  pass text[];
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  rows_with_vectors := format('%s t%s', c.source_table, replace(reembed.vector_join(v), ' left join ', ' join '));
  filters := reembed.filter_conditions(c, rpc, 't');
  pass := array[format('%s(select %s, %s as _distance from %s where true', by_index[1], selected, reembed.distance_to_query(v), rows_with_vectors),
                format($sql$
               order by %s limit %s) n
       where n._distance <> 'NaN'%s$sql$, reembed.distance_to_query(v), wanted, by_index[2])];
  return format($sql$
  _generic := %1$s and current_setting('enable_indexscan') = 'on';
  _setting := set_config('plan_cache_mode', case when _generic then 'force_generic_plan' else 'force_custom_plan' end, true);
  _setting := set_config('hnsw.ef_search', least(1000, greatest(%2$s, 2 * %3$s))::text, true);
  _setting := set_config('hnsw.max_scan_tuples', '20000', true);
  _setting := set_config('enable_sort', case when _generic then 'off' else 'on' end, true);%14$s
  foreach _scan in array array['off', 'relaxed_order'] loop
    _setting := set_config('hnsw.iterative_scan', _scan, true);
    %4$s
    exit when found_rows >= %3$s;
    _setting := set_config('plan_cache_mode', 'force_custom_plan', true);
    if _scan = 'relaxed_order' or coalesce(found_rows, 0) * 3 < %3$s then
      _visible := coalesce(_visible, array(select t.ctid from %9$s t where true%8$s limit %10$s + 1));
      exit when cardinality(_visible) <= %10$s;
    end if;
  end loop;
  _setting := set_config('enable_sort', 'on', true);%15$s
  if coalesce(found_rows, 0) >= %3$s then
    null;
  elsif cardinality(_visible) <= %10$s then%16$s
    %11$s(select * from (select %5$s, %6$s as _distance from %7$s where t.ctid = any (own._visible) and %12$s is not null offset 0) x
               where x._distance <> 'NaN' order by x._distance limit %3$s) n%13$s%17$s
  else
    %11$s(select * from (select %5$s, %6$s as _distance from %7$s where %12$s is not null%8$s offset 0) x
               where x._distance <> 'NaN' order by x._distance limit %3$s) n%13$s
  end if;$sql$,
    reembed.unfiltered(c, rpc),
    v.ef_search,
    wanted,
    -- In the one plan for all, filters that are not given would still be taken to leave hardly a row.
    case when filters = '' then array_to_string(pass, '')
         else format(E'if _generic then\n    %s\n    else\n    %s\n    end if;', array_to_string(pass, ''), array_to_string(pass, filters)) end,
    selected,
    reembed.distance_to_query(v),
    rows_with_vectors,
    filters,
    c.source_table,
    reembed.exact_rows(v),
    one_by_one[1],
    reembed.vector_of(v),
    one_by_one[2],
    case when is_joined then E'\n  _setting := set_config(''enable_material'', case when _generic then ''off'' else ''on'' end, true);' else '' end,
    case when is_joined then E'\n  _setting := set_config(''enable_material'', ''on'', true);' else '' end,
    case when is_joined then E'\n    _setting := set_config(''enable_hashjoin'', ''off'', true);\n    _setting := set_config(''enable_mergejoin'', ''off'', true);' else '' end,
    case when is_joined then E'\n    _setting := set_config(''enable_hashjoin'', ''on'', true);\n    _setting := set_config(''enable_mergejoin'', ''on'', true);' else '' end);
end
$$;
comment on function reembed.search_steps(reembed.versions, name, text, text, text[], text[]) is
  'SQL text of the steps above, which an RPC of this name takes to the nearest `wanted` rows: its statement over what the index returned, and its statement over what was compared one by one, each as the text before and behind that source of rows n, which has what is selected of t, and _distance. The first statement sets found_rows.';

create function reembed.search_variables(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format(E'\n  %s\n  found_rows bigint;\n  _generic boolean;\n  _scan text;\n  _visible tid[];\n  _setting text;', reembed.query_variable(v))
$$;
comment on function reembed.search_variables(reembed.versions) is 'SQL text of the declarations that search_steps and query_assignment need, in a block labelled own.';

create function reembed.search_settings(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set cpu_operator_cost = %s set jit = off
  set enable_sort = on%s', reembed.distance_cost(s),
                case when reembed.stands_in_source(v) then '' else ' set enable_hashjoin = on set enable_mergejoin = on set enable_material = on' end)
    from reembed.spaces s where s.id = v.space_id
$$;
comment on function reembed.search_settings(reembed.versions) is 'SQL text of the settings of an RPC that takes search_steps: what these change is as it was when the RPC ends.';

create function reembed.key_arrays(c reembed.collections, prefix text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(E'\n  %s%s %s[];', prefix, n, format_type(a.atttypid, -1)), '' order by n)
    from unnest(c.key_columns) with ordinality u(k, n)
    join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attname = k
$$;
comment on function reembed.key_arrays(reembed.collections, text) is 'SQL text of the declarations of variables that hold the keys of a list of rows, an array for each key column: <prefix>1, <prefix>2, ...';

create function reembed.key_array_names(c reembed.collections, prefix text) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('own.%s%s', prefix, n), ', ' order by n) from unnest(c.key_columns) with ordinality u(k, n)
$$;
comment on function reembed.key_array_names(reembed.collections, text) is 'SQL text of these variables, separated by commas.';

create function reembed.nearest_variables(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select reembed.search_variables(v) || reembed.key_arrays(c, '_near_') || E'\n  _distances double precision[];' from reembed.collections c where c.id = v.collection_id
$$;
comment on function reembed.nearest_variables(reembed.versions) is 'SQL text of the declarations that nearest_steps needs.';

create function reembed.nearest_steps(v reembed.versions, rpc name) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  aggregates text;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select string_agg(format('array_agg(n.%I)', k), ', ' order by n) || ', array_agg(n._distance)' into aggregates from unnest(c.key_columns) with ordinality u(k, n);
  return reembed.search_steps(v, rpc, reembed.key_list(c, 't'), 'own.depth',
    array[format('select %s, count(*) into %s, own._distances, own.found_rows from ', aggregates, reembed.key_array_names(c, '_near_')), ';'],
    array[format('select %s into %s, own._distances from ', aggregates, reembed.key_array_names(c, '_near_')), ';']);
end
$$;
comment on function reembed.nearest_steps(reembed.versions, name) is
  'SQL text that leaves the keys and the distances of the nearest `depth` rows, in no order, in the variables that nearest_rows reads.';

create function reembed.nearest_rows(c reembed.collections) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('unnest(%s, own._distances) n(%s, _distance)', reembed.key_array_names(c, '_near_'),
                (select string_agg(quote_ident(k), ', ' order by n) from unnest(c.key_columns) with ordinality u(k, n)))
$$;
comment on function reembed.nearest_rows(reembed.collections) is 'SQL text of a FROM item n: what nearest_steps left, by the names of the key columns, and _distance.';

create function reembed.match_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  s reembed.spaces;
  found text;
  in_order text;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select * into strict s from reembed.spaces where id = v.space_id;
  select string_agg(format('n.%I', p), ', ' order by n) || ', 1 - n._distance' into found from unnest(c.public_columns) with ordinality u(p, n);
  in_order := reembed.key_list(c, 'n');
  return format($sql$
create function public.%1$I(
  query_embedding extensions.vector,
  match_threshold double precision default %2$s,
  match_count integer default 5,
%3$s  query_space text default null
) returns table (%4$s, similarity double precision)
language plpgsql stable security invoker %7$s as $body$
#variable_conflict use_column
<<own>>
declare%9$s
begin
  if query_embedding is null then
    raise exception using errcode = 'RE003', message = 'query_embedding is null', hint = %5$L;
  end if;%6$s
  if match_threshold is not null and match_threshold not between -1 and 1 then
    raise exception using errcode = 'RE004',
      message = format('match_threshold is %%s: it must be between -1 and 1, or null for none', match_threshold), hint = 'A similarity is 1 - cosine distance.';
  end if;

  %10$s%11$s
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
    reembed.search_settings(v),
    format('Rows of %s nearest to query_embedding (%s, %s dimensions), best first; similarity = 1 - cosine distance. RLS decides what the caller sees. Errors: RE001 wrong width, RE002 wrong or unnamed space, RE003 null or zero vector, RE004 match_count or match_threshold out of range.',
           c.name, s.id, s.dimensions),
    reembed.search_variables(v),
    reembed.query_assignment(v),
    reembed.search_steps(v, v.match_function,
      (select string_agg(format('t.%I', p), ', ' order by p) from (select unnest(c.public_columns) union select unnest(c.key_columns)) u(p)),
      format('%I.match_count', v.match_function),
      array[format('for %s, similarity, found_rows in
      select %s, count(*) over () from ', (select string_agg(quote_ident(p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)), found),
            format('
       order by n._distance + 0, %s
    loop
      exit when found_rows < match_count or similarity <= match_threshold;
      return next;
    end loop;', in_order)],
      array[format('return query select %s from ', found),
            format('
       where %1$I.match_threshold is null or 1 - n._distance > %1$I.match_threshold
       order by n._distance, %2$s;', v.match_function, in_order)]));
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
