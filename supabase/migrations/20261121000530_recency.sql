-- Searching by meaning and age together: one RPC for each version of a collection whose rows have a time.
-- Makes: collections.recency_expression, versions.recent_function, reembed.set_recency, reembed.recent_function_sql / create_recent_function, rpcs_of.
-- Risks: none for existing data. A function of the app that already has the name of such an RPC is refused, not replaced.
--
-- The shape of such an RPC, beside what 500_search says of a match RPC:
--   * An order by anything but the distance reads the whole table. So the index gives a bounded number of candidates by distance alone, and only
--     they are ranked by both. What is farther than the last candidate is not found, however new it is: more candidates reach farther.
--   * score = (1 - recency_weight) * similarity + recency_weight * 0.5 ^ (age in days / half_life_days). The decay is the exponential one that
--     search engines have for times (Elasticsearch's decay function exp with decay 0.5, whose scale is our half-life); a weighted sum with
--     similarity is how Park et al. 2023 ("Generative Agents", section 4.1) rank memories. At weight 0 it is the match RPC.
--   * A row without a time counts as infinitely old, one from the future as new.
--   * The time is an expression of the row, which may look into another table (a chunk's article): it is read for the candidates alone, as the caller.

alter table reembed.collections add column recency_expression text;
comment on column reembed.collections.recency_expression is
  'A timestamptz of the table''s row, as SQL: a column, or a scalar subquery that names the table''s columns with its bare name. Null: the collection is not searched by age.';
alter table reembed.versions add column recent_function name unique;
comment on column reembed.versions.recent_function is 'Its RPC that ranks by similarity and age; null while the collection has no time.';

create function reembed.rpcs_of(v reembed.versions) returns name[]
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select array_remove(array[v.match_function, v.hybrid_function, v.recent_function], null)
$$;
comment on function reembed.rpcs_of(reembed.versions) is 'The names of a version''s search RPCs in public.';

create function reembed.recent_function_sql(v reembed.versions) returns text
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
  query_embedding extensions.vector,
  match_count integer default 5,
  half_life_days double precision default 30,
  recency_weight double precision default 0.3,
  candidates integer default null,
  match_threshold double precision default null,
%2$s  query_space text default null
) returns table (%3$s, similarity double precision, recency double precision, score double precision)
language plpgsql stable security invoker %4$s as $body$
#variable_conflict use_column
<<own>>
declare
  depth int;%7$s
begin
  if query_embedding is null then
    raise exception using errcode = 'RE003', message = 'query_embedding is null', hint = %5$L;
  end if;%6$s
  if half_life_days is null or half_life_days not between 0.001 and 1000000 then
    raise exception using errcode = 'RE004',
      message = format('half_life_days is %%s: it must be between 0.001 and 1000000', coalesce(half_life_days::text, 'null')), hint = 'After so many days a row counts half as new.';
  end if;
  if recency_weight is null or recency_weight not between 0 and 1 then
    raise exception using errcode = 'RE004',
      message = format('recency_weight is %%s: it must be between 0 and 1', coalesce(recency_weight::text, 'null')), hint = '0 ranks by similarity alone, 1 ranks the candidates by age alone.';
  end if;
  if candidates is not null and candidates not between match_count and 1000 then
    raise exception using errcode = 'RE004',
      message = format('candidates is %%s: it must be between match_count (%%s) and 1000, or null', candidates, match_count), hint = 'So many of the nearest rows are ranked; null takes ten times match_count, 100 at least.';
  end if;
  if match_threshold is not null and match_threshold not between -1 and 1 then
    raise exception using errcode = 'RE004',
      message = format('match_threshold is %%s: it must be between -1 and 1, or null for none', match_threshold), hint = 'A similarity is 1 - cosine distance.';
  end if;

  depth := coalesce(candidates, least(1000, greatest(100, 10 * match_count)));
  %8$s%9$s
  _setting := set_config('plan_cache_mode', 'force_generic_plan', true);

  return query
    with aged as (
      -- exp below e^-700 would be an underflow.
      select %12$s, 1 - n._distance as _similarity,
             case when x._at is null then 0 else exp(-least(700, ln(2::double precision) * greatest(0, extract(epoch from now() - x._at)::double precision) / 86400 / %1$I.half_life_days)) end as _recency
        -- Looked up a row at a time (offset 0), here and below: a join would be planned by what nobody knows, how many rows the index gives and how many the caller sees.
        from %10$s cross join lateral (select %11$s as _at from %13$s where %14$s offset 0) x
       where %1$I.match_threshold is null or 1 - n._distance > %1$I.match_threshold
    ), best as (
      select n.*, (1 - %1$I.recency_weight) * n._similarity + %1$I.recency_weight * n._recency as _score
        from aged n order by _score desc, n._similarity desc, %12$s limit %1$I.match_count
    )
    select %15$s, n._similarity, n._recency, n._score
      from best n cross join lateral (select %15$s from %13$s t where %16$s offset 0) t
     order by n._score desc, n._similarity desc, %12$s;
end
$body$;
revoke execute on function public.%1$I from public;
grant execute on function public.%1$I to anon, authenticated, service_role;
comment on function public.%1$I is %17$L;
$sql$,
    v.recent_function,
    reembed.filter_parameters(c),
    reembed.public_types(c),
    reembed.search_settings(v),
    reembed.embedding_hint(s),
    reembed.query_vector_checks(v, v.recent_function),
    reembed.nearest_variables(v),
    reembed.query_assignment(v),
    reembed.nearest_steps(v, v.recent_function),
    reembed.nearest_rows(c),
    format('(%s)', c.recency_expression),
    reembed.key_list(c, 'n'),
    c.source_table,
    (select string_agg(format('%2$s.%1$I operator(pg_catalog.=) n.%1$I', k, bare_table), ' and ' order by n) from unnest(c.key_columns) with ordinality u(k, n)),
    (select string_agg(format('t.%I', p), ', ' order by n) from unnest(c.public_columns) with ordinality u(p, n)),
    (select string_agg(format('t.%1$I operator(pg_catalog.=) n.%1$I', k), ' and ' order by n) from unnest(c.key_columns) with ordinality u(k, n)),
    format('Of the rows of %s nearest to query_embedding (%s, %s dimensions) those with the best score: (1 - recency_weight) * similarity + recency_weight * 0.5 ^ (age in days / half_life_days). RLS decides what the caller sees. Errors: RE001 wrong width, RE002 wrong or unnamed space, RE003 null or zero vector, RE004 an argument out of range.',
           c.name, s.id, s.dimensions));
end
$$;
comment on function reembed.recent_function_sql(reembed.versions) is
  'SQL text of a version''s RPC that ranks by similarity and age, with its grants: width, space and the time''s expression are literals.';
create function reembed.rpc_sql(v reembed.versions, rpc name) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case rpc when v.match_function then reembed.match_function_sql(v)
                  when v.hybrid_function then reembed.hybrid_function_sql(v)
                  when v.recent_function then reembed.recent_function_sql(v) end
$$;
comment on function reembed.rpc_sql(reembed.versions, name) is 'SQL text of that one of a version''s RPCs which has this name.';

create function reembed.create_recent_function(v reembed.versions) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  older record;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  if c.recency_expression is null then
    return;
  end if;
  if v.recent_function is null then
    v.recent_function := format('recent_%s%s', c.name, case when v.number > 1 then '_v' || v.number else '' end);
    if exists (select from pg_catalog.pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = v.recent_function) then
      raise exception using errcode = 'RE008', message = format('public.%s exists and is not this project''s', v.recent_function),
        hint = 'Rename or drop that function, then run the same again.';
    end if;
    update reembed.versions x set recent_function = v.recent_function where x.id = v.id;
  end if;
  for older in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                where p.pronamespace = 'public'::regnamespace and p.proname = v.recent_function loop
    execute format('drop function %s', older.signature);
  end loop;
  execute reembed.recent_function_sql(v);
  notify pgrst, 'reload schema';
end
$$;
comment on function reembed.create_recent_function(reembed.versions) is
  'Makes or renews a version''s RPC that ranks by similarity and age; does nothing where the collection has no time. RE008: a function of that name is somebody else''s.';

create function reembed.set_recency(collection text, expression text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  taken name;
  expression_type regtype;
  v reembed.versions;
begin
  select u.k into taken from unnest(c.public_columns || c.key_columns) u(k)
   where u.k in ('half_life_days', 'recency_weight', 'candidates', 'recency', 'score', '_distance', '_similarity', '_recency', '_score', '_at')
   limit 1;
  if found then
    raise exception using errcode = 'RE008', message = format('collection: %s has a column %I, a name that the RPC itself uses', c.name, taken),
      hint = 'Leave it out of the public columns, or rename the column.';
  end if;
  if coalesce(expression, '') = '' or expression like '%$body$%' then
    raise exception using errcode = 'RE008', message = 'expression must be given, and contain no $body$',
      hint = 'Name a column of type timestamptz, or write a scalar subquery that makes one.';
  end if;
  begin
    execute format('select pg_typeof((select (%s) from %s where false))', expression, c.source_table) into expression_type;
  exception when syntax_error_or_access_rule_violation or feature_not_supported then
    raise exception using errcode = 'RE008',
      message = format('expression: it cannot be computed from a row of %s with an empty search path (%s)', c.source_table, sqlstate),
      hint = 'Name columns of that table, and write other tables and functions with their schemas.';
  end;
  if expression_type <> 'timestamptz'::regtype then
    raise exception using errcode = 'RE008', message = format('expression: it is of type %s, not timestamptz', expression_type),
      hint = 'Say what time zone it is in: published at time zone ''UTC''.';
  end if;
  update reembed.collections x set recency_expression = set_recency.expression where x.id = c.id;
  for v in select * from reembed.versions x where x.collection_id = c.id and x.state <> 'retired' order by x.number loop
    perform reembed.create_recent_function(v);
  end loop;
  insert into reembed.events (kind, collection, detail) values ('recency', c.name, jsonb_build_object('expression', set_recency.expression));
end
$$;
comment on function reembed.set_recency(text, text) is
  'Lets a collection be searched by similarity and age: expression is the time of its row, a timestamptz that the API roles may read. Makes the recent RPC of each version. RE005: unknown; RE008: the expression makes no timestamptz, or a name is taken.';

revoke execute on all functions in schema reembed from public;
