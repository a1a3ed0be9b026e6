-- One request before a version is loaded: whether its provider takes the key and answers in the version's space.
-- Makes: reembed.reserve_probe(), which reserves its cost; settle() settles it like any other.
-- Risks: none.

create function reembed.reserve_probe(collection text, version int, tokens int) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  s reembed.spaces;
  exhausted jsonb;
  cost numeric;
  usage_id bigint;
begin
  perform reembed.check_range('tokens', tokens, 1, 8192);
  select * into strict s from reembed.spaces x where x.id = v.space_id;
  -- A version that is loaded already, or was once, has proved it; in a paused space nothing is bought.
  if v.maintained or v.state = 'retired' or s.paused_until > clock_timestamp()
     or exists (select from reembed.records r where r.version_id = v.id) then
    return null;
  end if;
  cost := tokens * s.price_per_mtok / 1000000;
  -- Not part of the move, which has not begun.
  exhausted := case when cost > 0 then reembed.reserve(array['all', reserve_probe.collection], cost) end;
  if exhausted is not null then
    raise exception using errcode = 'RE007',
      message = format('the budget of %s a %s is spent: not even a first request fits into it', exhausted ->> 'scope', exhausted ->> 'period'),
      hint = format('Raise it with reembed.set_budget(%L, %L, ...), or wait until it is renewed. Nothing was changed.', exhausted ->> 'scope', exhausted ->> 'period');
  end if;
  insert into reembed.usage (space_id, version_id, purpose, state, inputs, tokens, cost_usd, lease_token, lease_until)
  values (s.id, v.id, 'document', 'reserved', 1, reserve_probe.tokens, cost, gen_random_uuid(), clock_timestamp() + interval '2 minutes')
  returning id into usage_id;
  return usage_id;
end
$$;
comment on function reembed.reserve_probe(text, int, int) is
  'Reserves the cost of one short text with which the provider of a version is tried before its loading. Returns the id to settle it with, or null where there is nothing to try: the version is maintained, has records or is finalized, or its space is paused. RE007: a budget has not enough left. RE004, RE005, RE006 on bad arguments.';

revoke execute on all functions in schema reembed from public;
