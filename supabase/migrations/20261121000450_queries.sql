-- What a search by text may cost: a repeated query is embedded once, a caller has a rate, queries have a budget.
-- Makes: reembed.query_cache, reembed.query_rates, reembed.query_limits; begin_query and end_query with their doors for service_role.
-- Risks: none for existing data. The cache holds at most query_cache_size() vectors a space (10,000 of 1536 dimensions are about 60 MB).
--
-- The text of a query is never stored: the cache knows its SHA-256, the rates know a hash of who asked.
-- A search waits here for no worker: neither function locks a row of reembed.spaces that a claim could hold.

create table reembed.query_cache (
  space_id text not null references reembed.spaces (id),
  query_hash bytea not null check (octet_length(query_hash) = 32),
  embedding extensions.vector not null,
  hits bigint not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  used_at timestamptz not null default clock_timestamp(),
  primary key (space_id, query_hash)
) with (fillfactor = 80);
comment on table reembed.query_cache is 'Embeddings of queries, so that a repeated one is bought once a space.';
comment on column reembed.query_cache.query_hash is
  'SHA-256 of the query in UTF-8 as it was embedded: in Unicode NFC, without white space at its ends. Letter case and inner white space are the query''s own.';
comment on column reembed.query_cache.hits is 'How often the stored embedding has answered.';
alter table reembed.query_cache enable row level security;

create table reembed.query_rates (
  purpose text not null default 'search' check (purpose in ('search', 'completion')),
  caller bytea not null,
  tokens double precision not null,
  at timestamptz not null,
  primary key (purpose, caller)
);
comment on table reembed.query_rates is
  'A token bucket for each caller and purpose: so many searches, or completions, were left at that time. A bucket that has filled up again says nothing and is swept away.';
comment on column reembed.query_rates.caller is 'A keyed hash of the user''s id, else of the client''s address.';
alter table reembed.query_rates enable row level security;

create table reembed.query_limits (
  purpose text primary key check (purpose in ('search', 'completion')),
  per_minute int not null check (per_minute between 1 and 1000000),
  burst int not null check (burst between 1 and 1000000)
);
comment on table reembed.query_limits is
  'What each caller without a secret key may ask for: a row for searches by text, which set_query_rate writes, and one for completions, which set_completion_rate writes.';
insert into reembed.query_limits (purpose, per_minute, burst) values ('search', 60, 20), ('completion', 10, 5);
alter table reembed.query_limits enable row level security;

create function reembed.query_cache_size() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 10000';
comment on function reembed.query_cache_size() is 'How many queries of a space are kept: those used last.';

create function reembed.set_rate_of(purpose text, per_minute int, burst int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  perform reembed.check_range('per_minute', per_minute, 1, 1000000);
  perform reembed.check_range('burst', burst, 1, 1000000);
  update reembed.query_limits l set per_minute = set_rate_of.per_minute, burst = set_rate_of.burst where l.purpose = set_rate_of.purpose;
end
$$;
comment on function reembed.set_rate_of(text, int, int) is 'Writes the row of query_limits for a purpose. RE004: out of range.';

create function reembed.set_query_rate(per_minute int, burst int) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select reembed.set_rate_of('search', set_query_rate.per_minute, set_query_rate.burst)
$$;
comment on function reembed.set_query_rate(int, int) is
  'How many searches by text a caller without a secret key may make: per_minute lasting, burst at once (each 1 to 1,000,000). RE004: out of range.';

create function reembed.admit_caller(caller bytea, purpose text default 'search', requests int default 1) returns double precision
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  moment constant timestamptz := clock_timestamp();
  per_second double precision;
  burst int;
  left_over double precision;
begin
  select l.per_minute / 60.0, l.burst into strict per_second, burst from reembed.query_limits l where l.purpose = admit_caller.purpose;
  insert into reembed.query_rates as r (purpose, caller, tokens, at) values (admit_caller.purpose, admit_caller.caller, burst - requests, moment)
  on conflict on constraint query_rates_pkey do update
     set tokens = least(burst, r.tokens + per_second * greatest(0, extract(epoch from moment - r.at))) - requests, at = greatest(r.at, moment)
   where least(burst, r.tokens + per_second * greatest(0, extract(epoch from moment - r.at))) >= requests;
  if found then
    -- Now and then, so that the table holds the callers of the last moments alone.
    if random() < 0.01 then
      perform reembed.sweep_query_rates();
    end if;
    return 0;
  end if;
  select r.tokens + per_second * greatest(0, extract(epoch from moment - r.at)) into left_over
    from reembed.query_rates r where r.purpose = admit_caller.purpose and r.caller = admit_caller.caller;
  return greatest(0.001, (requests - coalesce(left_over, 0)) / per_second);
end
$$;
comment on function reembed.admit_caller(bytea, text, int) is
  'Takes a token a request from the caller''s bucket for this purpose, all of them or none, never more than its burst: 0 when there were as many, else the seconds until there are. Equal callers at once wait for each other for the length of one call.';

create function reembed.sweep_query_rates() returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  swept bigint;
begin
  delete from reembed.query_rates r where (r.purpose, r.caller) in (
    select f.purpose, f.caller from reembed.query_rates f join reembed.query_limits l on l.purpose = f.purpose
     where f.at < clock_timestamp() - make_interval(secs => l.burst * 60.0 / l.per_minute)
       for update of f skip locked);
  get diagnostics swept = row_count;
  return swept;
end
$$;
comment on function reembed.sweep_query_rates() is 'Deletes the buckets that are full again; returns how many.';

create function reembed.sweep_query_cache() returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  swept bigint;
begin
  -- Skipped are entries that a search is using this moment: they are not the oldest any more.
  delete from reembed.query_cache q where (q.space_id, q.query_hash) in (
    select f.space_id, f.query_hash from reembed.query_cache f
     where (f.space_id, f.query_hash) in (
       select o.space_id, o.query_hash
         from (select c.space_id, c.query_hash, row_number() over (partition by c.space_id order by c.used_at desc, c.query_hash) as place from reembed.query_cache c) o
        where o.place > reembed.query_cache_size())
       for update skip locked);
  get diagnostics swept = row_count;
  return swept;
end
$$;
comment on function reembed.sweep_query_cache() is 'Deletes of each space the entries beyond query_cache_size(), those used longest ago; returns how many.';

create function reembed.begin_query(space_id text, query_hash text, tokens int, caller_hash text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  price numeric;
  known text;
  seconds double precision;
  refusal jsonb;
  ticket bigint;
begin
  perform reembed.check_range('tokens', tokens, 1, 300000);
  if query_hash is null or query_hash !~ '^[0-9a-f]{64}$' or caller_hash !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'RE004', message = 'query_hash and caller_hash must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f; caller_hash may be null.';
  end if;
  select s.price_per_mtok into price from reembed.spaces s where s.id = begin_query.space_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('space_id %L is unknown', left(space_id, 100)), hint = 'select id from reembed.spaces lists them.';
  end if;
  if caller_hash is not null then
    seconds := reembed.admit_caller(decode(caller_hash, 'hex'));
    if seconds > 0 then
      return jsonb_build_object('refused', 'rate', 'retry_seconds', seconds);
    end if;
  end if;
  update reembed.query_cache q set hits = q.hits + 1, used_at = clock_timestamp()
   where q.space_id = begin_query.space_id and q.query_hash = decode(begin_query.query_hash, 'hex')
  returning q.embedding::text into known;
  if found then
    return jsonb_build_object('embedding', known);
  end if;
  -- Searches whose process died: what they reserved counts as spent.
  update reembed.usage u set state = 'lost', outcome = 'no answer in time'
   where u.id in (select o.id from reembed.usage o
                   where o.space_id = begin_query.space_id and o.state = 'reserved' and o.purpose = 'query' and o.lease_until < clock_timestamp() for update skip locked);
  if price > 0 then
    refusal := reembed.reserve(array['all', 'queries'], begin_query.tokens * price / 1000000);
    if refusal is not null then
      return jsonb_build_object('refused', 'budget',
        'retry_seconds', greatest(1, extract(epoch from (refusal ->> 'renews_at')::timestamptz - clock_timestamp())::double precision));
    end if;
  end if;
  insert into reembed.usage as u (space_id, purpose, state, inputs, tokens, cost_usd, lease_until)
  values (begin_query.space_id, 'query', 'reserved', 1, begin_query.tokens, begin_query.tokens * price / 1000000, clock_timestamp() + interval '5 minutes')
  returning u.id into ticket;
  return jsonb_build_object('ticket', ticket);
end
$$;
comment on function reembed.begin_query(text, text, int, text) is
  'Before a query is embedded. query_hash and caller_hash: SHA-256 in hex, caller_hash null for who has no rate; tokens: an estimate, which is reserved. Returns { embedding: the stored one } or { ticket: embed it, then end_query } or { refused: rate | budget, retry_seconds }. What the cache knows is answered whatever the budget. RE004 on bad arguments.';

create function reembed.end_query(ticket bigint, query_hash text, tokens int, latency_ms int, outcome text, state text default 'settled', embedding text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  s reembed.spaces;
  parsed extensions.vector;
begin
  if query_hash is null or query_hash !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'RE004', message = 'query_hash must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f.';
  end if;
  select x.* into s from reembed.usage u join reembed.spaces x on x.id = u.space_id where u.id = end_query.ticket;
  begin
    parsed := embedding::extensions.vector;
  exception when data_exception then
    perform reembed.refuse_vectors(s.id);
  end;
  insert into reembed.query_cache (space_id, query_hash, embedding)
  select s.id, decode(end_query.query_hash, 'hex'), e.vector from (select parsed as vector) e
   -- What does not fit its space would fail every later search; what was paid is settled all the same.
   where extensions.vector_dims(e.vector) = s.dimensions
  on conflict on constraint query_cache_pkey do nothing;
  -- Not at every call: the cache may outgrow its size by some hundreds.
  if found and random() < 0.01 then
    perform reembed.sweep_query_cache();
  end if;
  perform reembed.settle(ticket, case when tokens is null then '[]'::jsonb else jsonb_build_array(jsonb_build_object(
    'state', state, 'outcome', outcome, 'inputs', 1, 'stale', 0, 'tokens', tokens, 'latency_ms', latency_ms)) end);
end
$$;
comment on function reembed.end_query(bigint, text, int, int, text, text, text) is
  'After a query was embedded, or could not be: settles what begin_query reserved and stores the embedding. tokens null: nothing was charged; state lost: its answer never came and tokens is an estimate. RE004: the ticket is not an open reservation, or the embedding is no vector.';

create function public.reembed_begin_query(space_id text, query_hash text, tokens int, caller_hash text default null)
returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.begin_query(space_id, query_hash, tokens, caller_hash)
$$;
create function public.reembed_end_query(ticket bigint, query_hash text, tokens int, latency_ms int, outcome text, state text default 'settled', embedding text default null)
returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.end_query(ticket, query_hash, tokens, latency_ms, outcome, state, embedding)
$$;
revoke execute on function public.reembed_begin_query(text, text, int, text), public.reembed_end_query(bigint, text, int, int, text, text, text)
  from public, anon, authenticated;
grant execute on function public.reembed_begin_query(text, text, int, text), public.reembed_end_query(bigint, text, int, int, text, text, text) to service_role;
comment on function public.reembed_begin_query(text, text, int, text) is 'For service_role: reembed.begin_query, which documents it.';
comment on function public.reembed_end_query(bigint, text, int, int, text, text, text) is 'For service_role: reembed.end_query, which documents it.';

revoke execute on all functions in schema reembed from public;
