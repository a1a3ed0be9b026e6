-- How fast a space may be asked, shared by all its workers, whatever process they run in.
-- Makes: columns of reembed.spaces, the function by which a claim learns whether the space has room, and the one by which an answer is noted.
-- Risks: none for existing data. A wrong figure here costs time, never a token or a row.
--
-- Three things hold a claim back, each for a different reason:
--   * the space waits, because the provider said so (429 with a time), and longer each time it says so again;
--   * as many requests are open as the space has learned to have in flight: one more with each round of successes, half with each refusal. After a
--     refusal it is one, until that one succeeds: what nobody knows to be over is tried with a single request, not with half of a storm;
--   * the provider's own budget a minute, as its last answer stated it, has no room for the request. That is what avoids the refusals.
-- Whoever asks holds the space's row (the claim takes it first), so that of ten workers one goes and nine are told how long to wait.

alter table reembed.spaces
  add column max_in_flight real not null default 8 check (max_in_flight between 1 and 64),
  add column waits_until timestamptz,
  add column refusals int not null default 0 check (refusals >= 0),
  add column refused_at timestamptz,
  add column rate_seen_at timestamptz,
  add column tokens_per_minute double precision check (tokens_per_minute > 0),
  add column tokens_left double precision check (tokens_left >= 0),
  add column requests_per_minute double precision check (requests_per_minute > 0),
  add column requests_left double precision check (requests_left >= 0);
comment on column reembed.spaces.max_in_flight is 'How many requests may be open at once. Adaptive: grows while requests succeed, is halved when the provider refuses one for its rate.';
comment on column reembed.spaces.waits_until is 'No claim is given until then, because the provider asked for it or has no room. Ends by itself; a pause does not.';
comment on column reembed.spaces.refusals is 'Refusals for the rate in a row, those of one burst counted once.';
comment on column reembed.spaces.refused_at is 'When the last of them was noted: what was sent before it belongs to the same burst.';
comment on column reembed.spaces.rate_seen_at is 'When the provider last said what it allows (the x-ratelimit headers): the four columns beside this one.';

create function reembed.bucket_wait(per_minute double precision, remaining double precision, seconds double precision, opened double precision, wanted double precision)
returns double precision
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(greatest(0, least(wanted, per_minute) - (least(per_minute, remaining + seconds * per_minute / 60) - opened)) / per_minute * 60000, 0)
$$;
comment on function reembed.bucket_wait(double precision, double precision, double precision, double precision, double precision) is
  'Milliseconds until a bucket that fills evenly, per_minute a minute, has room for what is wanted, given what remained so many seconds ago and what was opened since; 0 where nothing is known. What is wanted beyond a whole minute waits for the full bucket.';

create function reembed.rate_wait(s reembed.spaces, tokens bigint) returns double precision
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  open_requests int;
  open_tokens double precision;
  open_tries int;
  seconds constant double precision := greatest(0, extract(epoch from clock_timestamp() - s.rate_seen_at));
  told constant double precision := greatest(0, extract(epoch from s.waits_until - clock_timestamp()) * 1000);
  room double precision;
begin
  if told > 0 then
    return told;
  end if;
  -- A request that was answered and is not settled yet counts as if it were not in the provider's figure: too careful for a moment, never too bold.
  select count(*), coalesce(sum(u.tokens), 0), count(*) filter (where s.refusals > 0 and u.at > s.refused_at) into open_requests, open_tokens, open_tries
    from reembed.usage u
   where u.space_id = s.id and u.state = 'reserved' and u.purpose = 'document' and u.lane = 'sync' and u.lease_until > clock_timestamp();
  room := greatest(reembed.bucket_wait(s.tokens_per_minute, s.tokens_left, seconds, open_tokens, tokens),
                   reembed.bucket_wait(s.requests_per_minute, s.requests_left, seconds, open_requests, 1));
  if open_requests >= floor(s.max_in_flight) or open_tries > 0 then
    room := greatest(room, 250);
  end if;
  -- What is open may be settled at any moment, and then there is a newer figure.
  return case when open_requests > 0 then least(room, 250) else room end;
end
$$;
comment on function reembed.rate_wait(reembed.spaces, bigint) is
  'Milliseconds for which a space has no room for a request of so many tokens; 0 when it may be sent. The caller holds the space''s row.';

create function reembed.rate_refusal(space_id text, wait_ms double precision) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('reason', 'rate', 'space', space_id, 'wait_ms', ceil(wait_ms + random() * least(250, greatest(50, wait_ms / 4))), 'jobs', '[]'::jsonb)
$$;
comment on function reembed.rate_refusal(text, double precision) is
  'What a claim returns when the space has no room. The wait is scattered by a quarter, so that those who wait do not return at once.';

create function reembed.bucket_left(per_minute double precision, told_per_minute double precision, told_left double precision, seconds double precision) returns double precision
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when told_per_minute = per_minute then least(per_minute, told_left + seconds * per_minute / 60) end
$$;
comment on function reembed.bucket_left(double precision, double precision, double precision, double precision) is
  'The most that a bucket of per_minute a minute holds now, by a figure of so many seconds ago; null where the figure is of another limit.';

create function reembed.note_answer(space_id text, asked_at timestamptz, answer jsonb) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  at constant timestamptz := clock_timestamp();
  refused constant boolean := coalesce((answer ->> 'refused')::boolean, false);
  told_ms constant double precision := least(86400000, greatest(0, (answer ->> 'retry_after_ms')::double precision));
  seen_at constant timestamptz := at - make_interval(secs => least(3600, greatest(0, coalesce((answer ->> 'age_ms')::double precision, 0))) / 1000);
begin
  if refused then
    -- Requests that were sent before the last refusal was noted are the same burst: it halves once and counts once.
    update reembed.spaces s
       set max_in_flight = case when first.of_burst then greatest(1, s.max_in_flight / 2) else s.max_in_flight end,
           refusals = s.refusals + first.of_burst::int,
           refused_at = at,
           waits_until = greatest(s.waits_until, at + make_interval(secs =>
             greatest(coalesce(told_ms, 1000), case when first.of_burst then least(250 * 4 ^ least(s.refusals, 3), 8000) else 0 end) / 1000))
      from (select x.id, x.refused_at is null or note_answer.asked_at > x.refused_at as of_burst from reembed.spaces x where x.id = note_answer.space_id) first
     where s.id = first.id;
  else
    -- A success that was sent before the last refusal says nothing about what the provider allows since.
    update reembed.spaces s
       set refusals = case when note_answer.asked_at < s.refused_at then s.refusals else 0 end,
           max_in_flight = least(64, s.max_in_flight + 1 / s.max_in_flight)
     where s.id = note_answer.space_id;
  end if;
  if answer ?| array['tokens_per_minute', 'requests_per_minute'] then
    -- Answers are noted in another order than the provider gave them in, and an older figure does not know of what was taken since. So each is a bound for ever: a bucket
    -- never holds more than any figure of it and what has flowed in since, and the lowest of them counts.
    update reembed.spaces s
       set rate_seen_at = at, tokens_per_minute = kept.tokens_per_minute, requests_per_minute = kept.requests_per_minute,
           tokens_left = least(reembed.bucket_left(kept.tokens_per_minute, told.tokens_per_minute, told.tokens_left, kept.age),
                               reembed.bucket_left(kept.tokens_per_minute, s.tokens_per_minute, s.tokens_left, kept.age_before)),
           requests_left = least(reembed.bucket_left(kept.requests_per_minute, told.requests_per_minute, told.requests_left, kept.age),
                                 reembed.bucket_left(kept.requests_per_minute, s.requests_per_minute, s.requests_left, kept.age_before))
      from reembed.spaces x,
           jsonb_to_record(answer) told(tokens_per_minute double precision, tokens_left double precision, requests_per_minute double precision, requests_left double precision),
           -- What the newer of the two says is the limit. One from after now is from before the clock was set back.
           lateral (select case when d.is_late then x.tokens_per_minute else told.tokens_per_minute end as tokens_per_minute,
                           case when d.is_late then x.requests_per_minute else told.requests_per_minute end as requests_per_minute,
                           extract(epoch from at - seen_at)::double precision as age,
                           case when x.rate_seen_at <= at then extract(epoch from at - x.rate_seen_at)::double precision end as age_before
                      from (select x.rate_seen_at > seen_at and x.rate_seen_at <= at as is_late) d) kept
     where s.id = note_answer.space_id and x.id = s.id;
  end if;
end
$$;
comment on function reembed.note_answer(text, timestamptz, jsonb) is
  'Learns from a provider''s answer to a request that was claimed at asked_at: { refused, retry_after_ms, age_ms, tokens_per_minute, tokens_left, requests_per_minute, requests_left }, all optional. A refusal makes the space wait as long as it was told, at least 250 ms, four times that with each refusal in a row, up to 8 s. The caller holds the space''s row.';

revoke execute on all functions in schema reembed from public;
