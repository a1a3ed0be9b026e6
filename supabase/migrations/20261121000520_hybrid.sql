-- Searching by words and by spelling beside searching by meaning: one hybrid RPC for each version of a collection that has such a side.
-- Makes: collections.lexical_expression and lexical_config, collections.spelling_expression, versions.hybrid_function, reembed.set_lexical_search,
-- reembed.set_spelling_search, reembed.hybrid_function_sql / create_hybrid_function. create_match_function makes both RPCs of a version.
-- Risks: none for existing data. A function of the app that already has the name of a hybrid RPC is refused, not replaced.
--
-- The shape of a hybrid RPC, beside what 500_search says of a match RPC:
--   * A list for each side, each from a limited subquery of its own, so that each is read from its own index; the places are counted outside.
--     row_number() over (order by column <=> query) in the subquery itself would read the whole table.
--   * Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009): a row's score is the sum over the lists of weight / (rrf_k + its place).
--   * A list is deeper than the answer, so that a row that stands middling in several can win; not much, because a wide vector is fetched for each of its rows.
--   * A GIN index does not know ranks: each row with the words is ranked. Of words that stand in more than three hundred rows three hundred
--     are ranked, in the table's order: such words tell rows apart badly, and ranking all of them would cost more than the whole search.
--   * What no index can look up (stop words alone, negations alone) makes no list: the meaning answers.
--   * A spelling is looked for by its trigrams, whole words of it: pg_trgm's strict word similarity, from a bound on that its operator reads from a setting.
--     The setting is put back at the end, because the caller's own statements read it too.
--   * A row that has the very spelling comes first: the sum of the weights is added to its score, twice where the diacritics are the same. It is looked for
--     in the same index by a search of its own (LIKE, the ends of the spelling included). Where there is one, like ones are not looked for.
--   * PostgreSQL looks rows up by words and trigrams only where no policy of the caller's hides rows, because these operators are not leakproof; under other
--     policies it reads the rows that the policy lets through.

alter table reembed.collections
  add column lexical_expression text,
  add column lexical_config text,
  add column spelling_expression text,
  add check ((lexical_expression is null) = (lexical_config is null));
comment on column reembed.collections.lexical_expression is
  'A tsvector over the table''s columns, written as in its GIN index: a column or an immutable expression. Null: the collection is not searched by words.';
comment on column reembed.collections.lexical_config is 'The text search configuration that reads queries, by its name: pg_upgrade takes no column of type regconfig.';
comment on column reembed.collections.spelling_expression is
  'A text over the table''s columns: by what a row is looked up, one spelling a line. A trigram index stands on public.fold_spelling of it. Null: the collection is not searched by spelling.';

alter table reembed.versions add column hybrid_function name unique;
comment on column reembed.versions.hybrid_function is 'Its hybrid RPC; null while the collection is searched by meaning alone.';

create function reembed.lexical_candidates() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 300';
comment on function reembed.lexical_candidates() is 'How many rows that have the words of a query are ranked at most.';

create function reembed.spelling_of(c reembed.collections) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$ select format('public.fold_spelling((%s))', c.spelling_expression) $$;
comment on function reembed.spelling_of(reembed.collections) is 'SQL text of a row''s spelling, as its trigram index has it.';

create function reembed.hybrid_weights(c reembed.collections) returns text[]
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select array_remove(array[case when c.lexical_expression is not null then 'full_text_weight' end, 'semantic_weight',
                            case when c.spelling_expression is not null then 'spelling_weight' end], null)
$$;
comment on function reembed.hybrid_weights(reembed.collections) is 'The weights that a collection''s hybrid RPCs take, one for each list.';

create type reembed.hybrid_side as (declared text, prepared text, lists text, parts text);
comment on type reembed.hybrid_side is
  'What a side adds to the SQL text of a hybrid RPC: its variables, what sets them from the arguments, its lists, and its parts of a row''s score.';

create function reembed.words_side(c reembed.collections, rpc name) returns reembed.hybrid_side
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  side reembed.hybrid_side := row('', '', '', '');
  bare_table text;
begin
  if c.lexical_expression is null then
    return side;
  end if;
  -- The expression may name the table: it stands there without an alias.
  select quote_ident(x.relname) into strict bare_table from pg_catalog.pg_class x where x.oid = c.source_table;
  side.declared := E'\n  full_text tsquery;' || reembed.key_arrays(c, '_worded_');
  side.prepared := format($sql$
  if full_text_weight > 0 then
    begin
      full_text := websearch_to_tsquery(%1$L::regconfig, query_text);
    exception when internal_error or program_limit_exceeded then
      -- More than thirty negations in a row are too deep for it ("tsquery stack too small"): then the bare words.
      full_text := plainto_tsquery(%1$L::regconfig, query_text);
    end;
    -- Nothing in it that an index could look up.
    if querytree(full_text) in ('', 'T') then
      full_text := null;
    end if;
  end if;
  if full_text is not null then
    -- Planned each time: words of half of the rows are not looked up, the table is read until there are enough of them.
    _setting := set_config('plan_cache_mode', 'force_custom_plan', true);
    select %8$s into %9$s
      from (select w.*, ts_rank_cd(w._words, own.full_text) as _rank
              from (select %2$s, (%3$s) as _words from %4$s where (%3$s) @@ own.full_text%5$s limit %6$s) w
             order by _rank desc, %7$s limit own.depth) n;
  end if;$sql$,
    c.lexical_config, reembed.key_list(c, bare_table), c.lexical_expression, c.source_table,
    reembed.filter_conditions(c, rpc, bare_table), reembed.lexical_candidates(), reembed.key_list(c, 'w'),
    (select string_agg(format('array_agg(n.%I order by n._rank desc, %s)', k, reembed.key_list(c, 'n')), ', ' order by n) from unnest(c.key_columns) with ordinality u(k, n)),
    reembed.key_array_names(c, '_worded_'));
  side.parts := format($sql$
              union all
              select w.*, null, %1$I.full_text_weight / (%1$I.rrf_k + w._place) from unnest(%2$s) with ordinality w(%3$s, _place)$sql$,
    rpc, reembed.key_array_names(c, '_worded_'),
    (select string_agg(quote_ident(k), ', ' order by n) from unnest(c.key_columns) with ordinality u(k, n)));
  return side;
end
$$;
comment on function reembed.words_side(reembed.collections, name) is 'The side of a hybrid RPC that looks for the query''s words; empty texts where the collection is not searched by words.';

create function reembed.spelling_side(c reembed.collections, rpc name) returns reembed.hybrid_side
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  side reembed.hybrid_side := row('', '', '', '');
  trigrams constant name := reembed.extension_schema('pg_trgm');
  bare_table text;
begin
  if c.spelling_expression is null then
    return side;
  end if;
  select quote_ident(x.relname) into strict bare_table from pg_catalog.pg_class x where x.oid = c.source_table;
  side.declared := E'\n  typed text;\n  spelling text;\n  spelt text;\n  likeness_before text;';
  side.prepared := format($sql$
  typed := btrim(regexp_replace(query_text, '\s+', ' ', 'g'));
  if spelling_weight > 0 and typed ~ '[[:alnum:]]' and length(typed) <= %1$s then
    spelling := public.fold_spelling(typed);
    spelt := '%%' || regexp_replace(spelling, '([\\%%_])', '\\\1', 'g') || '%%';
    typed := E'\n' || lower(normalize(typed)) || E'\n';
    likeness_before := current_setting('pg_trgm.strict_word_similarity_threshold', true);
    if likeness_before is null then
      -- Where this session has not loaded pg_trgm yet, its setting has no value that could be put back.
      perform %2$I.strict_word_similarity('', '');
      likeness_before := current_setting('pg_trgm.strict_word_similarity_threshold');
    end if;
    _setting := set_config('pg_trgm.strict_word_similarity_threshold', '%3$s', true);
  end if;$sql$, reembed.spelling_length(), trigrams, reembed.spelling_likeness());
  side.lists := format($sql$spelt as materialized (
      select %2$s, 1 + (position(own.typed in E'\n' || lower(normalize(btrim((%8$s)))) || E'\n') > 0)::int as _same
        from %4$s where own.spelt is not null and %3$s like own.spelt%5$s limit own.depth
    ), alike as (
      select w.*, %1$I.strict_word_similarity(own.spelling, w._spelling) as _likeness, %1$I.similarity(own.spelling, w._spelling) as _whole
        from (select %2$s, %3$s as _spelling from %4$s
               where own.spelling is not null and not exists (select from spelt) and %3$s operator(%1$I.%%>>) own.spelling%5$s limit %6$s) w
       order by _likeness desc, _whole desc, %7$s limit own.depth
    ), by_spelling as (
      select %9$s, n._same, row_number() over (order by n._same desc, n._likeness desc, n._whole desc, %9$s) as _place
        from (select x.*, 1::real as _likeness, 1::real as _whole from spelt x
              union all
              select %7$s, 0, w._likeness, w._whole from alike w) n
    ), $sql$,
    trigrams, reembed.key_list(c, bare_table), reembed.spelling_of(c), c.source_table, reembed.filter_conditions(c, rpc, bare_table),
    reembed.spelling_candidates(), reembed.key_list(c, 'w'), c.spelling_expression,
    reembed.key_list(c, 'n'));
  side.parts := format($sql$
              union all
              select %2$s, w._place, null, %1$I.spelling_weight / (%1$I.rrf_k + w._place) + w._same * (%3$s) from by_spelling w$sql$,
    rpc, reembed.key_list(c, 'w'),
    (select string_agg(format('%I.%I', rpc, w), ' + ' order by n) from unnest(reembed.hybrid_weights(c)) with ordinality u(w, n)));
  return side;
end
$$;
comment on function reembed.spelling_side(reembed.collections, name) is
  'The side of a hybrid RPC that looks for the query''s spelling; empty texts where the collection is not searched by spelling.';

create function reembed.hybrid_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  s reembed.spaces;
  words reembed.hybrid_side;
  spelling reembed.hybrid_side;
  weights text[];
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select * into strict s from reembed.spaces where id = v.space_id;
  words := reembed.words_side(c, v.hybrid_function);
  spelling := reembed.spelling_side(c, v.hybrid_function);
  weights := reembed.hybrid_weights(c);
  return format($sql$
create function public.%1$I(
  query_text text,
  query_embedding extensions.vector default null,
  match_count integer default 5,
  rrf_k integer default 60,
%2$s%3$s  query_space text default null
) returns table (%4$s, similarity double precision, score double precision)
language plpgsql stable security invoker %5$s as $body$
#variable_conflict use_column
<<own>>
declare
  depth int;%16$s%6$s
begin
  if query_text is null or length(query_text) > 8000 then
    raise exception using errcode = 'RE004',
      message = case when query_text is null then 'query_text is null' else 'query_text has more than 8000 characters' end, hint = 'Pass the words to look for; an empty text has none.';
  end if;%7$s
  if rrf_k is null or rrf_k not between 1 and 10000 then
    raise exception using errcode = 'RE004',
      message = format('rrf_k is %%s: it must be between 1 and 10000', coalesce(rrf_k::text, 'null')), hint = 'The smaller it is, the more the first places count; 60 is usual.';
  end if;
  if %8$s and %9$s > 0 then
    null;
  else
    raise exception using errcode = 'RE004',
      message = '%10$s must be between 0 and 1000 and not %11$s 0', hint = 'A list of weight 0 is left out.';
  end if;

  depth := least(1000, greatest(20, 2 * match_count));
  %13$s
  if query_embedding is not null and semantic_weight > 0 then%15$s
  end if;%12$s
  _setting := set_config('plan_cache_mode', case when %17$s then 'force_generic_plan' else 'force_custom_plan' end, true);

  return query
    with %27$sfused as (
      select %18$s, sum(n._part) as _score, min(n._nearness) as _nearness
        from (select m.*, m._place as _nearness, %1$I.semantic_weight / (%1$I.rrf_k + m._place) as _part
                from (select %18$s, row_number() over (order by n._distance, %18$s) as _place from %19$s) m%20$s) n
       group by %18$s
       order by _score desc, _nearness, %18$s
       limit %1$I.match_count
    )
    select %21$s, 1 - nullif(t._distance, 'NaN'), n._score
      -- Looked up a row at a time (offset 0): a policy that leaves an average caller hardly a row would make the planner read all that this one sees.
      from fused n cross join lateral (select %21$s, %14$s as _distance from %22$s t%24$s where %23$s offset 0) t
     order by n._score desc, n._nearness, %18$s;%25$s
end
$body$;
revoke execute on function public.%1$I from public;
grant execute on function public.%1$I to anon, authenticated, service_role;
comment on function public.%1$I is %26$L;
$sql$,
    v.hybrid_function,
    (select string_agg(format(E'  %I double precision default 1,\n', w), '' order by n) from unnest(weights) with ordinality u(w, n)),
    reembed.filter_parameters(c),
    reembed.public_types(c),
    reembed.search_settings(v),
    words.declared || spelling.declared,
    reembed.query_vector_checks(v, v.hybrid_function),
    (select string_agg(format('%I between 0 and 1000', w), ' and ' order by n) from unnest(weights) with ordinality u(w, n)),
    array_to_string(weights, ' + '),
    regexp_replace(array_to_string(weights, ', '), ', (\w+)$', ' and \1'),
    case cardinality(weights) when 2 then 'both' else 'all' end,
    words.prepared || spelling.prepared,
    reembed.query_assignment(v),
    reembed.distance_to_query(v),
    reembed.nearest_steps(v, v.hybrid_function),
    reembed.nearest_variables(v),
    reembed.unfiltered(c, v.hybrid_function),
    reembed.key_list(c, 'n'),
    reembed.nearest_rows(c),
    words.parts || spelling.parts,
    (select string_agg(format('t.%I', p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)),
    c.source_table,
    (select string_agg(format('t.%1$I operator(pg_catalog.=) n.%1$I', k), ' and ' order by n) from unnest(c.key_columns) with ordinality u(k, n)),
    reembed.vector_join(v),
    case when spelling.prepared = '' then '' else $sql$
  if likeness_before is not null then
    _setting := set_config('pg_trgm.strict_word_similarity_threshold', likeness_before, true);
  end if;$sql$ end,
    format('Rows of %s %sby nearness to query_embedding (%s, %s dimensions), fused by reciprocal rank, best first%s. Without query_embedding by the text alone; similarity is then null. RLS decides what the caller sees. Errors: RE001 wrong width, RE002 wrong or unnamed space, RE003 zero vector, RE004 an argument out of range.',
           c.name, case when words.prepared = '' then '' else format('by the words of query_text (%s) and ', c.lexical_config) end
             || case when spelling.prepared = '' then '' else 'by its spelling and ' end, s.id, s.dimensions,
           case when spelling.prepared = '' then '' else ', a row of the very spelling before all others' end),
    spelling.lists);
end
$$;
comment on function reembed.hybrid_function_sql(reembed.versions) is
  'SQL text of a version''s hybrid RPC, with its grants: width, space, expressions and configuration are literals.';

create function reembed.create_hybrid_function(v reembed.versions) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  older record;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  if c.lexical_expression is null and c.spelling_expression is null then
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
  'Makes or renews a version''s hybrid RPC; does nothing where the collection is searched by meaning alone. RE008: a function of that name is somebody else''s.';

create function reembed.create_hybrid_functions(c reembed.collections) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
begin
  for v in select * from reembed.versions x where x.collection_id = c.id and x.state <> 'retired' order by x.number loop
    perform reembed.create_hybrid_function(v);
  end loop;
end
$$;
comment on function reembed.create_hybrid_functions(reembed.collections) is 'Makes or renews the hybrid RPC of each version of a collection.';

create function reembed.check_search_expression(c reembed.collections, expression text, wanted regtype, hint text) returns void
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  taken name;
  expression_type regtype;
begin
  select u.k into taken from unnest(c.public_columns || c.key_columns) u(k)
   where u.k in ('query_text', 'rrf_k', 'full_text_weight', 'semantic_weight', 'spelling_weight', 'score',
                 '_place', '_score', '_rank', '_words', '_nearness', '_part', '_distance', '_spelling', '_likeness', '_whole', '_same')
   limit 1;
  if found then
    raise exception using errcode = 'RE008', message = format('collection: %s has a column %I, a name that the hybrid RPC itself uses', c.name, taken),
      hint = 'Leave it out of the public columns, or rename the column.';
  end if;
  begin
    execute format('select pg_typeof((select (%s) from %s where false))', expression, c.source_table) into expression_type;
  exception when syntax_error_or_access_rule_violation or feature_not_supported then
    raise exception using errcode = 'RE008',
      message = format('expression: it cannot be computed from a row of %s with an empty search path (%s)', c.source_table, sqlstate),
      hint = 'Name columns of that table, and write functions with their schemas.';
  end;
  if expression_type <> wanted then
    raise exception using errcode = 'RE008', message = format('expression: it is of type %s, not %s', expression_type, wanted), hint = check_search_expression.hint;
  end if;
end
$$;
comment on function reembed.check_search_expression(reembed.collections, text, regtype, text) is
  'RE008 where the expression cannot be computed from a row of the collection or is of another type than wanted, or where a column has a name that hybrid RPCs use.';

create function reembed.is_served_by_index(searched_table regclass, condition text) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  plan json;
begin
  execute format('explain (format json) select from %s where %s', searched_table, condition) into plan;
  return plan::text ~ '"Node Type": "(Bitmap )?Index Scan"';
end
$$;
comment on function reembed.is_served_by_index(regclass, text) is
  'Whether an index of the table serves a condition. Asked of the planner, to whom scanning the table is forbidden: only it knows whether two expressions are the same.';

create function reembed.set_lexical_search(collection text, expression text, config regconfig) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
begin
  if config is null or coalesce(expression, '') = '' or expression like '%$body$%' then
    raise exception using errcode = 'RE008', message = 'expression and config must be given, and no expression contains $body$',
      hint = 'Write the expression as in its index, such as to_tsvector(''english'', body), and its configuration.';
  end if;
  perform reembed.check_search_expression(c, expression, 'tsvector', 'Wrap it: to_tsvector(''english'', ...).');
  if not reembed.is_served_by_index(c.source_table, format('(%s) @@ ''word''::tsquery', expression)) then
    raise exception using errcode = 'RE008', message = format('expression: no GIN index of %s serves it', c.source_table),
      hint = format('Run, by itself: create index concurrently on %s using gin ((%s));', c.source_table, expression);
  end if;
  update reembed.collections x set lexical_expression = set_lexical_search.expression, lexical_config = set_lexical_search.config::text where x.id = c.id;
  perform reembed.create_hybrid_functions(c);
  insert into reembed.events (kind, collection, detail) values ('lexical', c.name, jsonb_build_object('config', set_lexical_search.config));
end
$$;
comment on function reembed.set_lexical_search(text, text, regconfig) is
  'Lets a collection be searched by words too: expression is a tsvector over its columns, as a GIN index of the table has it, made of functions that the API roles may execute; config reads the queries. Makes the hybrid RPC of each version. RE005: unknown; RE008: the expression is no tsvector, is not indexed, or a name is taken.';

create function reembed.set_spelling_search(collection text, expression text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  trigrams constant name := reembed.extension_schema('pg_trgm');
begin
  if coalesce(expression, '') = '' or expression like '%$body$%' then
    raise exception using errcode = 'RE008', message = 'expression must be given, and none contains $body$',
      hint = 'Write by what a row is looked up, such as headword; several spellings one a line: headword || E''\n'' || variants.';
  end if;
  perform reembed.check_search_expression(c, expression, 'text', 'Cast it to text.');
  if not reembed.is_served_by_index(c.source_table, format('public.fold_spelling((%s)) operator(%I.%%>>) ''word''', expression, trigrams)) then
    raise exception using errcode = 'RE008', message = format('expression: no trigram index of %s serves its spelling', c.source_table),
      hint = format('Run, by itself: create index concurrently on %s using gin (public.fold_spelling((%s)) %I.gin_trgm_ops);', c.source_table, expression, trigrams);
  end if;
  update reembed.collections x set spelling_expression = set_spelling_search.expression where x.id = c.id;
  perform reembed.create_hybrid_functions(c);
  insert into reembed.events (kind, collection) values ('spelling', c.name);
end
$$;
comment on function reembed.set_spelling_search(text, text) is
  'Lets a collection be found by how a query is spelt, diacritics left out and letters mistyped: expression is a text over its columns, one spelling a line, made of functions that the API roles may execute; a trigram index of the table (GIN or GiST) stands on public.fold_spelling of it. Makes the hybrid RPC of each version. RE005: unknown; RE008: the expression is no text, is not indexed, or a name is taken.';

revoke execute on all functions in schema reembed from public;
