-- The worker's protocol: claim, complete, fail, release; and the ledger of what was paid.
-- Makes: reembed.usage, the four functions with thin public doors for service_role, pause and resume of a space.
-- Risks: none for existing data; a complete writes vectors into the collection's table, under row locks that it never waits for.
--
-- The rules, each of which stands for a failure that was reproduced without it:
--   * complete hashes the source row that it has locked. A hash kept in the job, or read without the lock, proves nothing.
--   * The token decides, not the deadline: an expired lease that nobody took is still good, and refusing it pays twice.
--   * Nothing here waits for a row lock while it holds one: rows are taken with `skip locked`, what was skipped comes back as busy and is
--     retried one row a transaction. Table locks are taken before any row lock. As a belt, lock_timeout stays below deadlock_timeout.
--   * claim takes the space's row first (the mutex for duplicates and pauses) and reads texts in a later statement than it locks jobs in.
--   * What is wrong with one row, one table or one version stops that row, table or version, never the work on the others.

create table reembed.usage (
  id bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  space_id text not null references reembed.spaces (id),
  version_id int,
  is_move boolean not null default false,
  purpose text not null check (purpose in ('document', 'query')),
  lane text not null default 'sync' check (lane in ('sync', 'batch')),
  state text not null check (state in ('reserved', 'settled', 'lost')),
  outcome text,
  inputs int not null default 0,
  stale int not null default 0,
  tokens bigint not null default 0 check (tokens >= 0),
  cost_usd numeric not null default 0,
  latency_ms int,
  lease_token uuid,
  lease_until timestamptz
);
comment on table reembed.usage is
  'The ledger: a row a provider request. Reserved in the claim with an estimate, then settled with the provider''s own count; lost when the answer never came back.';
comment on column reembed.usage.is_move is 'Bought for a version that was not ready yet: it counts against the budgets of the move.';
comment on column reembed.usage.lane is 'batch: bought through the provider''s batch interface, at its lower price.';
comment on column reembed.usage.stale is 'How many inputs were paid and not stored, because their text changed, their row went or their lease was taken meanwhile.';
create index usage_reserved_idx on reembed.usage (space_id, lease_until) where state = 'reserved';
create index usage_version_idx on reembed.usage (version_id, at);
alter table reembed.usage enable row level security;

create function reembed.batch_price_factor() returns numeric language sql immutable set search_path = pg_catalog, pg_temp as 'select 0.5';
comment on function reembed.batch_price_factor() is 'What a token costs in the batch lane, as a share of its usual price: OpenAI''s Batch API halves it.';

create function reembed.token_price(s reembed.spaces, lane text default 'sync') returns numeric
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select s.price_per_mtok * case token_price.lane when 'batch' then reembed.batch_price_factor() else 1 end / 1000000
$$;
comment on function reembed.token_price(reembed.spaces, text) is 'US dollars for a token of a document in this lane.';

create function reembed.is_for_batch(j reembed.jobs) returns boolean
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select j.attempts = 0 and (j.priority > 0 or j.enqueued_at < clock_timestamp() - interval '1 minute')
$$;
comment on function reembed.is_for_batch(reembed.jobs) is
  'Whether the batch lane may take a job. An edit that a worker takes at its next tick must not wait for a batch; what has failed once needs the closer look of the synchronous lane.';

create function reembed.max_attempts() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 8';
comment on function reembed.max_attempts() is 'How often a job is claimed before it counts as failed.';

create function reembed.bytes_per_token() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 4';
comment on function reembed.bytes_per_token() is
  'How many bytes of UTF-8 are taken for a token, at least one token a text: the rule by which OpenAI itself estimates a request. The worker has the same figure where there is no claim to tell it.';

create function reembed.check_range(argument text, value numeric, low numeric, high numeric) returns void
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if value is null or value not between low and high then
    raise exception using errcode = 'RE004',
      message = format('%s is %s: it must be between %s and %s', argument, coalesce(value::text, 'null'), low, high),
      hint = format('Pass a %s in that range.', argument);
  end if;
end
$$;
comment on function reembed.check_range(text, numeric, numeric, numeric) is 'RE004 with the argument''s name and the rule when the value is null or outside the range.';

create function reembed.is_list(list anyarray) returns boolean language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(array_ndims(list), 1) = 1 and not exists (select from unnest(list) u(element) where u.element is null)
$$;
comment on function reembed.is_list(anyarray) is 'Whether an array has one dimension and no null in it; true of null, which is no array.';

create function reembed.fail_unreadable(v reembed.versions, c reembed.collections, row_ids text[]) returns text[]
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  checked_id text;
  unreadable text[] := array[]::text[];
begin
  foreach checked_id in array row_ids loop
    begin
      execute format('select %s from %s t where %s', reembed.input_hash(v, 't'), c.source_table, reembed.key_match(c, c.key_columns, 't', '$1')) using checked_id;
    exception when others then
      unreadable := unreadable || checked_id;
      -- Not the error's own message: it may quote the row.
      update reembed.jobs j
         set failed_at = clock_timestamp(), lease_token = null, lease_until = null, lease_hash = null,
             error = format('%s cannot make the input of this row (%s)', v.input_function, sqlstate)
       where j.version_id = v.id and j.row_id = checked_id;
    end;
  end loop;
  return unreadable;
end
$$;
comment on function reembed.fail_unreadable(reembed.versions, reembed.collections, text[]) is
  'Fails those of the jobs that the caller has locked whose input function raises an error, and returns them: one such row must not keep the others from being claimed.';

create function reembed.deferred_until(space_id text, lease_until timestamptz) returns timestamptz
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select least(deferred_until.lease_until, clock_timestamp() + least(interval '10 seconds', greatest(interval '1 second',
           (select clock_timestamp() - u.at from reembed.usage u
             where u.state = 'reserved' and u.space_id = deferred_until.space_id and u.lease_until = deferred_until.lease_until limit 1))))
$$;
comment on function reembed.deferred_until(text, timestamptz) is
  'How long rows are left whose text is being bought by the lease that ends at lease_until: for as long again as it has lasted, one second at least, ten at most, never beyond its end. A living worker brings the vector soon, and the many rows behind a dead one are not read every second.';

create function reembed.claim(
  collection text default null, version int default null,
  max_rows int default 100, max_tokens int default 250000, lease_seconds int default 120, batch uuid default null, except_spaces text[] default '{}', row_ids text[] default null
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
-- The first due jobs come from the index in its order. Statistics that know nothing of a version's jobs would have all of them read and sorted.
set enable_sort = off set enable_bitmapscan = off set jit = off as $$
declare
  v reembed.versions;
  c reembed.collections;
  s reembed.spaces;
  -- One token for all claims of a batch, so that whoever has its results can complete them.
  token constant uuid := coalesce(batch, gen_random_uuid());
  lane constant text := case when batch is null then 'sync' else 'batch' end;
  deadline timestamptz;
  held_space text;
  is_contended boolean := false;
  room_in_ms double precision;
  refusal jsonb;
  unreadable text[];
  part text[];
  part_buys text[];
  picked text[] := array[]::text[];
  picked_buys text[] := array[]::text[];
  picked_attempts int[] := array[]::int[];
  part_attempts int[];
  found_id text;
  found_input text;
  found_hash bytea;
  found_attempts int;
  found_tokens int;
  bytes_per_token constant int := reembed.bytes_per_token();
  is_present boolean;
  is_current boolean;
  tokens_sum bigint := 0;
  rows_given text[] := array[]::text[];
  hashes_given bytea[] := array[]::bytea[];
  copyable bytea[];
  copies_given jsonb[] := array[]::jsonb[];
  wanted int;
  budget jsonb;
  current_rows text[] := array[]::text[];
  gone_rows text[] := array[]::text[];
  due_again jsonb;
  deferred_rows jsonb := '{}'::jsonb;
  is_more_due boolean := false;
  jobs_given jsonb[] := array[]::jsonb[];
  lease_hashes jsonb;
  gave_up int := 0;
  usage_id bigint;
begin
  perform reembed.check_range('max_rows', max_rows, 1, 2048);
  perform reembed.check_range('max_tokens', max_tokens, 1, 300000);
  perform reembed.check_range('lease_seconds', lease_seconds, 1, case when batch is null then 3600 else 604800 end);
  if collection is not null then
    c := reembed.collection_named(collection);
    if version is not null then
      v := reembed.version_numbered(collection, version);
    end if;
  elsif version is not null then
    raise exception using errcode = 'RE004', message = 'version is given without collection: it numbers the versions of one collection',
      hint = 'Pass collection too.';
  end if;
  if row_ids is not null and claim.version is null then
    raise exception using errcode = 'RE004', message = 'row_ids is given without version: it names the rows of one version', hint = 'Pass collection and version too.';
  end if;

  -- Which version: the one whose first due job is the most urgent, edits before backfill. The next one where others hold all that is due, or the
  -- table itself: a transaction that stays open on one table must not stop the work on the others.
  for v in
    select x.*
      from reembed.versions x
      join reembed.spaces sp on sp.id = x.space_id
      cross join lateral (
        select j.priority, j.run_at from (values (0), (1)) p(priority)
         cross join lateral (select q.priority, q.run_at from reembed.jobs q
                              where q.version_id = x.id and q.priority = p.priority and q.failed_at is null and q.run_at <= clock_timestamp()
                              order by q.run_at limit 1) j
         order by j.priority limit 1) due
     where x.maintained and reembed.is_intact(x)
       and (claim.collection is null or x.collection_id = c.id)
       and (claim.version is null or x.number = claim.version)
       and x.space_id <> all (claim.except_spaces)
       and (sp.paused_until is null or sp.paused_until <= clock_timestamp())
       and reembed.out_of_budget(x) is null
     order by due.priority, due.run_at
  loop
    select * into strict c from reembed.collections x where x.id = v.collection_id;
    -- Table locks before row locks: a TRUNCATE that waited for this claim's job rows while the claim waited for the table would be a deadlock.
    begin
      execute format('lock table %s in access share mode nowait', c.source_table);
      execute format('lock table %s in access share mode nowait', v.vector_table);
    exception when lock_not_available then
      is_contended := true;
      continue;
    end;
    if held_space is null then
      -- Not `for update`: whoever writes the ledger refers to this row, and a search must not wait for a claim.
      select * into s from reembed.spaces x where x.id = v.space_id for no key update;
      held_space := s.id;
    elsif s.id <> v.space_id then
      -- A second space is not waited for while the first is held: two claims would wait for each other.
      perform from reembed.spaces x where x.id = v.space_id
          for no key update skip locked;
      if not found then
        is_contended := true;
        continue;
      end if;
      select * into s from reembed.spaces x where x.id = v.space_id;
    end if;
    -- Paused while this claim waited for the space's row.
    if s.paused_until > clock_timestamp() then
      continue;
    end if;
    -- A batch has limits of its own at the provider.
    room_in_ms := case when batch is null then reembed.rate_wait(s, 1) else 0 end;
    if room_in_ms > 0 then
      refusal := coalesce(refusal, reembed.rate_refusal(s.id, room_in_ms));
      continue;
    end if;

    for priority_now in 0..1 loop
      -- The backfill of a version with open batches is theirs: it is to be bought at their price.
      continue when priority_now = 1 and batch is null and reembed.is_in_batches(v.id);
      if claim.row_ids is null then
        select coalesce(array_agg(x.row_id), '{}'), coalesce(array_agg(x.attempts), '{}'), coalesce(array_agg(x.row_id) filter (where x.buys), '{}')
          into part, part_attempts, part_buys from (
          select j.row_id, j.attempts, j.buys from reembed.jobs j
           where j.version_id = v.id and j.priority = priority_now and j.failed_at is null and j.run_at <= clock_timestamp()
             and (batch is null or reembed.is_for_batch(j))
           order by j.run_at limit max_rows - cardinality(picked)
           for update skip locked) x;
      else
        -- By their keys: whoever waits for these rows does not wait for the queue to be read.
        select coalesce(array_agg(x.row_id), '{}'), coalesce(array_agg(x.attempts), '{}'), coalesce(array_agg(x.row_id) filter (where x.buys), '{}')
          into part, part_attempts, part_buys from (
          select j.row_id, j.attempts, j.buys from reembed.jobs j
           where j.version_id = v.id and j.row_id = any (claim.row_ids)
             and j.priority = priority_now and j.failed_at is null and j.run_at <= clock_timestamp()
           limit max_rows - cardinality(picked)
           for update skip locked) x;
      end if;
      picked := picked || part;
      picked_attempts := picked_attempts || part_attempts;
      picked_buys := picked_buys || part_buys;
      exit when cardinality(picked) >= max_rows;
    end loop;
    exit when cardinality(picked) > 0;
    is_contended := is_contended or exists (
      select from reembed.jobs j where j.version_id = v.id and j.failed_at is null and j.run_at <= clock_timestamp());
  end loop;
  if cardinality(picked) = 0 then
    if refusal is not null then
      return refusal;
    end if;
    if is_contended then
      return jsonb_build_object('reason', 'busy', 'jobs', '[]'::jsonb);
    end if;
    select sp.* into s from reembed.spaces sp join reembed.versions x on x.space_id = sp.id
     where sp.paused_until > clock_timestamp() and x.maintained
       and (claim.collection is null or x.collection_id = c.id) and (claim.version is null or x.number = claim.version)
       and exists (select from reembed.jobs j where j.version_id = x.id and j.failed_at is null)
     limit 1;
    if found then
      return jsonb_build_object('reason', 'paused', 'space', s.id, 'pause_reason', s.pause_reason, 'paused_until', s.paused_until, 'jobs', '[]'::jsonb);
    end if;
    select reembed.out_of_budget(x) into budget from reembed.versions x
     where x.maintained and (claim.collection is null or x.collection_id = c.id) and (claim.version is null or x.number = claim.version)
       and exists (select from reembed.jobs j where j.version_id = x.id and j.failed_at is null and j.run_at <= clock_timestamp())
       and reembed.out_of_budget(x) is not null
     limit 1;
    return case when budget is not null then jsonb_build_object('reason', 'budget', 'budget', budget, 'jobs', '[]'::jsonb)
                else jsonb_build_object('reason', 'idle', 'jobs', '[]'::jsonb) end;
  end if;
  deadline := clock_timestamp() + make_interval(secs => lease_seconds);

  -- A worker that never came back: its reservation counts as spent.
  update reembed.usage u set state = 'lost', outcome = 'no answer before the lease ended'
   where u.id in (select o.id from reembed.usage o
                   where o.space_id = s.id and o.state = 'reserved' and o.lease_until < clock_timestamp() for update skip locked);

  if reembed.max_attempts() <= any (picked_attempts) then
    update reembed.jobs j
       set failed_at = clock_timestamp(), lease_token = null, lease_until = null, lease_hash = null,
           error = coalesce(j.error || '; ', '') || format('given up after %s attempts', j.attempts)
     where j.version_id = v.id and j.row_id = any (picked) and j.attempts >= reembed.max_attempts();
    get diagnostics gave_up = row_count;
    select coalesce(array_agg(g.row_id order by g.n), '{}'), coalesce(array_agg(g.attempts order by g.n), '{}') into picked, picked_attempts
      from unnest(picked, picked_attempts) with ordinality g(row_id, attempts, n) where g.attempts < reembed.max_attempts();
  end if;

  -- Here and below jobs and records are looked up by their keys, a row at a time (lateral, offset 0) or by a list: a join is planned by
  -- statistics that cannot know how many jobs a version has now, and would read them all in each claim, while the others wait.
  loop
    tokens_sum := 0;
    rows_given := '{}'; hashes_given := '{}'; jobs_given := '{}'; current_rows := '{}'; gone_rows := '{}';
    begin
      -- A later statement than the one that locked the jobs: it sees every edit that was committed before the lock.
      for found_id, is_present, found_input, found_hash, found_attempts, is_current in execute format(
          'select g.row_id, t.%1$I is not null, i.input, h.hash, g.attempts, %4$s and g.row_id <> all ($4)
             from unnest($1, $3) with ordinality g(row_id, attempts, n)
             left join %5$s t on %6$s%7$s
             left join lateral (select * from reembed.records x where x.version_id = $2 and x.row_id = g.row_id offset 0) r on true
            cross join lateral (select coalesce(case when t.%1$I is not null then %2$s(t.*) end, '''') as input offset 0) i
            cross join lateral (select %3$s as hash offset 0) h
            order by g.n',
          c.key_columns[1], v.input_function, reembed.text_hash('i.input'), reembed.current_condition(v, 'h.hash'),
          c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'), reembed.vector_join(v))
        using picked, v.id, picked_attempts, picked_buys
      loop
        if not is_present then
          gone_rows := gone_rows || found_id;
        elsif is_current then
          current_rows := current_rows || found_id;
        else
          -- No more is bought of a text than the space takes.
          found_tokens := coalesce(s.image_tokens, least(greatest((octet_length(found_input) + bytes_per_token - 1) / bytes_per_token, 1), s.max_input_tokens));
          tokens_sum := tokens_sum + found_tokens;
          exit when tokens_sum > max_tokens and cardinality(rows_given) > 0;
          rows_given := rows_given || found_id;
          hashes_given := hashes_given || found_hash;
          jobs_given := jobs_given || jsonb_build_object('row_id', found_id, 'input', found_input,
                                                         'hash', encode(found_hash, 'hex'), 'tokens', found_tokens,
                                                         'attempts', found_attempts + 1);
        end if;
      end loop;
      exit;
    exception when others then
      unreadable := reembed.fail_unreadable(v, c, picked);
      if cardinality(unreadable) = 0 then
        raise;
      end if;
      gave_up := gave_up + cardinality(unreadable);
      select coalesce(array_agg(g.row_id order by g.n), '{}'), coalesce(array_agg(g.attempts order by g.n), '{}') into picked, picked_attempts
        from unnest(picked, picked_attempts) with ordinality g(row_id, attempts, n) where g.row_id <> all (unreadable);
    end;
  end loop;

  -- What others are buying is asked before what is stored: a lease that ends between the two has left its vector by then, and one cannot begin, while
  -- the space's row is held. The other way round its text would be bought twice.
  select coalesce(jsonb_object_agg(encode(h.hash, 'hex'), held.due), '{}') into due_again
    from (select distinct unnest(hashes_given) as hash) h
   cross join lateral (select reembed.deferred_until(s.id, l.lease_until) as due
                         from (select o.version_id, o.lease_until from reembed.jobs o where o.lease_hash = h.hash and o.lease_until > clock_timestamp() offset 0) l
                        where l.version_id in (select x.id from reembed.versions x where x.space_id = s.id)
                        limit 1) held;
  -- A text that has a stored vector in this version is not bought again.
  copyable := reembed.copyable_hashes(v, hashes_given);
  if cardinality(copyable) > 0 then
    -- Looked up in a hashed list: `any` of an array compares with each element in turn.
    select coalesce(array_agg(jsonb_build_object('row_id', g.row_id, 'hash', g.job -> 'hash') order by g.n) filter (where g.is_stored), '{}'),
           coalesce(array_agg(g.job order by g.n) filter (where not g.is_stored), '{}'),
           coalesce(array_agg(g.row_id order by g.n) filter (where not g.is_stored), '{}'),
           coalesce(array_agg(g.hash order by g.n) filter (where not g.is_stored), '{}')
      into copies_given, jobs_given, rows_given, hashes_given
      from (select u.*, u.hash in (select unnest(copyable)) and u.row_id <> all (picked_buys) as is_stored
              from unnest(rows_given, hashes_given, jobs_given) with ordinality u(row_id, hash, job, n)) g;
  end if;

  -- A text that another live lease of this space is buying is left for a while: then it is current elsewhere, and copied.
  if due_again <> '{}' then
    select coalesce(jsonb_object_agg(g.row_id, due_again -> (g.job ->> 'hash')) filter (where due_again ? (g.job ->> 'hash')), '{}'),
           coalesce(array_agg(g.job order by g.n) filter (where not due_again ? (g.job ->> 'hash')), '{}')
      into deferred_rows, jobs_given
      from unnest(rows_given, jobs_given) with ordinality g(row_id, job, n);
    update reembed.jobs j set run_at = (deferred_rows ->> j.row_id)::timestamptz
     where j.version_id = v.id and j.row_id = any (array(select jsonb_object_keys(deferred_rows)));
    -- Whoever is told that all is busy goes away.
    is_contended := true;
    is_more_due := exists (
      select from reembed.versions x
       where x.maintained and (claim.collection is null or x.collection_id = c.id) and (claim.version is null or x.number = claim.version)
         and exists (select from reembed.jobs j where j.version_id = x.id and j.failed_at is null and j.run_at <= clock_timestamp()));
  end if;

  refusal := null;
  select coalesce(sum((g.job ->> 'tokens')::bigint), 0) into tokens_sum from unnest(jobs_given) g(job);
  room_in_ms := case when batch is null then reembed.rate_wait(s, tokens_sum) else 0 end;
  if cardinality(jobs_given) > 0 and room_in_ms > 0 then
    refusal := reembed.rate_refusal(s.id, room_in_ms);
    jobs_given := '{}';
    -- So that those who come meanwhile need not read texts to be told the same.
    update reembed.spaces x set waits_until = clock_timestamp() + make_interval(secs => room_in_ms / 1000) where x.id = s.id;
  end if;

  if cardinality(current_rows) + cardinality(gone_rows) > 0 then
    delete from reembed.jobs j where j.version_id = v.id and j.row_id = any (current_rows || gone_rows);
  end if;
  wanted := cardinality(jobs_given);
  jobs_given := reembed.reserve_jobs(v, s, jobs_given, lane);
  if jobs_given is null then
    is_contended := true;
    jobs_given := '{}';
  elsif wanted > 0 and cardinality(jobs_given) = 0 then
    budget := reembed.out_of_budget(v);
  end if;
  -- A copy has no hash: nothing is bought that another claim would have to wait for.
  select coalesce(array_agg(g.job ->> 'row_id'), '{}'), coalesce(jsonb_object_agg(g.job ->> 'row_id', g.job ->> 'hash') filter (where g.is_bought), '{}')
    into rows_given, lease_hashes
    from (select unnest(jobs_given) as job, true as is_bought union all select unnest(copies_given), false) g;
  if cardinality(rows_given) > 0 then
    update reembed.jobs j
       set lease_token = token, lease_until = deadline, run_at = deadline, lease_hash = decode(lease_hashes ->> j.row_id, 'hex'), attempts = j.attempts + 1
     where j.version_id = v.id and j.row_id = any (rows_given);
  end if;
  if refusal is not null and cardinality(copies_given) + cardinality(current_rows) + cardinality(gone_rows) + gave_up = 0 then
    return refusal;
  end if;
  if cardinality(jobs_given) > 0 then
    select sum((g.job ->> 'tokens')::bigint) into tokens_sum from unnest(jobs_given) g(job);
    insert into reembed.usage (space_id, version_id, is_move, purpose, lane, state, inputs, tokens, cost_usd, lease_token, lease_until)
    values (s.id, v.id, reembed.is_moving(v), 'document', lane, 'reserved', cardinality(jobs_given), tokens_sum, tokens_sum * reembed.token_price(s, lane), token, deadline)
    returning id into usage_id;
  end if;
  return jsonb_build_object(
    'reason', case when cardinality(jobs_given) + cardinality(copies_given) > 0 then 'work'
                   when cardinality(current_rows) + cardinality(gone_rows) + gave_up > 0 or is_more_due then 'again'
                   -- The next claim leaves this version out: another one may be free, or have a budget of its own.
                   when budget is not null and claim.version is null and exists (
                     select from reembed.versions x
                      where x.id <> v.id and x.maintained and (claim.collection is null or x.collection_id = c.id) and reembed.out_of_budget(x) is null
                        and exists (select from reembed.jobs j where j.version_id = x.id and j.failed_at is null and j.run_at <= clock_timestamp())) then 'again'
                   when budget is not null then 'budget'
                   when is_contended then 'busy'
                   else 'idle' end,
    'collection', c.name, 'version', v.number, 'version_id', v.id, 'lease_token', token, 'lease_until', deadline, 'usage_id', usage_id,
    'space', jsonb_build_object('id', s.id, 'provider', s.provider, 'model', s.model, 'dimensions', s.dimensions, 'query_prefix', s.query_prefix,
                                'document_prefix', s.document_prefix, 'max_input_tokens', s.max_input_tokens, 'image_tokens', s.image_tokens),
    'long_text', c.long_text,
    'resolved', jsonb_build_object('current', cardinality(current_rows), 'gone', cardinality(gone_rows), 'failed', gave_up, 'deferred', (select count(*) from jsonb_object_keys(deferred_rows))),
    'budget', budget, 'copies', to_jsonb(copies_given), 'jobs', to_jsonb(jobs_given));
end
$$;
comment on function reembed.claim(text, int, int, int, int, uuid, text[], text[]) is
  'Leases due jobs of one version, edits first, and reserves their cost. Returns { reason: work | again | busy | budget | paused | rate | idle, version_id, space, long_text, lease_token, lease_until, usage_id, copies: [{ row_id, hash }], jobs: [{ row_id, input, hash, tokens, attempts }] }. Copies have a stored vector of their text already: see copy. budget (budget_state) comes with the reason budget: not even the cheapest job fits. Jobs that are already current, or whose row is gone, are settled here. rate: the space has no room for wait_ms, and nothing was leased. batch: the batch that it is for (see gather_batch), whose id is the lease token. except_spaces: whose provider the worker cannot reach: the work on others goes on. row_ids: none but these rows, of the version named, before all that is queued (see order_rows). RE004, RE005, RE006 on bad arguments.';

create function reembed.refuse_vectors(space_id text) returns void
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- Not the server's own message: it shows the vector.
  raise exception using errcode = 'RE004', message = format('vectors: one is not a vector of the finite numbers that %s has', left(space_id, 100)),
    hint = 'Pass each with as many numbers as the space has dimensions, as text in the form [...].';
end
$$;
comment on function reembed.refuse_vectors(text) is 'RE004 for a vector that the space does not have.';

create function reembed.complete_vectors(
  version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], vectors extensions.vector[],
  tokens int[], skipped text[] default null, wait boolean default false, truncated boolean[] default null
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  column_type text;
  in_source boolean;
  locked text[];
  locked_hashes bytea[];
  existing text[];
  stale_rows text[] := array[]::text[];
  gone_rows text[] := array[]::text[];
  busy_rows text[] := array[]::text[];
  lost_rows text[] := array[]::text[];
  mine text[] := array[]::text[];
  free_vectors text[];
  stored bigint;
  middle int;
  first_half jsonb;
  second_half jsonb;
begin
  if cardinality(row_ids) is distinct from cardinality(hashes) or cardinality(row_ids) is distinct from cardinality(vectors)
     or cardinality(row_ids) is distinct from cardinality(tokens)
     or (complete_vectors.skipped is not null and cardinality(row_ids) <> cardinality(complete_vectors.skipped))
     or (complete_vectors.truncated is not null and cardinality(row_ids) <> cardinality(complete_vectors.truncated)) then
    raise exception using errcode = 'RE004', message = 'row_ids, hashes, vectors, tokens, skipped and truncated must have the same length', hint = 'One element a row in each.';
  end if;
  if not (reembed.is_list(row_ids) and reembed.is_list(hashes) and reembed.is_list(tokens)) or array_ndims(vectors) > 1
     or array_ndims(complete_vectors.skipped) > 1 or array_ndims(complete_vectors.truncated) > 1 or (select count(distinct u.id) from unnest(row_ids) u(id)) < cardinality(row_ids) then
    raise exception using errcode = 'RE004', message = 'row_ids, hashes and tokens hold a null or a list, or row_ids names a row twice', hint = 'Each row once, with its hash and its tokens, in arrays of one dimension.';
  end if;
  if wait and cardinality(row_ids) > 1 then
    raise exception using errcode = 'RE004', message = 'row_ids has more than one element while wait is true',
      hint = 'A worker waits for a row''s lock only while it holds none: one row a call.';
  end if;
  if exists (select from unnest(vectors, complete_vectors.skipped) u(vector, why) where (u.vector is null) <> (u.why is not null)) then
    raise exception using errcode = 'RE004', message = 'vectors and skipped must name exactly one of the two for each row', hint = 'A skipped row has a reason and no vector.';
  end if;
  -- Below deadlock_timeout: whatever this call waits for, it gives up before the server looks for deadlocks.
  perform set_config('lock_timeout', '500ms', true);

  begin
    -- Held from before the version is read, so that a change of its space waits for this call or is seen by it.
    lock table reembed.records in row exclusive mode;
    select * into v from reembed.versions x where x.id = complete_vectors.version_id;
    if not found then
      raise exception using errcode = 'RE006', message = format('version_id %s is unknown', complete_vectors.version_id), hint = 'Pass the version_id that the claim returned.';
    end if;
    if v.state = 'retired' then
      return reembed.outcomes(0, '{}', row_ids, '{}', '{}', '{}');
    end if;
    select * into strict c from reembed.collections x where x.id = v.collection_id;
    in_source := reembed.stands_in_source(v);
    if v.space_id <> complete_vectors.space_id then
      return reembed.outcomes(0, row_ids, '{}', '{}', '{}', '{}');
    end if;
    if exists (select from unnest(vectors) u(vector)
               where extensions.vector_dims(u.vector) <> (select s.dimensions from reembed.spaces s where s.id = v.space_id)) then
      perform reembed.refuse_vectors(v.space_id);
    end if;
    execute format('lock table %s in %s mode', c.source_table, case when in_source then 'row exclusive' else 'row share' end);
    execute format('lock table %s in row exclusive mode', v.vector_table);

    execute format(
        'select coalesce(array_agg(x.row_id), ''{}''), coalesce(array_agg(x.hash), ''{}'')
           from (select g.row_id, %s as hash from unnest($1) g(row_id) join %s t on %s for %s of t %s) x',
        reembed.input_hash(v, 't'), c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'),
        case when in_source or wait then 'no key update' else 'key share' end, case when wait then '' else 'skip locked' end)
      into locked, locked_hashes using row_ids;
    if cardinality(locked) < cardinality(row_ids) then
      execute format('select coalesce(array_agg(g.row_id), ''{}'') from unnest($1) g(row_id) join %s t on %s',
          c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'))
        into existing using row_ids;
      select coalesce(array_agg(g.row_id) filter (where g.row_id = any (existing)), '{}'),
             coalesce(array_agg(g.row_id) filter (where g.row_id <> all (existing)), '{}')
        into busy_rows, gone_rows from unnest(row_ids) g(row_id) where g.row_id <> all (locked);
    end if;

    select coalesce(array_agg(g.row_id) filter (where decode(g.hash, 'hex') <> l.hash), '{}'),
           coalesce(array_agg(g.row_id) filter (where decode(g.hash, 'hex') = l.hash), '{}')
      into stale_rows, locked
      from unnest(row_ids, hashes) g(row_id, hash) join unnest(locked, locked_hashes) l(row_id, hash) on l.row_id = g.row_id;

    select coalesce(array_agg(x.row_id), '{}') into mine from (
      select j.row_id from reembed.jobs j
       where j.version_id = v.id and j.row_id = any (locked) and j.lease_token = complete_vectors.lease_token
       for update skip locked) x;
    if cardinality(mine) < cardinality(locked) then
      select coalesce(array_agg(l.row_id) filter (where j.row_id is not null), '{}'),
             coalesce(array_agg(l.row_id) filter (where j.row_id is null), '{}')
        into existing, lost_rows
        from unnest(locked) l(row_id)
        left join reembed.jobs j on j.version_id = v.id and j.row_id = l.row_id and j.lease_token = complete_vectors.lease_token
       where l.row_id <> all (mine);
      busy_rows := busy_rows || existing;
    end if;

    if not in_source then
      execute format('select coalesce(array_agg(x.row_id), ''{}'') from (select g.row_id from unnest($1) g(row_id) join %s e on %s for update of e skip locked) x',
          v.vector_table, reembed.key_match(c, v.vector_key, 'e', 'g.row_id')) into free_vectors using mine;
      execute format('select coalesce(array_agg(g.row_id), ''{}'') from unnest($1) g(row_id) join %s e on %s where g.row_id <> all ($2)',
          v.vector_table, reembed.key_match(c, v.vector_key, 'e', 'g.row_id')) into existing using mine, free_vectors;
      busy_rows := busy_rows || existing;
      select coalesce(array_agg(m.row_id), '{}') into mine from unnest(mine) m(row_id) where m.row_id <> all (existing);
    end if;

    if cardinality(mine) > 0 then
      select format_type(a.atttypid, a.atttypmod) into column_type
        from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column;
      perform set_config('reembed.completing', v.id::text, true);
      -- The application's triggers see the search path they are used to; the statements below name every schema themselves.
      perform set_config('search_path', (select p.reset_val from pg_catalog.pg_settings p where p.name = 'search_path'), true);
      if in_source then
        execute format('with written as (
                          update %1$s t set %2$I = g.vector::%3$s from unnest($1, $2) g(row_id, vector) where g.row_id = any ($3) and %4$s
                          returning coalesce(t.%2$I operator(extensions.=) g.vector::%3$s, t.%2$I is null and g.vector is null) as is_stored)
                        select count(*) from written where is_stored',
            c.source_table, v.vector_column, column_type, reembed.key_match(c, c.key_columns, 't', 'g.row_id'))
          into stored using row_ids, vectors, mine;
      else
        execute format('delete from %s e using unnest($1, $2) g(row_id, vector) where g.vector is null and g.row_id = any ($3) and %s',
            v.vector_table, reembed.key_match(c, v.vector_key, 'e', 'g.row_id'))
          using row_ids, vectors, mine;
        execute format('insert into %1$s (%2$s, %3$I%8$s) select %4$s, g.vector::%5$s%9$s
                          from unnest($1, $2, $6, $7, $8) g(row_id, vector, hash, tokens, truncated) join %6$s t on %7$s
                         where g.vector is not null and g.row_id = any ($3) on conflict (%2$s) do update set %3$I = excluded.%3$I%10$s',
            v.vector_table, (select string_agg(format('%I', k), ', ' order by n) from unnest(v.vector_key) with ordinality u(k, n)), v.vector_column,
            reembed.key_list(c, 't'), column_type, c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'),
            coalesce((select string_agg(format(', %I', p.name), '') from reembed.provenance_columns() p where v.keeps_provenance), ''),
            coalesce((select string_agg(', ' || p.source, '') from reembed.provenance_columns() p where v.keeps_provenance), ''),
            coalesce((select string_agg(format(', %1$I = excluded.%1$I', p.name), '') from reembed.provenance_columns() p where v.keeps_provenance), ''))
          using row_ids, vectors, mine, v.space_id,
            (select reembed.token_price(s, case when exists (select from reembed.batches b where b.id = complete_vectors.lease_token) then 'batch' else 'sync' end)
               from reembed.spaces s where s.id = v.space_id),
            hashes, complete_vectors.tokens, coalesce(complete_vectors.truncated, array_fill(false, array[cardinality(row_ids)]));
        get diagnostics stored = row_count;
        stored := stored + (select count(*) from unnest(row_ids, vectors) g(row_id, vector) where g.vector is null and g.row_id = any (mine));
      end if;
      perform set_config('reembed.completing', '', true);
      perform set_config('search_path', 'pg_catalog, pg_temp', true);
      if stored < cardinality(mine) then
        raise triggered_data_change_violation;
      end if;
      insert into reembed.records as r (version_id, row_id, content_hash, space_id, tokens, truncated, skipped)
      select v.id, g.row_id, decode(g.hash, 'hex'), v.space_id, g.tokens, coalesce(complete_vectors.truncated[g.n], false), complete_vectors.skipped[g.n]
        from unnest(row_ids, hashes, complete_vectors.tokens) with ordinality g(row_id, hash, tokens, n) where g.row_id = any (mine)
      on conflict on constraint records_pkey do update set content_hash = excluded.content_hash, space_id = excluded.space_id, tokens = excluded.tokens,
        truncated = excluded.truncated, skipped = excluded.skipped, embedded_at = excluded.embedded_at;
      -- By its token: a job that a BEFORE trigger of the app has renewed during the update above stays.
      delete from reembed.jobs j where j.version_id = v.id and j.row_id = any (mine) and j.lease_token = complete_vectors.lease_token;
    end if;

    -- Each in two statements, here and below: a join of the jobs with themselves is planned by statistics that know nothing of a version
    -- whose jobs are new, and then reads all of them once for each.
    if cardinality(gone_rows) > 0 then
      select coalesce(array_agg(x.row_id), '{}') into locked from (
        select j.row_id from reembed.jobs j where j.version_id = v.id and j.row_id = any (gone_rows) and j.lease_token = complete_vectors.lease_token for update skip locked) x;
      delete from reembed.jobs j where j.version_id = v.id and j.row_id = any (locked);
    end if;
    -- Stale with its token still there: the change bypassed the triggers. The job goes back to the queue.
    if cardinality(stale_rows) > 0 then
      select coalesce(array_agg(x.row_id), '{}') into locked from (
        select j.row_id from reembed.jobs j where j.version_id = v.id and j.row_id = any (stale_rows) and j.lease_token = complete_vectors.lease_token for update skip locked) x;
      update reembed.jobs j set lease_token = null, lease_until = null, lease_hash = null, run_at = now(), attempts = greatest(j.attempts - 1, 0)
       where j.version_id = v.id and j.row_id = any (locked);
    end if;
  exception
    when lock_not_available then
      return reembed.outcomes(0, '{}', '{}', '{}', row_ids, '{}');
    when others then
      -- What the application's constraint, trigger or input function does not take must stop no other row: the culprit is sought in halves.
      -- What is wrong with the call, the server or the transaction is thrown on.
      if sqlstate ~ '^(RE|08|25|40|53|57|58|F0|XX)' then
        raise;
      end if;
      if cardinality(row_ids) = 1 then
        -- Not the error's own message: it may quote the row.
        if (reembed.fail(complete_vectors.version_id, complete_vectors.lease_token, row_ids, case sqlstate
              when '27000' then 'a trigger of the table withheld or changed the vector'
              else format('the table refused the vector (%s)', sqlstate) end) ->> 'failed')::int = 1 then
          return reembed.outcomes(0, '{}', '{}', '{}', '{}', row_ids);
        end if;
        return reembed.outcomes(0, '{}', row_ids, '{}', '{}', '{}');
      end if;
      middle := cardinality(row_ids) / 2;
      first_half := reembed.complete_vectors(version_id, space_id, lease_token, row_ids[:middle], hashes[:middle], vectors[:middle], tokens[:middle], skipped[:middle], truncated => truncated[:middle]);
      second_half := reembed.complete_vectors(version_id, space_id, lease_token, row_ids[middle + 1:], hashes[middle + 1:], vectors[middle + 1:], tokens[middle + 1:], skipped[middle + 1:], truncated => truncated[middle + 1:]);
      return (select jsonb_object_agg(f.key, case f.key when 'done' then to_jsonb(f.value::bigint + (second_half -> 'done')::bigint)
                                                        else f.value || (second_half -> f.key) end)
                from jsonb_each(first_half) f);
  end;
  return reembed.outcomes(cardinality(mine), stale_rows, lost_rows, gone_rows, busy_rows, '{}');
end
$$;
comment on function reembed.complete_vectors(int, text, uuid, text[], text[], extensions.vector[], int[], text[], boolean, boolean[]) is
  'The complete of reembed.complete, for callers that have vectors as such: a driver may send them as one binary parameter, a quarter of the text and nothing to parse.';

create function reembed.complete(
  version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], vectors text[],
  tokens int[], skipped text[] default null, wait boolean default false, truncated boolean[] default null
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  parsed extensions.vector[];
begin
  if vectors is not null then
    begin
      select coalesce(array_agg(u.vector::extensions.vector order by u.n), '{}') into parsed from unnest(vectors) with ordinality u(vector, n);
    exception when data_exception then
      perform reembed.refuse_vectors(space_id);
    end;
  end if;
  return reembed.complete_vectors(version_id, space_id, lease_token, row_ids, hashes, parsed, tokens, skipped, wait, truncated);
end
$$;
comment on function reembed.complete(int, text, uuid, text[], text[], text[], int[], text[], boolean, boolean[]) is
  'Stores paid vectors ([...] texts, one a row) with their records, each only if its row''s text still has the hash (hex) that was embedded and the lease token still holds the job. Returns { done: count, stale, lost_lease, gone, busy, refused: row ids }; refused are rows that the table''s own constraints or triggers do not let through: their jobs have failed. Busy rows are retried one a transaction with wait = true, which waits at most 500 ms. RE004, RE006 on bad arguments.';

create function reembed.outcomes(done int, stale text[], lost_lease text[], gone text[], busy text[], refused text[]) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('done', done, 'stale', to_jsonb(stale), 'lost_lease', to_jsonb(lost_lease), 'gone', to_jsonb(gone), 'busy', to_jsonb(busy), 'refused', to_jsonb(refused))
$$;
comment on function reembed.outcomes(int, text[], text[], text[], text[], text[]) is 'The value that complete returns: outcomes are counted, not thrown.';

create function reembed.fail(version_id int, lease_token uuid, row_ids text[], error text, retry_seconds double precision default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  failed int;
  retried int;
  taken text[];
begin
  if retry_seconds is not null then
    perform reembed.check_range('retry_seconds', retry_seconds::numeric, 0, 86400);
  end if;
  select coalesce(array_agg(x.row_id), '{}') into taken from (
    select j.row_id from reembed.jobs j
     where j.version_id = fail.version_id and j.row_id = any (fail.row_ids) and j.lease_token = fail.lease_token
     for update skip locked) x;
  with written as (
    update reembed.jobs j
       set lease_token = null, lease_until = null, lease_hash = null, error = left(fail.error, 500),
           failed_at = case when retry_seconds is null or j.attempts >= reembed.max_attempts() then clock_timestamp() end,
           run_at = clock_timestamp() + make_interval(secs => coalesce(retry_seconds, 0))
     where j.version_id = fail.version_id and j.row_id = any (taken)
    returning j.failed_at)
  select count(*) filter (where w.failed_at is not null), count(*) filter (where w.failed_at is null) into failed, retried from written w;
  return jsonb_build_object('failed', failed, 'retried', retried);
end
$$;
comment on function reembed.fail(int, uuid, text[], text, double precision) is
  'Ends leased jobs with an error: retry_seconds null fails them for good, else they are due again after that time, until max_attempts is reached. Returns { failed, retried }; jobs that were edited or taken meanwhile count in neither.';

create function reembed.retry(collection text default null) returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  rearmed int;
begin
  if retry.collection is not null then
    perform reembed.collection_named(retry.collection);
  end if;
  -- Skipped are rows that the application is writing: its edit makes their jobs due again anyway.
  update reembed.jobs j
     set failed_at = null, error = null, attempts = 0, run_at = clock_timestamp()
   where (j.version_id, j.row_id) in (
     select o.version_id, o.row_id
       from reembed.jobs o join reembed.versions v on v.id = o.version_id join reembed.collections c on c.id = v.collection_id
      where o.failed_at is not null and (retry.collection is null or c.name = retry.collection)
      for update of o skip locked);
  get diagnostics rearmed = row_count;
  return rearmed;
end
$$;
comment on function reembed.retry(text) is
  'Makes failed jobs due again with all their attempts, of one collection or of all, once what made them fail is mended. Returns how many. RE005: unknown collection.';

create function reembed.order_rows(collection text, version int, row_ids text[], force boolean default false, caller_hash text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  seconds double precision;
  waiting int;
begin
  if row_ids is null or not reembed.is_list(row_ids) or cardinality(row_ids) not between 1 and 2048 then
    raise exception using errcode = 'RE004', message = 'row_ids must be a list of 1 to 2048 row ids without null', hint = 'Name each row by the text of its key.';
  end if;
  if caller_hash !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'RE004', message = 'caller_hash must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f, or null for who has no rate.';
  end if;
  if not v.maintained then
    perform reembed.refuse_step(v, 'order_rows', 'it is not maintained');
  end if;
  if caller_hash is not null then
    seconds := reembed.admit_caller(decode(caller_hash, 'hex'));
    if seconds > 0 then
      return jsonb_build_object('refused', 'rate', 'retry_seconds', seconds);
    end if;
  end if;
  -- A worker's lock on a job lasts milliseconds; whoever is in its way longer is not waited for.
  perform set_config('lock_timeout', '2s', true);
  if force then
    execute format(
        'insert into reembed.jobs as j (version_id, row_id, buys)
         select $1, g.row_id, true from unnest($2) g(row_id) where exists (select from %s t where %s) order by g.row_id %s, buys = true',
        c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'), reembed.enqueue_clause())
      using v.id, order_rows.row_ids;
  else
    update reembed.jobs j set priority = 0, attempts = 0, run_at = clock_timestamp(), failed_at = null, error = null
     where j.version_id = v.id and j.row_id = any (order_rows.row_ids) and (j.lease_token is null or j.lease_until < clock_timestamp());
  end if;
  select count(*) into waiting from reembed.jobs j where j.version_id = v.id and j.row_id = any (order_rows.row_ids);
  return jsonb_build_object('waiting', waiting);
end
$$;
comment on function reembed.order_rows(text, int, text[], boolean, text) is
  'Puts rows of a version before all that is queued, also those that have failed or wait for another attempt; who claims them at once names them (claim, row_ids). force: their vectors are bought again, whatever is stored. caller_hash: SHA-256 in hex of who asks, to be counted by the rate of queries; null for who has none. Returns { waiting: how many of them have a job, leased ones included } or { refused: rate, retry_seconds }. RE004, RE005, RE006 on bad arguments; RE007: the version is not maintained.';

create function reembed.release(version_id int, lease_token uuid, row_ids text[] default null, delay_seconds double precision default 0) returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  released int;
  taken text[];
begin
  perform reembed.check_range('delay_seconds', delay_seconds::numeric, 0, 86400);
  select coalesce(array_agg(x.row_id), '{}') into taken from (
    select j.row_id from reembed.jobs j
     where j.version_id = release.version_id and j.lease_token = release.lease_token and (release.row_ids is null or j.row_id = any (release.row_ids))
     for update skip locked) x;
  update reembed.jobs j
     set lease_token = null, lease_until = null, lease_hash = null, attempts = greatest(j.attempts - 1, 0),
         run_at = clock_timestamp() + make_interval(secs => delay_seconds)
   where j.version_id = release.version_id and j.row_id = any (taken);
  get diagnostics released = row_count;
  return released;
end
$$;
comment on function reembed.release(int, uuid, text[], double precision) is
  'Gives leased jobs back without spending an attempt (a rate limit, a shutdown); due again after delay_seconds. Returns how many.';

create function reembed.settle(usage_id bigint, requests jsonb, answer jsonb default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  reservation reembed.usage;
  cost numeric;
begin
  if answer is not null then
    -- The space's row first, as in a claim: whoever waits for it holds nothing yet.
    perform from reembed.spaces s where s.id = (select u.space_id from reembed.usage u where u.id = settle.usage_id) for no key update;
  end if;
  delete from reembed.usage u where u.id = settle.usage_id and u.state in ('reserved', 'lost') returning u.* into reservation;
  if not found then
    raise exception using errcode = 'RE004', message = format('usage_id %s is not an open reservation', coalesce(usage_id::text, 'null')), hint = 'Settle each claim once.';
  end if;
  insert into reembed.usage (space_id, version_id, is_move, purpose, lane, state, outcome, inputs, stale, tokens, cost_usd, latency_ms)
  select reservation.space_id, reservation.version_id, reservation.is_move, reservation.purpose, reservation.lane, q.state, q.outcome, q.inputs, q.stale, q.tokens,
         q.tokens * reembed.token_price(s, reservation.lane), q.latency_ms
    from jsonb_to_recordset(requests) q(state text, outcome text, inputs int, stale int, tokens bigint, latency_ms int)
    join reembed.spaces s on s.id = reservation.space_id;
  if answer is not null then
    perform reembed.note_answer(reservation.space_id, reservation.at, answer);
  end if;
  -- Budgets last: whoever holds one waits for nothing any more.
  select (select coalesce(sum(q.tokens), 0) from jsonb_to_recordset(requests) q(tokens bigint)) * reembed.token_price(s, reservation.lane) into cost
    from reembed.spaces s where s.id = reservation.space_id;
  if reservation.cost_usd > 0 or cost > 0 then
    perform reembed.spend(case when reservation.purpose = 'query' then array['all', 'queries']
                               else array['all', (select c.name from reembed.versions v join reembed.collections c on c.id = v.collection_id where v.id = reservation.version_id)] end,
                          reservation.at, reservation.cost_usd, cost, reservation.is_move);
  end if;
end
$$;
comment on function reembed.settle(bigint, jsonb, jsonb) is
  'Replaces a claim''s reservation by what really happened: one element a provider request, { state: settled | lost, outcome, inputs, stale, tokens, latency_ms }; an empty array when nothing was sent. answer: what the provider''s last answer says about its rate, see note_answer. RE004: the reservation is not open.';

create function reembed.pause_space(space_id text, reason text, seconds double precision default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if seconds is not null then
    perform reembed.check_range('seconds', seconds::numeric, 0, 31536000);
  end if;
  update reembed.spaces s
     set paused_until = coalesce(clock_timestamp() + make_interval(secs => seconds), 'infinity'), pause_reason = left(reason, 500)
   where s.id = pause_space.space_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('space_id %L is unknown', left(space_id, 100)), hint = 'select id from reembed.spaces lists them.';
  end if;
  insert into reembed.events (kind, reason, detail) values ('pause', left(pause_space.reason, 500), jsonb_build_object('space', pause_space.space_id, 'seconds', pause_space.seconds));
end
$$;
comment on function reembed.pause_space(text, text, double precision) is 'No claim in this space for so many seconds, or until resume_space. Keeps every job. RE004: unknown space.';

create function reembed.resume_space(space_id text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  update reembed.spaces s set paused_until = null, pause_reason = null where s.id = resume_space.space_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('space_id %L is unknown', left(space_id, 100)), hint = 'select id from reembed.spaces lists them.';
  end if;
  insert into reembed.events (kind, detail) values ('resume', jsonb_build_object('space', resume_space.space_id));
end
$$;
comment on function reembed.resume_space(text) is 'Ends a pause. RE004: unknown space.';

-- The doors for the edge functions: the same functions, for service_role alone.

create function public.reembed_claim(
  collection text default null, version int default null, max_rows int default 100, max_tokens int default 250000, lease_seconds int default 120,
  except_spaces text[] default '{}', row_ids text[] default null
) returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.claim(reembed_claim.collection, reembed_claim.version, max_rows, max_tokens, lease_seconds, except_spaces => reembed_claim.except_spaces, row_ids => reembed_claim.row_ids)
$$;
create function public.reembed_complete(
  version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], vectors text[], tokens int[], skipped text[] default null, wait boolean default false,
  truncated boolean[] default null
) returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.complete(version_id, space_id, lease_token, row_ids, hashes, vectors, tokens, skipped, wait, truncated)
$$;
create function public.reembed_complete_vectors(
  version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], vectors extensions.vector[], tokens int[], skipped text[] default null, wait boolean default false,
  truncated boolean[] default null
) returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.complete_vectors(version_id, space_id, lease_token, row_ids, hashes, vectors, tokens, skipped, wait, truncated)
$$;
create function public.reembed_fail(version_id int, lease_token uuid, row_ids text[], error text, retry_seconds double precision default null)
returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.fail(version_id, lease_token, row_ids, error, retry_seconds)
$$;
create function public.reembed_order_rows(collection text, version int, row_ids text[], force boolean default false, caller_hash text default null)
returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.order_rows(reembed_order_rows.collection, reembed_order_rows.version, row_ids, force, caller_hash)
$$;
create function public.reembed_release(version_id int, lease_token uuid, row_ids text[] default null, delay_seconds double precision default 0)
returns int language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.release(version_id, lease_token, row_ids, delay_seconds)
$$;
create function public.reembed_settle(usage_id bigint, requests jsonb, answer jsonb default null)
returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.settle(usage_id, requests, answer)
$$;
create function public.reembed_pause_space(space_id text, reason text, seconds double precision default null)
returns void language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.pause_space(space_id, reason, seconds)
$$;

do $$
declare
  door record;
begin
  for door in select p.oid::regprocedure as signature, p.proname from pg_catalog.pg_proc p
               where p.pronamespace = 'public'::regnamespace
                 and p.proname in ('reembed_claim', 'reembed_complete', 'reembed_complete_vectors', 'reembed_fail', 'reembed_order_rows', 'reembed_release', 'reembed_settle', 'reembed_pause_space') loop
    execute format('revoke execute on function %s from public, anon, authenticated', door.signature);
    execute format('grant execute on function %s to service_role', door.signature);
    execute format('comment on function %s is %L', door.signature, 'For service_role: reembed.' || substr(door.proname, 9) || ', which documents it.');
  end loop;
end
$$;

revoke execute on all functions in schema reembed from public;
