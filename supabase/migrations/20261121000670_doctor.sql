-- What `reembed doctor` needs of the database to try a provider: the money for one request, and the vector that it once gave for a fixed text.
-- Makes: reembed.drift_references, reembed.reserve_check(), reembed.compare_with_reference().
-- Risks: none.

create table reembed.drift_references (
  space_id text primary key references reembed.spaces (id) on delete cascade,
  embedding extensions.vector not null,
  made_at timestamptz not null default clock_timestamp()
);
comment on table reembed.drift_references is
  'What each space''s provider gave for the doctor''s fixed text when it was asked first: a later answer far from it comes from another model of the same name.';
alter table reembed.drift_references enable row level security;

create function reembed.reserve_check(space_id text, tokens int) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  s reembed.spaces;
  cost numeric;
  exhausted jsonb;
  usage_id bigint;
begin
  perform reembed.check_range('tokens', tokens, 1, 8192);
  select * into s from reembed.spaces x where x.id = reserve_check.space_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('space_id %L is unknown', left(space_id, 100)), hint = 'select id from reembed.spaces lists them.';
  end if;
  cost := tokens * s.price_per_mtok / 1000000;
  exhausted := case when cost > 0 then reembed.reserve(array['all'], cost) end;
  if exhausted is not null then
    raise exception using errcode = 'RE007', message = format('the budget of all a %s is spent: the provider is not asked', exhausted ->> 'period'),
      hint = format('Raise it with reembed.set_budget(''all'', %L, ...), or wait until it is renewed.', exhausted ->> 'period');
  end if;
  insert into reembed.usage (space_id, purpose, state, inputs, tokens, cost_usd, lease_token, lease_until)
  values (s.id, 'document', 'reserved', 1, reserve_check.tokens, cost, gen_random_uuid(), clock_timestamp() + interval '2 minutes')
  returning id into usage_id;
  return usage_id;
end
$$;
comment on function reembed.reserve_check(text, int) is
  'Reserves the cost of one short text with which a space''s provider is tried, of no version: only the budgets of all count it. Returns the id to settle it with. RE004: unknown space; RE007: a budget has not enough left.';

create function reembed.compare_with_reference(space_id text, embedding extensions.vector) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  reference reembed.drift_references;
begin
  insert into reembed.drift_references (space_id, embedding) values (compare_with_reference.space_id, compare_with_reference.embedding)
  on conflict on constraint drift_references_pkey do nothing;
  select * into strict reference from reembed.drift_references r where r.space_id = compare_with_reference.space_id;
  return jsonb_build_object('made_at', reference.made_at,
    'similarity', case when extensions.vector_dims(reference.embedding) = extensions.vector_dims(embedding)
                       then 1 - (reference.embedding operator(extensions.<=>) embedding) else 0 end);
end
$$;
comment on function reembed.compare_with_reference(text, extensions.vector) is
  'Compares a space''s answer to the fixed text with the first one, which it becomes where there is none: { made_at, similarity: cosine, 1 for the same }.';

revoke execute on all functions in schema reembed from public;
