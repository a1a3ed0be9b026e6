-- What language models are asked and what it costs: answers to questions, descriptions of images, whatever a function has a model write.
-- Makes: reembed.completion_models, reembed.completions (the ledger), begin_completion and end_completion with their doors for service_role.
-- Risks: none for existing data. Nothing is bought until a function asks a model.
--
-- As with queries, money is reserved before a request and settled by the provider's own count; what was asked and answered is never stored.
-- An answer to a caller is paid by the budgets of queries; what is written about a collection's rows by those of the collection.

create table reembed.completion_models (
  id text primary key,
  provider text not null check (provider ~ '^[a-z][a-z0-9_-]{0,39}$'),
  model text not null check (model ~ '^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}$'),
  input_price_per_mtok numeric not null check (input_price_per_mtok >= 0 and input_price_per_mtok < 'infinity'),
  output_price_per_mtok numeric not null check (output_price_per_mtok >= 0 and output_price_per_mtok < 'infinity'),
  max_input_tokens int not null check (max_input_tokens between 2048 and 100000000),
  max_output_tokens int not null check (max_output_tokens between 16 and 10000000),
  check (id = provider || '/' || model)
);
comment on table reembed.completion_models is 'The language models that may be asked: what a token of theirs costs and how many they take and write at once.';
comment on column reembed.completion_models.input_price_per_mtok is 'US dollars for a million tokens of the request, images included.';
comment on column reembed.completion_models.output_price_per_mtok is 'US dollars for a million tokens of the answer.';
alter table reembed.completion_models enable row level security;

create table reembed.completions (
  id bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  model_id text not null references reembed.completion_models (id),
  purpose text not null check (purpose ~ '^[a-z][a-z_]{0,39}$'),
  collection text,
  is_move boolean not null default false,
  state text not null check (state in ('reserved', 'settled', 'lost')),
  outcome text,
  input_tokens bigint not null check (input_tokens >= 0),
  output_tokens bigint not null check (output_tokens >= 0),
  cost_usd numeric not null,
  latency_ms int,
  lease_until timestamptz,
  check (state <> 'reserved' or lease_until is not null)
);
comment on table reembed.completions is
  'The ledger of language models: a row a request, also of one that failed. Reserved with an estimate, then settled with the provider''s own count; lost, by estimate, when its answer broke off or never came back.';
comment on column reembed.completions.purpose is 'What it was for, in a word: answer, describe, ...';
comment on column reembed.completions.collection is 'Whose budget paid; null: that of queries.';
comment on column reembed.completions.is_move is
  'Asked while a version of the collection was loading: what is written about its rows then counts as part of the move, also where an edit asked for it.';
comment on column reembed.completions.lease_until is 'Until when it may be settled as it was reserved; null once it is settled.';
create index completions_reserved_idx on reembed.completions (lease_until) where state = 'reserved';
create index completions_at_idx on reembed.completions (at);
alter table reembed.completions enable row level security;

create function reembed.set_completion_model(
  provider text, model text, input_price_per_mtok numeric, output_price_per_mtok numeric, max_input_tokens int default 128000, max_output_tokens int default 4096
) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  model_id constant text := format('%s/%s', provider, model);
begin
  if set_completion_model.provider is null or set_completion_model.provider !~ '^[a-z][a-z0-9_-]{0,39}$'
     or set_completion_model.model is null or set_completion_model.model !~ '^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}$' then
    raise exception using errcode = 'RE004', message = 'provider and model must be the names of a provider and of a model of its',
      hint = 'For example: select reembed.set_completion_model(''openai'', ''gpt-4.1-mini'', 0.40, 1.60);';
  end if;
  perform reembed.check_range('input_price_per_mtok', input_price_per_mtok, 0, 1000000),
          reembed.check_range('output_price_per_mtok', output_price_per_mtok, 0, 1000000),
          reembed.check_range('max_input_tokens', max_input_tokens, 2048, 100000000),
          reembed.check_range('max_output_tokens', max_output_tokens, 16, 10000000);
  insert into reembed.completion_models as m (id, provider, model, input_price_per_mtok, output_price_per_mtok, max_input_tokens, max_output_tokens)
  values (model_id, set_completion_model.provider, set_completion_model.model, set_completion_model.input_price_per_mtok,
          set_completion_model.output_price_per_mtok, set_completion_model.max_input_tokens, set_completion_model.max_output_tokens)
  on conflict on constraint completion_models_pkey do update
     set input_price_per_mtok = excluded.input_price_per_mtok, output_price_per_mtok = excluded.output_price_per_mtok,
         max_input_tokens = excluded.max_input_tokens, max_output_tokens = excluded.max_output_tokens;
  return model_id;
end
$$;
comment on function reembed.set_completion_model(text, text, numeric, numeric, int, int) is
  'Makes a language model known, or changes its price and limits, and returns its id, provider/model. Prices in US dollars for a million tokens, 0 for a server of your own. What was bought keeps the price that it had. RE004 on bad arguments.';

-- OpenAI's list prices and limits.
select reembed.set_completion_model('openai', 'gpt-4.1-mini', 0.40, 1.60, 1000000, 32768),
       reembed.set_completion_model('openai', 'gpt-4.1-nano', 0.10, 0.40, 1000000, 32768),
       reembed.set_completion_model('openai', 'gpt-4o-mini', 0.15, 0.60, 111000, 16384);

create function reembed.set_completion_rate(per_minute int, burst int) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select reembed.set_rate_of('completion', set_completion_rate.per_minute, set_completion_rate.burst)
$$;
comment on function reembed.set_completion_rate(int, int) is
  'How many completions a caller without a secret key may ask for: per_minute lasting, burst at once (each 1 to 1,000,000). RE004: out of range.';

create function reembed.completion_cost(m reembed.completion_models, input_tokens numeric, output_tokens numeric) returns numeric
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select (input_tokens * m.input_price_per_mtok + output_tokens * m.output_price_per_mtok) / 1000000
$$;
comment on function reembed.completion_cost(reembed.completion_models, numeric, numeric) is 'US dollars for a request of so many tokens and an answer of so many.';

create function reembed.completion_scopes(collection text) returns text[]
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$ select array['all', coalesce(completion_scopes.collection, 'queries')] $$;
comment on function reembed.completion_scopes(text) is 'The budgets that pay for a completion: those of all, and of the collection that it is for, else of queries.';

create function reembed.completion_model(model_id text) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select to_jsonb(m) from reembed.completion_models m where m.id = completion_model.model_id
$$;
comment on function reembed.completion_model(text) is
  'A language model as it is known: { id, provider, model, input_price_per_mtok, output_price_per_mtok, max_input_tokens, max_output_tokens }; null where it is not.';

create function reembed.begin_completion(
  model_id text, purpose text, input_tokens int, max_output_tokens int, collection text default null, caller_hash text default null, lease_seconds int default 300
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  m reembed.completion_models;
  output_limit int;
  cost numeric;
  is_move constant boolean := exists (select from reembed.versions v join reembed.collections c on c.id = v.collection_id
                                       where c.name = begin_completion.collection and reembed.is_moving(v));
  seconds double precision;
  refusal jsonb;
  ticket bigint;
begin
  select * into m from reembed.completion_models x where x.id = begin_completion.model_id;
  if not found then
    return jsonb_build_object('refused', 'model');
  end if;
  if begin_completion.purpose is null or begin_completion.purpose !~ '^[a-z][a-z_]{0,39}$' then
    raise exception using errcode = 'RE004', message = 'purpose must be a word of lower case letters', hint = 'For example: answer, describe.';
  end if;
  if caller_hash !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'RE004', message = 'caller_hash must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f, or null for who has no rate.';
  end if;
  perform reembed.check_range('input_tokens', input_tokens, 1, m.max_input_tokens),
          reembed.check_range('max_output_tokens', max_output_tokens, 1, 10000000),
          reembed.check_range('lease_seconds', lease_seconds, 1, 3600);
  if begin_completion.collection is not null then
    perform reembed.collection_named(begin_completion.collection);
  end if;
  if caller_hash is not null then
    seconds := reembed.admit_caller(decode(caller_hash, 'hex'), 'completion');
    if seconds > 0 then
      return jsonb_build_object('refused', 'rate', 'retry_seconds', seconds);
    end if;
  end if;
  -- Requests whose process died: what they reserved counts as spent.
  update reembed.completions l set state = 'lost', outcome = 'no answer in time'
   where l.id in (select o.id from reembed.completions o where o.state = 'reserved' and o.lease_until < clock_timestamp() for update skip locked);
  output_limit := least(max_output_tokens, m.max_output_tokens);
  cost := reembed.completion_cost(m, input_tokens, output_limit);
  if cost > 0 then
    refusal := reembed.reserve(reembed.completion_scopes(begin_completion.collection), cost, is_move);
    if refusal is not null then
      return jsonb_build_object('refused', 'budget',
        'retry_seconds', greatest(1, extract(epoch from (refusal ->> 'renews_at')::timestamptz - clock_timestamp())::double precision));
    end if;
  end if;
  insert into reembed.completions as l (model_id, purpose, collection, is_move, state, input_tokens, output_tokens, cost_usd, lease_until)
  values (m.id, begin_completion.purpose, begin_completion.collection, is_move, 'reserved', begin_completion.input_tokens, output_limit, cost,
          clock_timestamp() + make_interval(secs => lease_seconds))
  returning l.id into ticket;
  return jsonb_build_object('ticket', ticket, 'max_output_tokens', output_limit);
end
$$;
comment on function reembed.begin_completion(text, text, int, int, text, text, int) is
  'Before a language model is asked. input_tokens: an estimate; max_output_tokens: the most it may write; both are reserved. collection: whose budget pays, that of its move too while a version of it is loading, null for that of queries; caller_hash: SHA-256 in hex, null for who has no rate. Returns { ticket: ask, then end_completion; max_output_tokens: no more than the model writes } or { refused: rate | budget, retry_seconds } or { refused: model, where it is unknown }. RE004, RE005 on bad arguments.';

create function reembed.end_completion(ticket bigint, input_tokens int, output_tokens int, latency_ms int, outcome text, state text default 'settled') returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  reservation reembed.completions;
  cost numeric;
begin
  perform reembed.check_range('input_tokens', input_tokens, 0, 1000000000), reembed.check_range('output_tokens', output_tokens, 0, 1000000000);
  if end_completion.state is null or end_completion.state not in ('settled', 'lost') then
    raise exception using errcode = 'RE004', message = 'state must be settled or lost', hint = 'lost is a request whose answer did not come back whole.';
  end if;
  select * into reservation from reembed.completions l where l.id = end_completion.ticket and l.lease_until is not null for no key update;
  if not found then
    raise exception using errcode = 'RE004', message = format('ticket %s is not an open reservation', coalesce(ticket::text, 'null')), hint = 'Settle each completion once.';
  end if;
  select reembed.completion_cost(m, end_completion.input_tokens, end_completion.output_tokens) into cost
    from reembed.completion_models m where m.id = reservation.model_id;
  update reembed.completions l
     set state = end_completion.state, outcome = left(end_completion.outcome, 100), input_tokens = end_completion.input_tokens,
         output_tokens = end_completion.output_tokens, cost_usd = cost, latency_ms = end_completion.latency_ms, lease_until = null
   where l.id = reservation.id;
  -- Budgets last: whoever holds one waits for nothing any more.
  if reservation.cost_usd > 0 or cost > 0 then
    perform reembed.spend(reembed.completion_scopes(reservation.collection), reservation.at, reservation.cost_usd, cost, reservation.is_move);
  end if;
end
$$;
comment on function reembed.end_completion(bigint, int, int, int, text, text) is
  'After a language model was asked: replaces what begin_completion reserved by what was used, 0 tokens where nothing was charged; state lost where the answer did not come back whole and the tokens are an estimate. RE004: the ticket is not an open reservation.';

create function public.reembed_completion_model(model_id text) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp as $$ select reembed.completion_model(model_id) $$;
create function public.reembed_begin_completion(
  model_id text, purpose text, input_tokens int, max_output_tokens int, collection text default null, caller_hash text default null, lease_seconds int default 300
) returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.begin_completion(model_id, purpose, input_tokens, max_output_tokens, collection, caller_hash, lease_seconds)
$$;
create function public.reembed_end_completion(ticket bigint, input_tokens int, output_tokens int, latency_ms int, outcome text, state text default 'settled')
returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.end_completion(ticket, input_tokens, output_tokens, latency_ms, outcome, state)
$$;
revoke execute on function public.reembed_completion_model(text), public.reembed_begin_completion(text, text, int, int, text, text, int),
  public.reembed_end_completion(bigint, int, int, int, text, text) from public, anon, authenticated;
grant execute on function public.reembed_completion_model(text), public.reembed_begin_completion(text, text, int, int, text, text, int),
  public.reembed_end_completion(bigint, int, int, int, text, text) to service_role;
comment on function public.reembed_completion_model(text) is 'For service_role: reembed.completion_model, which documents it.';
comment on function public.reembed_begin_completion(text, text, int, int, text, text, int) is 'For service_role: reembed.begin_completion, which documents it.';
comment on function public.reembed_end_completion(bigint, int, int, int, text, text) is 'For service_role: reembed.end_completion, which documents it.';

revoke execute on all functions in schema reembed from public;
