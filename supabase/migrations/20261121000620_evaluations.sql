-- What a verdict on a version rests on: queries, measured searches, and the verdict itself.
-- Makes: reembed.evaluations with store_evaluation; reembed.query_log with set_query_log, log_query and its door for service_role, logged_queries;
-- known_items, measured_search, version_counts, describe_rows, which `reembed evaluate` calls.
-- Risks: none for existing data. The query log is off until set_query_log switches it on for a collection; it then holds what people typed, in a
-- table that only the owner reads, for at most thirty days and query_log_size() rows a collection. Switching it off empties it.

create table reembed.evaluations (
  id bigint generated always as identity primary key,
  collection_id int not null references reembed.collections (id) on delete cascade,
  baseline_version int not null references reembed.versions (id) on delete cascade,
  candidate_version int not null references reembed.versions (id) on delete cascade,
  created_at timestamptz not null default clock_timestamp(),
  actor text not null default session_user,
  queries int not null check (queries > 0),
  judged boolean not null,
  source text not null check (source in ('file', 'log', 'rows')),
  index_recall double precision check (index_recall between 0 and 1),
  index_used boolean,
  ndcg_drop double precision check (ndcg_drop between -1 and 1),
  ndcg_drop_low double precision check (ndcg_drop_low between -1 and 1),
  ndcg_drop_high double precision check (ndcg_drop_high between -1 and 1),
  metrics jsonb not null check (jsonb_typeof(metrics) = 'object'),
  check (baseline_version <> candidate_version),
  check (num_nonnulls(ndcg_drop, ndcg_drop_low, ndcg_drop_high) = case when judged then 3 else 0 end),
  check (ndcg_drop_low <= ndcg_drop_high)
);
comment on table reembed.evaluations is
  'One comparison of a candidate version with a baseline a row: what the gates of a cutover look at. No text of a query or a row stands here.';
comment on column reembed.evaluations.baseline_version is 'A versions.id, not a number.';
comment on column reembed.evaluations.candidate_version is 'A versions.id, not a number.';
comment on column reembed.evaluations.judged is
  'Whether quality was compared: for at least one query it is known which rows answer it, from the file or because the query was made from a row, and both versions were asked.';
comment on column reembed.evaluations.source is 'Where the queries came from: a file, the query log, or the rows themselves.';
comment on column reembed.evaluations.index_recall is
  'The candidate''s recall at 10 through its index against an exact scan, by distance, so that ties do not count. Null where its searches read no index: they are exact.';
comment on column reembed.evaluations.index_used is
  'Whether each of the candidate''s searches read its index. Null where it needs none: none was read, and the table is small.';
comment on column reembed.evaluations.ndcg_drop is
  'nDCG@10 of the baseline minus that of the candidate, over the judged queries; low and high: its paired bootstrap interval of 95 %.';
create index evaluations_candidate_idx on reembed.evaluations (candidate_version, id desc);
create index evaluations_baseline_idx on reembed.evaluations (baseline_version);
create index evaluations_collection_idx on reembed.evaluations (collection_id);
alter table reembed.evaluations enable row level security;

create function reembed.store_evaluation(
  collection text, baseline int, candidate int, queries int, judged boolean, source text, metrics jsonb,
  index_recall double precision default null, index_used boolean default null,
  ndcg_drop double precision default null, ndcg_drop_low double precision default null, ndcg_drop_high double precision default null,
  actor text default null
) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  old_version constant reembed.versions := reembed.version_numbered(collection, baseline);
  new_version constant reembed.versions := reembed.version_numbered(collection, candidate);
  wrong text;
  stored_id bigint;
begin
  if 'retired' in (old_version.state, new_version.state) then
    raise exception using errcode = 'RE010', message = format('a version of collection %s that was to be compared was finalized', c.name), hint = 'Compare versions that still have their vectors.';
  end if;
  wrong := case
    when old_version.id = new_version.id then 'candidate is the baseline: a version is compared with another'
    when queries is null or queries < 1 then 'queries must be at least 1'
    when judged is null then 'judged is null'
    when source is null or source not in ('file', 'log', 'rows') then 'source must be file, log or rows'
    when jsonb_typeof(metrics) is distinct from 'object' then 'metrics must be a JSON object'
    when index_recall not between 0 and 1 then 'index_recall must be between 0 and 1'
    when num_nonnulls(ndcg_drop, ndcg_drop_low, ndcg_drop_high) <> case when judged then 3 else 0 end
      then 'ndcg_drop, ndcg_drop_low and ndcg_drop_high must be given exactly when judged'
    when ndcg_drop not between -1 and 1 or ndcg_drop_low not between -1 and 1 or ndcg_drop_high not between -1 and 1
      then 'ndcg_drop and its interval must be between -1 and 1'
    when ndcg_drop_low > ndcg_drop_high then 'ndcg_drop_low must not be above ndcg_drop_high'
  end;
  if wrong is not null then
    raise exception using errcode = 'RE004', message = wrong, hint = 'comment on function reembed.store_evaluation lists the arguments.';
  end if;
  insert into reembed.evaluations as e (collection_id, baseline_version, candidate_version, actor, queries, judged, source, index_recall, index_used,
                                        ndcg_drop, ndcg_drop_low, ndcg_drop_high, metrics)
  values (c.id, old_version.id, new_version.id, coalesce(store_evaluation.actor, session_user), store_evaluation.queries, store_evaluation.judged, store_evaluation.source,
          store_evaluation.index_recall, store_evaluation.index_used, store_evaluation.ndcg_drop, store_evaluation.ndcg_drop_low, store_evaluation.ndcg_drop_high,
          store_evaluation.metrics)
  returning e.id into stored_id;
  return stored_id;
end
$$;
comment on function reembed.store_evaluation(text, int, int, int, boolean, text, jsonb, double precision, boolean, double precision, double precision, double precision, text) is
  'Stores a verdict and returns its id. baseline and candidate: numbers of versions. queries: how many were asked, at least 1; judged: whether quality was compared; source: file, log or rows; the drop of nDCG@10 (baseline minus candidate) and its interval exactly when judged. RE004, RE005, RE006, RE010 on bad arguments.';

-- The query log --------------------------------------------------------------------------------------------------------------------------

create table reembed.query_log (
  id bigint generated always as identity primary key,
  collection_id int not null references reembed.collections (id) on delete cascade,
  at timestamptz not null default clock_timestamp(),
  query text not null check (query <> '')
);
comment on table reembed.query_log is 'What people searched for, of collections whose query log is on. Who asked is not kept.';
create index query_log_collection_idx on reembed.query_log (collection_id, id desc);
alter table reembed.query_log enable row level security;

create function reembed.query_log_size() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 10000';
comment on function reembed.query_log_size() is 'How many queries of a collection are kept: the last ones, of thirty days.';

create function reembed.set_query_log(collection text, enabled boolean) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
begin
  if enabled is null then
    raise exception using errcode = 'RE004', message = 'enabled is null', hint = 'Pass true or false.';
  end if;
  update reembed.collections x set log_queries = enabled where x.id = c.id;
  if not enabled then
    delete from reembed.query_log l where l.collection_id = c.id;
  end if;
  insert into reembed.events (kind, collection, detail) values ('query_log', c.name, jsonb_build_object('enabled', enabled));
end
$$;
comment on function reembed.set_query_log(text, boolean) is
  'Switches the query log of a collection on, or off and empties it. Off by default: it holds what people typed. RE004, RE005 on bad arguments.';

create function reembed.sweep_query_log(collection_id int) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  swept bigint;
begin
  delete from reembed.query_log l
   where l.collection_id = sweep_query_log.collection_id
     and (l.at < clock_timestamp() - interval '30 days'
          or l.id <= (select o.id from reembed.query_log o where o.collection_id = sweep_query_log.collection_id
                       order by o.id desc offset reembed.query_log_size() limit 1));
  get diagnostics swept = row_count;
  return swept;
end
$$;
comment on function reembed.sweep_query_log(int) is 'Deletes of a collection''s query log what is older than thirty days or beyond query_log_size(); returns how many rows.';

create function reembed.log_query(collection text, query text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
begin
  if not c.log_queries then
    return;
  end if;
  insert into reembed.query_log (collection_id, query) select c.id, q.text from (select btrim(left(log_query.query, 8000)) as text) q where q.text <> '';
  -- Now and then: the log may outgrow its size by some hundreds.
  if random() < 0.01 then
    perform reembed.sweep_query_log(c.id);
  end if;
end
$$;
comment on function reembed.log_query(text, text) is 'Appends a query to the collection''s query log when that is on, else does nothing. RE005: unknown collection.';

create function public.reembed_log_query(collection text, query text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.log_query(collection, query) $$;
revoke execute on function public.reembed_log_query(text, text) from public, anon, authenticated;
grant execute on function public.reembed_log_query(text, text) to service_role;
comment on function public.reembed_log_query(text, text) is 'For service_role: reembed.log_query, which documents it.';

create function reembed.logged_queries(collection text, max_queries int) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
begin
  perform reembed.check_range('max_queries', max_queries, 1, 10000);
  return (select coalesce(jsonb_agg(q.query order by q.last desc), '[]')
            from (select l.query, max(l.id) as last from reembed.query_log l
                   where l.collection_id = c.id and l.at >= clock_timestamp() - interval '30 days'
                   group by l.query order by 2 desc limit logged_queries.max_queries) q);
end
$$;
comment on function reembed.logged_queries(text, int) is 'The last distinct queries of a collection''s query log, the latest first, as a JSON array of texts. RE004, RE005 on bad arguments.';

-- What an evaluation measures ------------------------------------------------------------------------------------------------------------

create function reembed.known_items(collection text, version int, max_queries int, seed text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  items jsonb;
begin
  perform reembed.check_range('max_queries', max_queries, 1, 10000);
  execute format($sql$
    select coalesce(jsonb_agg(jsonb_build_object('query', q.query, 'relevant', jsonb_build_array(q.row_id)) order by q.place), '[]')
      from (select o.query, min(o.row_id) as row_id, min(o.place) as place
              from (select s.row_id, s.place, regexp_replace(substring(s.input from '\S+(?:[^\S\n\r]+\S+){0,11}'), '\s+', ' ', 'g') as query
                      from (select %1$s as row_id, md5($1 || %1$s) as place, %2$s(t.*) as input from %3$s t order by 2 limit 10000) s) o
             where o.query is not null
             group by o.query
            having count(*) = 1
             order by 3 limit $2) q$sql$,
    reembed.key_of(c.key_columns, 't'), v.input_function, c.source_table)
    into items using coalesce(seed, ''), max_queries;
  return items;
end
$$;
comment on function reembed.known_items(text, int, int, text) is
  'Queries made from rows: the first line (up to twelve words) of a row''s input should find the row. At most max_queries of them as [{ query, relevant: [row_id] }], the same ones for the same seed and rows; lines that several rows begin with are left out. Of a larger table 10,000 rows are looked at. RE004, RE005, RE006 on bad arguments.';

create function reembed.measured_search(version_id int, query_embedding text, match_count int, exact boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  statement text;
  indexes oid[];
  scans_before bigint;
  began timestamptz;
  row_id text;
  row_similarity double precision;
  row_ids text[] := array[]::text[];
  similarities double precision[] := array[]::double precision[];
  milliseconds double precision;
  indexscan constant text := current_setting('enable_indexscan');
begin
  select * into strict v from reembed.versions x where x.id = measured_search.version_id;
  select * into strict c from reembed.collections x where x.id = v.collection_id;
  if not c.key_columns <@ c.public_columns then
    raise exception using errcode = 'RE007',
      message = format('the searches of %s do not return its key (%s): their rows cannot be told apart', c.name, array_to_string(c.key_columns, ', ')),
      hint = 'Add the key to the collection''s public_columns and make its match RPCs anew.';
  end if;
  statement := format('select %s as row_id, f.similarity from public.%I($1::extensions.vector, null, $2, query_space => $3) f', reembed.key_of(c.key_columns, 'f'), v.match_function);
  select coalesce(array_agg(i.indexrelid), '{}') into indexes
    from pg_catalog.pg_index i
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    join pg_catalog.pg_am m on m.oid = x.relam
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
   where i.indrelid = v.vector_table and m.amname in ('hnsw', 'ivfflat') and a.attname = v.vector_column;
  if exact then
    -- An index on vectors is read by index scans alone; whatever else these would serve here is small.
    perform set_config('enable_indexscan', 'off', true);
  end if;
  select coalesce(sum(pg_catalog.pg_stat_get_xact_numscans(i.oid)), 0) into scans_before from unnest(indexes) i(oid);
  began := clock_timestamp();
  for row_id, row_similarity in execute statement using query_embedding, match_count, v.space_id loop
    row_ids := row_ids || row_id;
    similarities := similarities || row_similarity;
  end loop;
  milliseconds := extract(epoch from clock_timestamp() - began) * 1000;
  perform set_config('enable_indexscan', indexscan, true);
  return jsonb_build_object('row_ids', row_ids, 'similarities', similarities, 'ms', milliseconds,
    'index_scans', (select coalesce(sum(pg_catalog.pg_stat_get_xact_numscans(i.oid)), 0) from unnest(indexes) i(oid)) - scans_before);
end
$$;
comment on function reembed.measured_search(int, text, int, boolean) is
  'Calls a version''s match RPC without a threshold: { row_ids, similarities: best first, ms: as the database took them, index_scans: how often the vectors'' index was read, by PostgreSQL''s own counters }. exact: the same call with index scans switched off. RE007: the RPC does not return the key.';

create function reembed.version_counts(collection text, version int) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  row_total bigint;
begin
  execute format('select count(*) from %s', c.source_table) into row_total;
  return jsonb_build_object('rows', row_total, 'has_index', reembed.has_index(v))
    || (select jsonb_build_object('embedded', count(*) filter (where r.skipped is null), 'skipped', count(*) filter (where r.skipped is not null),
                                  'truncated', count(*) filter (where r.truncated),
                                  'coverage', case when row_total = 0 then 1 else least(1, count(*)::double precision / row_total) end)
          from reembed.records r where r.version_id = v.id)
    || (select jsonb_build_object('pending', count(*) filter (where j.failed_at is null), 'failed', count(*) filter (where j.failed_at is not null))
          from reembed.jobs j where j.version_id = v.id);
end
$$;
comment on function reembed.version_counts(text, int) is
  'What a version has: { rows: of its collection, embedded, skipped, truncated, coverage: the share of rows with a record, pending and failed jobs, has_index }. Counted, not estimated. RE005, RE006: unknown.';

create function reembed.describe_rows(collection text, version int, row_ids text[]) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  described jsonb;
begin
  execute format($sql$
    select coalesce(jsonb_object_agg(r.row_id, left(%s(t.*), 400)), '{}')
      from (select distinct u.row_id from unnest($1) u(row_id)) r join %s t on %s$sql$,
    v.input_function, c.source_table, reembed.key_match(c, c.key_columns, 't', 'r.row_id'))
    into described using row_ids;
  return described;
end
$$;
comment on function reembed.describe_rows(text, int, text[]) is 'The first 400 characters of the input of each of these rows, as { row_id: text }; rows that are gone are left out. RE005, RE006: unknown.';

create function reembed.canonical_rows(collection text, row_ids text[]) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  known jsonb;
begin
  execute format('select coalesce(jsonb_object_agg(r.row_id, %s), ''{}'') from (select distinct u.row_id from unnest($1) u(row_id)) r join %s t on %s',
      reembed.key_of(c.key_columns, 't'), c.source_table, reembed.key_match(c, c.key_columns, 't', 'r.row_id'))
    into known using row_ids;
  return known;
end
$$;
comment on function reembed.canonical_rows(text, text[]) is
  'Keys as a person wrote them, as the row ids that searches return: { given: row_id }; keys of no row are left out. RE005: unknown collection; 22P02: a text is no key of this table.';

-- Many queries in one request, so that an evaluation, or a search for many things, costs the provider a handful of calls. The same cache, budget and ledger as begin_query and end_query.

create function reembed.begin_queries(space_id text, query_hashes text[], tokens int[], caller_hash text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  price numeric;
  known jsonb;
  missing_tokens bigint;
  missing_inputs int;
  most int;
  seconds double precision;
  refusal jsonb;
  ticket bigint;
begin
  select s.price_per_mtok into price from reembed.spaces s where s.id = begin_queries.space_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('space_id %L is unknown', left(space_id, 100)), hint = 'select id from reembed.spaces lists them.';
  end if;
  if cardinality(query_hashes) is distinct from cardinality(tokens) or exists (select from unnest(query_hashes, tokens) u(hash, estimate)
       where hash is null or hash !~ '^[0-9a-f]{64}$' or estimate is null or estimate < 1) then
    raise exception using errcode = 'RE004', message = 'query_hashes and tokens must be SHA-256 in hex and at least one token, one each for each query',
      hint = 'Pass two arrays of the same length.';
  end if;
  if caller_hash is not null then
    select l.burst into strict most from reembed.query_limits l where l.purpose = 'search';
    if caller_hash !~ '^[0-9a-f]{64}$' or cardinality(query_hashes) > most then
      raise exception using errcode = 'RE004', message = case when cardinality(query_hashes) > most then format('queries: there are %s, and a caller with a rate asks %s at once at most', cardinality(query_hashes), most)
        else 'caller_hash must be a SHA-256 in hex' end, hint = 'Ask for fewer at once; the holder of a secret key has no rate.';
    end if;
    seconds := reembed.admit_caller(decode(caller_hash, 'hex'), requests => cardinality(query_hashes));
    if seconds > 0 then
      return jsonb_build_object('refused', 'rate', 'retry_seconds', seconds);
    end if;
  end if;
  -- In the order of their keys, so that two evaluations at once do not wait for each other in a circle.
  perform from reembed.query_cache q
    where q.space_id = begin_queries.space_id and q.query_hash in (select decode(u.hash, 'hex') from unnest(query_hashes) u(hash))
    order by q.query_hash for no key update;
  with hits as (
    update reembed.query_cache q set hits = q.hits + 1, used_at = clock_timestamp()
     where q.space_id = begin_queries.space_id and q.query_hash in (select decode(u.hash, 'hex') from unnest(query_hashes) u(hash))
    returning encode(q.query_hash, 'hex') as hash, q.embedding::text as embedding)
  select coalesce(jsonb_object_agg(h.hash, h.embedding), '{}') into known from hits h;
  select coalesce(sum(m.estimate), 0), count(*) into missing_tokens, missing_inputs
    from (select distinct on (u.hash) u.hash, u.estimate from unnest(query_hashes, tokens) u(hash, estimate)) m where not known ? m.hash;
  if missing_inputs = 0 then
    return jsonb_build_object('embeddings', known, 'ticket', null);
  end if;
  if price > 0 then
    refusal := reembed.reserve(array['all', 'queries'], missing_tokens * price / 1000000);
    if refusal is not null then
      return jsonb_build_object('refused', 'budget', 'retry_seconds',
        greatest(1, extract(epoch from (refusal ->> 'renews_at')::timestamptz - clock_timestamp())::double precision));
    end if;
  end if;
  insert into reembed.usage as u (space_id, purpose, state, inputs, tokens, cost_usd, lease_until)
  values (begin_queries.space_id, 'query', 'reserved', missing_inputs, missing_tokens, missing_tokens * price / 1000000, clock_timestamp() + interval '5 minutes')
  returning u.id into ticket;
  return jsonb_build_object('embeddings', known, 'ticket', ticket);
end
$$;
comment on function reembed.begin_queries(text, text[], int[], text) is
  'begin_query for many queries of one request, each of which the caller''s rate counts. Returns { embeddings: { hash: the stored one }, ticket: embed the others, then end_queries; null when none is left } or { refused: rate | budget, retry_seconds }. RE004 on bad arguments.';

create function reembed.end_queries(ticket bigint, query_hashes text[], embeddings text[], tokens int, latency_ms int, outcome text, state text default 'settled') returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  s reembed.spaces;
  parsed extensions.vector[];
begin
  if exists (select from unnest(query_hashes) u(hash) where u.hash is null or u.hash !~ '^[0-9a-f]{64}$') then
    raise exception using errcode = 'RE004', message = 'query_hashes must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f for each query.';
  end if;
  select x.* into s from reembed.usage u join reembed.spaces x on x.id = u.space_id where u.id = end_queries.ticket;
  begin
    parsed := array(select e.text::extensions.vector from unnest(embeddings) with ordinality e(text, n) order by e.n);
  exception when data_exception then
    perform reembed.refuse_vectors(s.id);
  end;
  insert into reembed.query_cache (space_id, query_hash, embedding)
  select s.id, decode(e.hash, 'hex'), e.embedding from unnest(query_hashes, parsed) e(hash, embedding)
   where extensions.vector_dims(e.embedding) = s.dimensions
   order by 2
  on conflict on constraint query_cache_pkey do nothing;
  perform reembed.sweep_query_cache();
  perform reembed.settle(ticket, case when tokens is null then '[]'::jsonb else jsonb_build_array(jsonb_build_object(
    'state', state, 'outcome', outcome, 'inputs', (select u.inputs from reembed.usage u where u.id = end_queries.ticket), 'stale', 0,
    'tokens', tokens, 'latency_ms', latency_ms)) end);
end
$$;
comment on function reembed.end_queries(bigint, text[], text[], int, int, text, text) is
  'end_query for many queries of one request: stores the embeddings that came, one for each hash, and settles the reservation. tokens null: nothing was charged; state lost: the answer never came and tokens is an estimate. RE004: the ticket is not an open reservation, or an embedding is no vector.';

create function public.reembed_begin_queries(space_id text, query_hashes text[], tokens int[], caller_hash text default null)
returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.begin_queries(space_id, query_hashes, tokens, caller_hash)
$$;
create function public.reembed_end_queries(ticket bigint, query_hashes text[], embeddings text[], tokens int, latency_ms int, outcome text, state text default 'settled')
returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.end_queries(ticket, query_hashes, embeddings, tokens, latency_ms, outcome, state)
$$;
revoke execute on function public.reembed_begin_queries(text, text[], int[], text), public.reembed_end_queries(bigint, text[], text[], int, int, text, text)
  from public, anon, authenticated;
grant execute on function public.reembed_begin_queries(text, text[], int[], text), public.reembed_end_queries(bigint, text[], text[], int, int, text, text) to service_role;
comment on function public.reembed_begin_queries(text, text[], int[], text) is 'For service_role: reembed.begin_queries, which documents it.';
comment on function public.reembed_end_queries(bigint, text[], text[], int, int, text, text) is 'For service_role: reembed.end_queries, which documents it.';

revoke execute on all functions in schema reembed from public;
