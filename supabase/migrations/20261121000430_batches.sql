-- The batch lane: documents bought through the provider's batch interface, at its lower price, answered within a day.
-- Makes: reembed.batches and reembed.batch_items, the functions by which a batch is gathered, submitted, stored and closed, open_batches().
-- Risks: none for existing data. A batch holds its jobs, and its version's backfill, for up to two days; an edit of a row takes the row back at once, as from any lease.
--
-- A batch is a claim that lasts longer: its id is the lease token of its jobs, claim() takes them and reserves their cost, complete_vectors()
-- stores what comes back under the same fences. What this file adds is the memory of it, so that whoever comes after a crash goes on:
--   * gathering: claims add rows. Nothing has left the house; no text is kept here, the file is made from the rows as they are.
--   * uploaded: the provider has the file. Whether it has been told to work on it is known by asking it: batches carry our id.
--   * submitted: the provider works, or has answered. Each row's end is noted in the transaction that brings it about.
--   * closed: every row has an end, the reservation is settled, the rows are forgotten.
-- Only its driver, one process for a few minutes at a time, moves a batch on; that of two processes one submits is decided here.

create table reembed.batches (
  id uuid primary key default gen_random_uuid(),
  version_id int not null references reembed.versions (id) on delete cascade,
  space_id text not null references reembed.spaces (id),
  state text not null default 'gathering' check (state in ('gathering', 'uploaded', 'submitted', 'closed')),
  driver uuid,
  driver_until timestamptz,
  input_file_id text,
  creating_at timestamptz,
  provider_id text unique,
  provider_status text,
  requests int not null default 0,
  requests_done int not null default 0,
  requests_failed int not null default 0,
  outcome text,
  rows_stored int,
  tokens bigint,
  created_at timestamptz not null default clock_timestamp(),
  submitted_at timestamptz,
  expires_at timestamptz,
  closed_at timestamptz
);
comment on table reembed.batches is 'A batch at the provider: one uploaded file of texts, answered within a day. Closed ones stay as history.';
comment on column reembed.batches.id is 'Also the lease token of its jobs, and what the provider''s own record of the batch carries as metadata.';
comment on column reembed.batches.driver is 'The process that moves it on, until driver_until.';
comment on column reembed.batches.creating_at is 'When the provider was last asked to begin. Without provider_id its answer was lost: the batch may exist there.';
-- A version prepares one batch at a time: a second process finds it, and does not buy beside it.
create unique index batches_prepared_idx on reembed.batches (version_id) where state in ('gathering', 'uploaded');
create index batches_version_idx on reembed.batches (version_id);
create index batches_space_idx on reembed.batches (space_id);

create table reembed.batch_items (
  batch_id uuid not null references reembed.batches (id) on delete cascade,
  row_id text collate "C" not null,
  hash bytea not null,
  tokens int not null,
  truncated boolean not null default false,
  billed bigint,
  outcome text check (outcome in ('done', 'skipped', 'stale', 'lost_lease', 'gone', 'busy', 'failed', 'refused', 'returned', 'lost')),
  primary key (batch_id, row_id)
);
comment on table reembed.batch_items is 'The rows of the batches that are open: the hash of the text that was leased, and what became of it.';
comment on column reembed.batch_items.tokens is 'The claim''s estimate.';
comment on column reembed.batch_items.billed is 'The tokens that the provider charged for the text, at one of the rows that have it.';
comment on column reembed.batch_items.outcome is
  'Null while open. refused: the provider did not take the text, and the synchronous lane does; failed: for good; returned: not bought; lost: perhaps paid, and no answer.';

alter table reembed.batches enable row level security;
alter table reembed.batch_items enable row level security;

create function reembed.batch_numbered(batch_id uuid) returns reembed.batches
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b reembed.batches;
begin
  select * into b from reembed.batches x where x.id = batch_numbered.batch_id;
  if not found then
    raise exception using errcode = 'RE004', message = format('batch_id %s is unknown', coalesce(batch_id::text, 'null')), hint = 'select reembed.open_batches() lists them.';
  end if;
  return b;
end
$$;
comment on function reembed.batch_numbered(uuid) is 'The batch. RE004: there is none.';

create function reembed.is_in_batches(version_id int) returns boolean
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select exists (select from reembed.batches b
                  where b.version_id = is_in_batches.version_id and b.state <> 'closed' and b.created_at > clock_timestamp() - interval '2 days')
$$;
comment on function reembed.is_in_batches(int) is
  'Whether a version has an open batch: the synchronous lane then leaves its backfill alone, edits it takes as ever. One that nobody closes counts for two days, as long as it holds its jobs.';

create function reembed.batch_work(version_id int) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object(
    'rows', count(*),
    'due_in_ms', (extract(epoch from greatest(min(j.run_at) - clock_timestamp(), interval '0')) * 1000)::float8)
    from reembed.jobs j where j.version_id = batch_work.version_id and j.failed_at is null and j.lease_token is null and reembed.is_for_batch(j)
$$;
comment on function reembed.batch_work(int) is 'Jobs of a version that a batch could take: { rows, due_in_ms: until the first of them is due, null where there is none }.';

create function reembed.start_batch(version_id int, driver uuid, seconds int default 180) returns uuid
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  insert into reembed.batches (version_id, space_id, driver, driver_until)
  select v.id, v.space_id, start_batch.driver, clock_timestamp() + make_interval(secs => seconds) from reembed.versions v where v.id = start_batch.version_id
  on conflict do nothing
  returning id
$$;
comment on function reembed.start_batch(int, uuid, int) is 'Begins to gather a batch for a version, driven by the caller. Null where one is being prepared already.';

create function reembed.take_batch(batch_id uuid, driver uuid, seconds int default 180) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b reembed.batches;
begin
  update reembed.batches x set driver = take_batch.driver, driver_until = clock_timestamp() + make_interval(secs => seconds)
   where x.id = take_batch.batch_id and x.state <> 'closed' and (x.driver is null or x.driver = take_batch.driver or x.driver_until < clock_timestamp())
  returning * into b;
  if not found then
    return null;
  end if;
  return jsonb_build_object('id', b.id, 'version_id', b.version_id, 'state', b.state, 'input_file_id', b.input_file_id, 'provider_id', b.provider_id,
    'long_text', (select c.long_text from reembed.versions v join reembed.collections c on c.id = v.collection_id where v.id = b.version_id),
    'created_s', extract(epoch from b.created_at)::bigint, 'asked_ms_ago', (extract(epoch from clock_timestamp() - b.creating_at) * 1000)::bigint,
    'rows', (select count(*) from reembed.batch_items i where i.batch_id = b.id));
end
$$;
comment on function reembed.take_batch(uuid, uuid, int) is
  'Makes the caller the driver of an open batch for so many seconds, or renews that. Null where another drives it or it is closed. Returns { id, version_id, state, input_file_id, provider_id, long_text, created_s: seconds since 1970, asked_ms_ago: since the provider was asked to begin, rows }.';

create function reembed.leave_batch(batch_id uuid, driver uuid) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  update reembed.batches b set driver = null, driver_until = null where b.id = leave_batch.batch_id and b.driver = leave_batch.driver
$$;
comment on function reembed.leave_batch(uuid, uuid) is 'Lets another process drive the batch at once.';

create function reembed.gather_batch(batch_id uuid, driver uuid, max_rows int, max_tokens int default 300000, lease_seconds int default 172800) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b constant reembed.batches := reembed.batch_numbered(batch_id);
  v reembed.versions;
  answer jsonb;
  copies_token constant uuid := gen_random_uuid();
begin
  select * into strict v from reembed.versions x where x.id = b.version_id;
  -- The batch's row after the claim: nobody waits for the space's row with another in hand.
  answer := reembed.claim((select c.name from reembed.collections c where c.id = v.collection_id), v.number, max_rows, max_tokens, lease_seconds, b.id);
  perform from reembed.batches x where x.id = b.id and x.driver = gather_batch.driver and x.state = 'gathering' for share skip locked;
  if not found then
    raise exception using errcode = 'RE009', message = format('batch %s is driven by another process', b.id), hint = 'Nothing was claimed; look again later.';
  end if;
  insert into reembed.batch_items as i (batch_id, row_id, hash, tokens)
  select b.id, g.job ->> 'row_id', decode(g.job ->> 'hash', 'hex'), (g.job ->> 'tokens')::int from jsonb_array_elements(answer -> 'jobs') g(job)
  on conflict on constraint batch_items_pkey do update set hash = excluded.hash, tokens = excluded.tokens, outcome = null;
  -- A copy is made now, under a short lease: it waits for no provider.
  update reembed.jobs j set lease_token = copies_token, lease_until = clock_timestamp() + interval '2 minutes', run_at = clock_timestamp() + interval '2 minutes'
    from jsonb_array_elements(coalesce(answer -> 'copies', '[]')) g(copied)
   where j.version_id = v.id and j.row_id = g.copied ->> 'row_id' and j.lease_token = b.id;
  return (answer - 'jobs') || jsonb_build_object('jobs', '[]'::jsonb, 'gathered', jsonb_array_length(answer -> 'jobs'), 'lease_token', copies_token,
    'tokens', (select coalesce(sum((g.job ->> 'tokens')::bigint), 0) from jsonb_array_elements(answer -> 'jobs') g(job)));
end
$$;
comment on function reembed.gather_batch(uuid, uuid, int, int, int) is
  'One claim for a batch that is gathering. Returns what claim does, without the jobs; gathered, their number, and tokens, their estimate. The lease token returned is that of the copies, which are to be copied at once. RE009: another process drives the batch.';

create function reembed.batch_texts(batch_id uuid, driver uuid, after_row text default null, max_rows int default 500) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b constant reembed.batches := reembed.batch_numbered(batch_id);
  v reembed.versions;
  c reembed.collections;
  wanted text[];
  texts jsonb := jsonb '[]';
  dropped text[];
begin
  select * into strict v from reembed.versions x where x.id = b.version_id;
  select * into strict c from reembed.collections x where x.id = v.collection_id;
  if b.driver is distinct from batch_texts.driver or b.state <> 'gathering' then
    return null;
  end if;
  select coalesce(array_agg(x.row_id order by x.row_id), '{}') into wanted from (
    select i.row_id from reembed.batch_items i
     where i.batch_id = b.id and i.outcome is null and (after_row is null or i.row_id > after_row) order by i.row_id limit max_rows) x;
  begin
    execute format(
        'select coalesce(jsonb_agg(jsonb_build_object(''row_id'', i.row_id, ''hash'', encode(i.hash, ''hex''), ''input'', coalesce(%1$s(t.*), '''')) order by i.row_id), ''[]'')
           from reembed.batch_items i
           join reembed.jobs j on j.version_id = $3 and j.row_id = i.row_id and j.lease_token = $1
           join %2$s t on %3$s
          where i.batch_id = $1 and i.row_id = any ($2) and %4$s = i.hash',
        v.input_function, c.source_table, reembed.key_match(c, c.key_columns, 't', 'i.row_id'), reembed.input_hash(v, 't'))
      into texts using b.id, wanted, v.id;
  exception when others then
    -- The input of one of them cannot be made any more. The next claim finds out which.
    texts := jsonb '[]';
  end;
  select coalesce(array_agg(w.row_id), '{}') into dropped from unnest(wanted) w(row_id)
   where w.row_id not in (select t.text ->> 'row_id' from jsonb_array_elements(texts) t(text));
  if cardinality(dropped) > 0 then
    perform reembed.end_batch_rows(b.id, dropped, 'returned');
  end if;
  return jsonb_build_object('texts', texts, 'last', case when cardinality(wanted) < max_rows then null else wanted[max_rows] end);
end
$$;
comment on function reembed.batch_texts(uuid, uuid, text, int) is
  'The texts of the next rows of a gathered batch: { texts: [{ row_id, hash, input }], last: where to go on, null at the end }. Rows that changed since the claim are given back and left out. Null where the caller does not drive it.';

create function reembed.note_batch_upload(batch_id uuid, driver uuid, file_id text, requests int, truncated text[]) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  update reembed.batches b set state = 'uploaded', input_file_id = file_id, requests = note_batch_upload.requests
   where b.id = note_batch_upload.batch_id and b.driver = note_batch_upload.driver and b.state = 'gathering';
  if not found then
    return false;
  end if;
  update reembed.batch_items i set truncated = true where i.batch_id = note_batch_upload.batch_id and i.row_id = any (note_batch_upload.truncated);
  return true;
end
$$;
comment on function reembed.note_batch_upload(uuid, uuid, text, int, text[]) is 'The provider has the file, which holds so many requests; of these rows only the beginning of the text. False where the caller does not drive the batch.';

create function reembed.note_batch_asked(batch_id uuid, driver uuid, seconds int default 180) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  update reembed.batches b set creating_at = clock_timestamp(), driver_until = clock_timestamp() + make_interval(secs => seconds)
   where b.id = note_batch_asked.batch_id and b.driver = note_batch_asked.driver and b.state = 'uploaded';
  return found;
end
$$;
comment on function reembed.note_batch_asked(uuid, uuid, int) is 'Before the provider is asked to begin: it may hear of the batch even if its answer is lost. False where the caller does not drive the batch: it must not ask.';

create function reembed.note_batch_submitted(batch_id uuid, provider_id text, expires_s bigint default null) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- Whoever drives it by now: a batch that exists at the provider is better known than made a second time.
  update reembed.batches b
     set state = 'submitted', provider_id = note_batch_submitted.provider_id, submitted_at = coalesce(b.submitted_at, clock_timestamp()), expires_at = to_timestamp(expires_s)
   where b.id = note_batch_submitted.batch_id and (b.state = 'uploaded' or (b.state = 'submitted' and b.provider_id = note_batch_submitted.provider_id));
  return found;
end
$$;
comment on function reembed.note_batch_submitted(uuid, text, bigint) is 'The provider''s own id of the batch. False where it has another one already: the caller cancels its own.';

create function reembed.note_batch_status(batch_id uuid, status text, requests_done int, requests_failed int) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  update reembed.batches b set provider_status = left(status, 60), requests_done = note_batch_status.requests_done, requests_failed = note_batch_status.requests_failed
   where b.id = note_batch_status.batch_id
$$;
comment on function reembed.note_batch_status(uuid, text, int, int) is 'What the provider says of its progress, for whoever watches.';

create function reembed.open_batch_rows(batch_id uuid, after_row text default null, max_rows int default 5000) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_agg(jsonb_build_array(i.row_id, encode(i.hash, 'hex'), i.tokens) order by i.row_id), '[]')
    from (select * from reembed.batch_items x
           where x.batch_id = open_batch_rows.batch_id and x.outcome is null and (after_row is null or x.row_id > after_row)
           order by x.row_id limit max_rows) i
$$;
comment on function reembed.open_batch_rows(uuid, text, int) is 'The next rows of a batch that have no end yet, as [row_id, hash, estimated tokens].';

create function reembed.store_batch(batch_id uuid, row_ids text[], vectors extensions.vector[], billed bigint[], skipped text[] default null, wait boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b constant reembed.batches := reembed.batch_numbered(batch_id);
  ids text[];
  hashes text[];
  open_vectors extensions.vector[];
  tokens int[];
  reasons text[];
  cut boolean[];
  outcomes jsonb;
begin
  select coalesce(array_agg(i.row_id order by g.n), '{}'), coalesce(array_agg(encode(i.hash, 'hex') order by g.n), '{}'), coalesce(array_agg(g.vector order by g.n), '{}'),
         coalesce(array_agg(coalesce(g.billed, 0)::int order by g.n), '{}'), coalesce(array_agg(g.why order by g.n), '{}'), coalesce(array_agg(i.truncated order by g.n), '{}')
    into ids, hashes, open_vectors, tokens, reasons, cut
    from unnest(row_ids, vectors, store_batch.billed, store_batch.skipped) with ordinality g(row_id, vector, billed, why, n)
    join reembed.batch_items i on i.batch_id = b.id and i.row_id = g.row_id and i.outcome is null;
  outcomes := reembed.complete_vectors(b.version_id, b.space_id, b.id, ids, hashes, open_vectors, tokens, reasons, store_batch.wait, cut);
  update reembed.batch_items i
     set billed = g.billed,
         outcome = case when outcomes -> 'stale' ? g.row_id then 'stale' when outcomes -> 'lost_lease' ? g.row_id then 'lost_lease' when outcomes -> 'gone' ? g.row_id then 'gone'
                        when outcomes -> 'refused' ? g.row_id then 'failed' when g.why is not null then 'skipped' else 'done' end
    from unnest(row_ids, store_batch.billed, store_batch.skipped) g(row_id, billed, why)
   where i.batch_id = b.id and i.row_id = g.row_id and i.outcome is null and not outcomes -> 'busy' ? g.row_id;
  return outcomes;
end
$$;
comment on function reembed.store_batch(uuid, text[], extensions.vector[], bigint[], text[], boolean) is
  'Completes rows of a batch, under all the fences of complete_vectors, and notes their end in the same transaction. billed: the tokens charged for the text, null at its other rows. Returns what complete does; rows that have an end already are left out.';

create function reembed.end_batch_rows(batch_id uuid, row_ids text[], outcome text, error text default null, billed bigint[] default null) returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b constant reembed.batches := reembed.batch_numbered(batch_id);
  ended text[];
begin
  with noted as (
    update reembed.batch_items i set outcome = end_batch_rows.outcome, billed = g.billed
      from unnest(row_ids, end_batch_rows.billed) g(row_id, billed)
     where i.batch_id = b.id and i.row_id = g.row_id and i.outcome is null
    returning i.row_id)
  select coalesce(array_agg(n.row_id), '{}') into ended from noted n;
  if end_batch_rows.outcome in ('returned', 'busy') then
    perform reembed.release(b.version_id, b.id, ended);
  else
    -- An attempt is spent: the synchronous lane, which halves what is too long and bounds the attempts, has the next.
    perform reembed.fail(b.version_id, b.id, ended, coalesce(end_batch_rows.error, 'the batch brought no vector'), case when end_batch_rows.outcome = 'failed' then null else 0 end);
  end if;
  return cardinality(ended);
end
$$;
comment on function reembed.end_batch_rows(uuid, text[], text, text, bigint[]) is
  'Ends rows of a batch without a vector. returned, busy: due again, no attempt spent; refused, lost: due again for the synchronous lane; failed: for good. Returns how many were open.';

create function reembed.end_rest_of_batch(batch_id uuid, outcome text, error text default null, max_rows int default 500) returns int
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select reembed.end_batch_rows(end_rest_of_batch.batch_id, array(
    select i.row_id from reembed.batch_items i where i.batch_id = end_rest_of_batch.batch_id and i.outcome is null order by i.row_id limit max_rows),
    end_rest_of_batch.outcome, end_rest_of_batch.error)
$$;
comment on function reembed.end_rest_of_batch(uuid, text, text, int) is 'Ends the next rows that have no end yet, all alike; call it until it returns 0. No more at once: the application''s edits wait for its locks.';

create function reembed.close_batch(batch_id uuid, outcome text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b reembed.batches;
  counts jsonb;
  requests jsonb;
  reservation bigint;
begin
  select * into b from reembed.batches x where x.id = close_batch.batch_id and x.state <> 'closed' for no key update skip locked;
  if not found then
    return null;
  end if;
  if exists (select from reembed.batch_items i where i.batch_id = b.id and i.outcome is null) then
    raise exception using errcode = 'RE007', message = format('batch %s has rows without an end', b.id), hint = 'End them first with reembed.end_rest_of_batch.';
  end if;
  -- What was leased and not noted: nothing of it was sent.
  perform reembed.release(b.version_id, b.id);
  if b.state = 'gathering' and not exists (select from reembed.batch_items i where i.batch_id = b.id) then
    delete from reembed.batches x where x.id = b.id;
    return jsonb '{}';
  end if;
  select coalesce(jsonb_object_agg(x.outcome, x.rows), '{}') into counts
    from (select i.outcome, count(*) as rows from reembed.batch_items i where i.batch_id = b.id group by i.outcome) x;
  with texts as (
    select sum(i.billed) as billed, bool_or(i.outcome = 'done') as is_stored, bool_or(i.outcome = 'lost') as is_lost, max(i.tokens) as estimate
      from reembed.batch_items i where i.batch_id = b.id group by i.hash)
  select coalesce(jsonb_agg(x.request), '[]') into requests from (
    select jsonb_build_object('state', 'settled', 'outcome', 'ok', 'inputs', count(*), 'stale', count(*) filter (where not t.is_stored), 'tokens', sum(t.billed),
                              'latency_ms', least(2147483647, extract(epoch from clock_timestamp() - b.submitted_at) * 1000)::int) as request
      from texts t where t.billed is not null having count(*) > 0
    union all
    select jsonb_build_object('state', 'lost', 'outcome', left(close_batch.outcome, 200), 'inputs', count(*), 'stale', 0, 'tokens', sum(t.estimate))
      from texts t where t.billed is null and t.is_lost having count(*) > 0) x;
  -- One reservation a claim; what was bought stands in the ledger once.
  for reservation in select u.id from reembed.usage u where u.lease_token = b.id and u.state in ('reserved', 'lost') order by u.id loop
    perform reembed.settle(reservation, requests);
    requests := '[]';
  end loop;
  update reembed.batches x
     set state = 'closed', outcome = close_batch.outcome, driver = null, driver_until = null, closed_at = clock_timestamp(),
         rows_stored = coalesce((counts ->> 'done')::int, 0), tokens = (select coalesce(sum(i.billed), 0) from reembed.batch_items i where i.batch_id = b.id)
   where x.id = b.id;
  delete from reembed.batch_items i where i.batch_id = b.id;
  return counts;
end
$$;
comment on function reembed.close_batch(uuid, text) is
  'Settles a batch all of whose rows have an end, with the provider''s own count at the batch price, and forgets the rows. Returns how many rows had each end; null where it is closed already. RE007: rows are open.';

create function reembed.give_up_batch(batch_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  b constant reembed.batches := reembed.batch_numbered(batch_id);
begin
  perform reembed.end_rest_of_batch(b.id, case when b.creating_at is null then 'returned' else 'lost' end, 'the batch was given up', 2147483647);
  return reembed.close_batch(b.id, 'given up');
end
$$;
comment on function reembed.give_up_batch(uuid) is
  'For an operator, where the provider knows a batch no more: its jobs are due again, what was submitted stands in the ledger as lost. It cancels nothing at the provider. RE004: no such batch.';

create function reembed.open_batches() returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', b.id, 'collection', c.name, 'version', v.number, 'version_id', v.id, 'space', b.space_id, 'state', b.state, 'provider_id', b.provider_id,
           'provider_status', b.provider_status, 'requests', b.requests, 'requests_done', b.requests_done, 'requests_failed', b.requests_failed,
           'rows', (select count(*) from reembed.batch_items i where i.batch_id = b.id),
           'reserved_usd', (select coalesce(sum(u.cost_usd), 0)::float8 from reembed.usage u where u.space_id = b.space_id and u.state = 'reserved' and u.lease_token = b.id),
           'created_at', b.created_at, 'submitted_at', b.submitted_at, 'expires_at', b.expires_at,
           'driven', coalesce(b.driver_until > clock_timestamp(), false)) order by b.created_at), '[]')
    from reembed.batches b join reembed.versions v on v.id = b.version_id join reembed.collections c on c.id = v.collection_id
   where b.state <> 'closed'
$$;
comment on function reembed.open_batches() is
  'The batches that are not closed, oldest first: [{ id, collection, version, version_id, space, state: gathering | uploaded | submitted, provider_id, provider_status, requests, requests_done, requests_failed, rows, reserved_usd, created_at, submitted_at, expires_at, driven: whether a process works on it now }].';

revoke execute on all functions in schema reembed from public;
