-- Searching by words beside searching by meaning: one hybrid RPC for each version of a collection that has a lexical side.
-- Makes: collections.lexical_expression and lexical_config, versions.hybrid_function, reembed.set_lexical_search,
-- reembed.hybrid_function_sql / create_hybrid_function. create_match_function makes both RPCs of a version.
-- Risks: none for existing data. A function of the app that already has the name of a hybrid RPC is refused, not replaced.
--
-- The shape of a hybrid RPC, beside what 500_search says of a match RPC:
--   * Two lists, each from a limited subquery of its own, so that each is read from its own index; the places are counted outside.
--     row_number() over (order by column <=> query) in the subquery itself would read the whole table.
--   * Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009): a row's score is the sum over the lists of weight / (rrf_k + its place).
--   * A list is deeper than the answer, so that a row that stands middling in both can win; not much, because a wide vector is fetched for each of its rows.
--   * A GIN index does not know ranks: each row with the words is ranked. Of words that stand in more than three hundred rows three hundred
--     are ranked, in the table's order: such words tell rows apart badly, and ranking all of them would cost more than the whole search.
--   * What no index can look up (stop words alone, negations alone) makes no list: the meaning answers.
--   * PostgreSQL looks rows up by words only where no policy of the caller's hides rows, because @@ is not leakproof; under other policies
--     it reads the rows that the policy lets through.

alter table reembed.collections
  add column lexical_expression text,
  add column lexical_config text,
  add check ((lexical_expression is null) = (lexical_config is null));
comment on column reembed.collections.lexical_expression is
  'A tsvector over the table''s columns, written as in its GIN index: a column or an immutable expression. Null: the collection is searched by meaning alone.';
comment on column reembed.collections.lexical_config is 'The text search configuration that reads queries, by its name: pg_upgrade takes no column of type regconfig.';

alter table reembed.versions add column hybrid_function name unique;
comment on column reembed.versions.hybrid_function is 'Its hybrid RPC; null while the collection has no lexical side.';

create function reembed.lexical_candidates() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 300';
comment on function reembed.lexical_candidates() is 'How many rows that have the words of a query are ranked at most.';

create function reembed.hybrid_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  s reembed.spaces;
  bare_table text;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select * into strict s from reembed.spaces where id = v.space_id;
  -- The expression may name the table: it stands there without an alias.
  select quote_ident(x.relname) into strict bare_table from pg_catalog.pg_class x where x.oid = c.source_table;
  return format($sql$
create function public.%1$I(
  query_text text,
  query_embedding extensions.vector default null,
  match_count integer default 5,
  rrf_k integer default 60,
  full_text_weight double precision default 1,
  semantic_weight double precision default 1,
%2$s  query_space text default null
) returns table (%3$s, similarity double precision, score double precision)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set cpu_operator_cost = %4$s set jit = off as $body$
#variable_conflict use_column
<<own>>
declare
  depth int;
  semantic boolean;
  full_text tsquery;
begin
  if query_text is null or length(query_text) > 8000 then
    raise exception using errcode = 'RE004',
      message = case when query_text is null then 'query_text is null' else 'query_text has more than 8000 characters' end, hint = 'Pass the words to look for; an empty text has none.';
  end if;%5$s
  if rrf_k is null or rrf_k not between 1 and 10000 then
    raise exception using errcode = 'RE004',
      message = format('rrf_k is %%s: it must be between 1 and 10000', coalesce(rrf_k::text, 'null')), hint = 'The smaller it is, the more the first places count; 60 is usual.';
  end if;
  if full_text_weight between 0 and 1000 and semantic_weight between 0 and 1000 and full_text_weight + semantic_weight > 0 then
    null;
  else
    raise exception using errcode = 'RE004',
      message = 'full_text_weight and semantic_weight must be between 0 and 1000 and not both 0', hint = 'A list of weight 0 is left out.';
  end if;

  depth := least(1000, greatest(20, 2 * match_count));
  semantic := query_embedding is not null and semantic_weight > 0;
  if full_text_weight > 0 then
    begin
      full_text := websearch_to_tsquery(%6$L::regconfig, query_text);
    exception when internal_error or program_limit_exceeded then
      -- More than thirty negations in a row are too deep for it ("tsquery stack too small"): then the bare words.
      full_text := plainto_tsquery(%6$L::regconfig, query_text);
    end;
    -- Nothing in it that an index could look up.
    if querytree(full_text) in ('', 'T') then
      full_text := null;
    end if;
  end if;
  perform set_config('hnsw.iterative_scan', 'relaxed_order', true),
          set_config('hnsw.ef_search', least(1000, greatest(%23$s, 2 * depth))::text, true),
          set_config('hnsw.max_scan_tuples', '20000', true);

  return query
    with near as materialized (
      select %7$s, %8$s as _distance from %9$s where own.semantic%10$s order by %8$s limit own.depth
    ), exact as materialized (
      -- As in a match RPC: all rows, where the index had fewer than asked.
      select * from (select %7$s, %8$s as _distance from %9$s
                      where own.semantic and (select count(*) from near n where n._distance <> 'NaN') < own.depth and %11$s is not null%10$s offset 0) x
       where x._distance <> 'NaN' order by x._distance limit own.depth
    ), by_meaning as (
      select %12$s, row_number() over (order by n._distance, %12$s) as _place
        from (select * from near where _distance <> 'NaN' and not exists (select from exact) union all select * from exact) n
    ), by_words as (
      select %12$s, row_number() over (order by n._rank desc, %12$s) as _place
        from (select w.*, ts_rank_cd(w._words, own.full_text) as _rank
                from (select %13$s, %14$s as _words from %15$s where %14$s @@ own.full_text%16$s limit %17$s) w
               order by _rank desc, %18$s limit own.depth) n
    ), fused as (
      select %12$s, sum(n._part) as _score, min(n._nearness) as _nearness
        from (select m.*, m._place as _nearness, %1$I.semantic_weight / (%1$I.rrf_k + m._place) as _part from by_meaning m
              union all
              select w.*, null, %1$I.full_text_weight / (%1$I.rrf_k + w._place) from by_words w) n
       group by %12$s
       order by _score desc, _nearness, %12$s
       limit %1$I.match_count
    )
    select %19$s, 1 - nullif(%8$s, 'NaN'), n._score
      from fused n join %15$s t on %20$s%21$s
     order by n._score desc, n._nearness, %12$s;
end
$body$;
revoke execute on function public.%1$I from public;
grant execute on function public.%1$I to anon, authenticated, service_role;
comment on function public.%1$I is %22$L;
$sql$,
    v.hybrid_function,
    reembed.filter_parameters(c),
    reembed.public_types(c),
    reembed.distance_cost(s),
    reembed.query_vector_checks(v, v.hybrid_function),
    c.lexical_config,
    reembed.key_list(c, 't'),
    reembed.distance_to_query(v, v.hybrid_function),
    format('%s t%s', c.source_table, replace(reembed.vector_join(v), ' left join ', ' join ')),
    reembed.filter_conditions(c, v.hybrid_function, 't'),
    reembed.vector_of(v),
    reembed.key_list(c, 'n'),
    reembed.key_list(c, bare_table),
    format('(%s)', c.lexical_expression),
    c.source_table,
    reembed.filter_conditions(c, v.hybrid_function, bare_table),
    reembed.lexical_candidates(),
    reembed.key_list(c, 'w'),
    (select string_agg(format('t.%I', p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)),
    (select string_agg(format('t.%1$I operator(pg_catalog.=) n.%1$I', k), ' and ' order by n) from unnest(c.key_columns) with ordinality u(k, n)),
    reembed.vector_join(v),
    format('Rows of %s by the words of query_text (%s) and by nearness to query_embedding (%s, %s dimensions), fused by reciprocal rank, best first. Without query_embedding by words alone; similarity is then null. RLS decides what the caller sees. Errors: RE001 wrong width, RE002 wrong or unnamed space, RE003 zero vector, RE004 an argument out of range.',
           c.name, c.lexical_config, s.id, s.dimensions),
    v.ef_search);
end
$$;
comment on function reembed.hybrid_function_sql(reembed.versions) is
  'SQL text of a version''s hybrid RPC, with its grants: width, space, expression and configuration are literals.';

create function reembed.create_hybrid_function(v reembed.versions) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  older record;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  if c.lexical_expression is null then
    return;
  end if;
  if v.hybrid_function is null then
    v.hybrid_function := format('hybrid_%s%s', c.name, case when v.number > 1 then '_v' || v.number else '' end);
    if exists (select from pg_catalog.pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = v.hybrid_function) then
      raise exception using errcode = 'RE008', message = format('public.%s exists and is not this project''s', v.hybrid_function),
        hint = 'Rename or drop that function, then run the same again.';
    end if;
    update reembed.versions x set hybrid_function = v.hybrid_function where x.id = v.id;
  end if;
  for older in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                where p.pronamespace = 'public'::regnamespace and p.proname = v.hybrid_function loop
    execute format('drop function %s', older.signature);
  end loop;
  execute reembed.hybrid_function_sql(v);
  notify pgrst, 'reload schema';
end
$$;
comment on function reembed.create_hybrid_function(reembed.versions) is
  'Makes or renews a version''s hybrid RPC; does nothing where the collection has no lexical side. RE008: a function of that name is somebody else''s.';

create function reembed.set_lexical_search(collection text, expression text, config regconfig) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  taken name;
  expression_type regtype;
  plan json;
  v reembed.versions;
begin
  select u.k into taken from unnest(c.public_columns || c.key_columns) u(k)
   where u.k in ('query_text', 'rrf_k', 'full_text_weight', 'semantic_weight', 'score', '_place', '_score', '_rank', '_words', '_nearness', '_part', '_distance')
   limit 1;
  if found then
    raise exception using errcode = 'RE008', message = format('collection: %s has a column %I, a name that the hybrid RPC itself uses', c.name, taken),
      hint = 'Leave it out of the public columns, or rename the column.';
  end if;
  if config is null or coalesce(expression, '') = '' or expression like '%$body$%' then
    raise exception using errcode = 'RE008', message = 'expression and config must be given, and no expression contains $body$',
      hint = 'Write the expression as in its index, such as to_tsvector(''english'', body), and its configuration.';
  end if;
  begin
    execute format('select pg_typeof((select (%s) from %s where false))', expression, c.source_table) into expression_type;
  exception when syntax_error_or_access_rule_violation or feature_not_supported then
    raise exception using errcode = 'RE008',
      message = format('expression: it cannot be computed from a row of %s with an empty search path (%s)', c.source_table, sqlstate),
      hint = 'Name columns of that table, and write functions with their schemas.';
  end;
  if expression_type <> 'tsvector'::regtype then
    raise exception using errcode = 'RE008', message = format('expression: it is of type %s, not tsvector', expression_type),
      hint = 'Wrap it: to_tsvector(''english'', ...).';
  end if;
  -- Asked of the planner, to whom scanning the table is forbidden above: only it knows whether two expressions are the same.
  execute format('explain (format json) select from %s where (%s) @@ ''word''::tsquery', c.source_table, expression) into plan;
  if plan::text !~ '"Node Type": "Bitmap Index Scan"' then
    raise exception using errcode = 'RE008', message = format('expression: no GIN index of %s serves it', c.source_table),
      hint = format('Run, by itself: create index concurrently on %s using gin ((%s));', c.source_table, expression);
  end if;
  update reembed.collections x set lexical_expression = set_lexical_search.expression, lexical_config = set_lexical_search.config::text where x.id = c.id;
  for v in select * from reembed.versions x where x.collection_id = c.id and x.state <> 'retired' order by x.number loop
    perform reembed.create_hybrid_function(v);
  end loop;
  insert into reembed.events (kind, collection, detail) values ('lexical', c.name, jsonb_build_object('config', set_lexical_search.config));
end
$$;
comment on function reembed.set_lexical_search(text, text, regconfig) is
  'Lets a collection be searched by words too: expression is a tsvector over its columns, as a GIN index of the table has it, made of functions that the API roles may execute; config reads the queries. Makes the hybrid RPC of each version. RE005: unknown; RE008: the expression is no tsvector, is not indexed, or a name is taken.';

revoke execute on all functions in schema reembed from public;
