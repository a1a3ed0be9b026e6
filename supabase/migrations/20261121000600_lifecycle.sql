-- The states of a version and what moves it from one to the next: added, loaded, indexed, ready; and how its loading is given up.
-- Makes: reembed.transitions, state_of, transition, add_version, set_space, start_loading, finish_enqueueing, lock_tables, advance, stop_maintaining, abandon, sweep.
-- Risks: start_loading takes share row exclusive on the collection's table for a moment, and abandon access exclusive, both under lock_timeout
-- with retry (lock_tables): a queued lock request would hold up every search that comes after it.
--
-- Stored are the states that decide what is done with a version. Two are not, so that switching stays one row and one event: which version is
-- live is collections.active_version, and standby is a ready version that was active since it became ready. state_of tells.

create table reembed.transitions (
  from_state text check (from_state in ('prepared', 'loading', 'indexing', 'ready', 'standby')),
  to_state text not null check (to_state in ('prepared', 'loading', 'indexing', 'ready', 'standby', 'retired')),
  action text not null,
  event text not null,
  meaning text not null,
  unique nulls not distinct (from_state, action, to_state)
);
comment on table reembed.transitions is
  'Every step that the state of a version can take: the function that takes it (action), the kind of event it leaves, and the fact it stands for. What is not here is refused. from_state null: there was no such version.';
alter table reembed.transitions enable row level security;
insert into reembed.transitions (from_state, to_state, action, event, meaning) values
  (null, 'prepared', 'add_version', 'add', 'it is registered and has its match RPC'),
  ('prepared', 'loading', 'start_loading', 'load', 'its triggers stand: every edit is kept current from now on'),
  ('loading', 'indexing', 'advance', 'indexing', 'no backfill job is left'),
  ('indexing', 'ready', 'advance', 'ready', 'its index stands'),
  ('indexing', 'loading', 'advance', 'loading', 'there are backfill jobs again'),
  ('ready', 'loading', 'advance', 'loading', 'there are backfill jobs again'),
  ('standby', 'loading', 'advance', 'loading', 'there are backfill jobs again'),
  ('ready', 'indexing', 'advance', 'indexing', 'its index is gone'),
  ('standby', 'indexing', 'advance', 'indexing', 'its index is gone'),
  ('loading', 'prepared', 'abandon', 'abandon', 'its loading is given up; what it bought stays stored'),
  ('indexing', 'prepared', 'abandon', 'abandon', 'its loading is given up; what it bought stays stored'),
  ('ready', 'prepared', 'abandon', 'abandon', 'its loading is given up; what it bought stays stored'),
  ('loading', 'loading', 'cutover', 'cutover', 'it is made active by force'),
  ('indexing', 'indexing', 'cutover', 'cutover', 'it is made active by force'),
  ('ready', 'ready', 'cutover', 'cutover', 'it is made active'),
  ('standby', 'ready', 'cutover', 'cutover', 'it is made active again'),
  ('standby', 'ready', 'rollback', 'rollback', 'it is made active again'),
  ('ready', 'standby', 'cutover', 'cutover', 'it was active and is left'),
  ('ready', 'standby', 'rollback', 'rollback', 'it was active and is left'),
  ('prepared', 'retired', 'finalize', 'finalize', 'it is given up'),
  ('loading', 'retired', 'finalize', 'finalize', 'it is given up'),
  ('indexing', 'retired', 'finalize', 'finalize', 'it is given up'),
  ('ready', 'retired', 'finalize', 'finalize', 'it is given up'),
  ('standby', 'retired', 'finalize', 'finalize', 'the way back to it is given up');

create function reembed.state_of(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when v.state = 'ready' and v.id <> c.active_version and exists (
           select from reembed.events e
            where e.collection = c.name and e.kind in ('cutover', 'rollback') and (e.detail ->> 'from')::int = v.number
              and e.id > coalesce((select max(r.id) from reembed.events r where r.collection = c.name and r.kind = 'ready' and r.version = v.number), 0))
         then 'standby' else v.state end
    from reembed.collections c where c.id = v.collection_id
$$;
comment on function reembed.state_of(reembed.versions) is
  'The state of a version: the stored one, or standby for a ready version that has been active since it became ready and is not now.';

create function reembed.allowed_from(state text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce('Possible now: ' || string_agg(distinct t.action, ', ' order by t.action) || '.', 'It was finalized: add a new version.')
    from reembed.transitions t where t.from_state = allowed_from.state
$$;
comment on function reembed.allowed_from(text) is 'What may be done with a version in this state, as a sentence for a hint.';

create function reembed.transition(version_id int, action text, to_state text, actor text default null, reason text default null, detail jsonb default '{}') returns reembed.versions
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  collection_name text;
  state_here text;
  t reembed.transitions;
begin
  select * into strict v from reembed.versions x where x.id = transition.version_id for no key update;
  select c.name into strict collection_name from reembed.collections c where c.id = v.collection_id;
  state_here := reembed.state_of(v);
  select * into t from reembed.transitions x
   where x.from_state = state_here and x.action = transition.action and x.to_state = transition.to_state;
  if not found then
    perform reembed.refuse_step(v, transition.action);
  end if;
  -- What is given up or retired is not kept current; what is loaded again is enqueued anew.
  update reembed.versions x
     set state = transition.to_state, maintained = transition.to_state not in ('prepared', 'retired'),
         enqueued_at = case when transition.to_state in ('prepared', 'retired') then null else x.enqueued_at end
   where x.id = v.id returning * into v;
  insert into reembed.events (kind, collection, version, actor, reason, detail)
  values (t.event, collection_name, v.number, coalesce(transition.actor, session_user), coalesce(transition.reason, t.meaning), transition.detail);
  return v;
end
$$;
comment on function reembed.transition(int, text, text, text, text, jsonb) is
  'The one place that moves a version''s stored state: checks the step against reembed.transitions, writes it with maintained and an event, returns the version. The caller sees to the triggers. RE007, RE010: no such step from here.';

create function reembed.refuse_step(v reembed.versions, action text, why text default null) returns void
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  collection_name constant text := (select c.name from reembed.collections c where c.id = v.collection_id);
  state constant text := reembed.state_of(v);
begin
  if state = 'retired' then
    raise exception using errcode = 'RE010', message = format('version %s of collection %s was finalized', v.number, collection_name), hint = 'Add a new version.';
  end if;
  raise exception using errcode = 'RE007',
    message = format('version %s of %s: %s is not possible, %s', v.number, collection_name, action, coalesce(why, 'its state is ' || state)),
    hint = reembed.allowed_from(state);
end
$$;
comment on function reembed.refuse_step(reembed.versions, text, text) is 'Refuses a step of a version: RE010 when it was finalized, else RE007 with what may be done now in the hint.';

create function reembed.add_version(
  collection text, space_id text, vector_column name, input_function text,
  match_threshold double precision default null, vector_table regclass default null, vector_key name[] default null,
  match_function name default null, takes_unnamed boolean default false, adopts boolean default false
) returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(add_version.collection);
  next_number int;
  new_id int;
  sibling record;
begin
  if not exists (select from reembed.spaces s where s.id = add_version.space_id) then
    raise exception using errcode = 'RE008', message = format('space_id: space %L is unknown', left(space_id, 100)), hint = 'Add it first with reembed.add_space.';
  end if;
  select coalesce(max(v.number), 0) + 1 into next_number from reembed.versions v where v.collection_id = c.id;
  insert into reembed.versions as v (id, collection_id, number, space_id, input_function, vector_table, vector_column, vector_key, match_function, match_threshold, takes_unnamed, adopts)
  values (case when next_number = 1 then c.active_version else nextval(pg_get_serial_sequence('reembed.versions', 'id')) end,
          c.id, next_number, add_version.space_id, add_version.input_function,
          coalesce(add_version.vector_table, c.source_table), add_version.vector_column, coalesce(add_version.vector_key, c.key_columns),
          coalesce(add_version.match_function, format('match_%s%s', c.name, case when next_number > 1 then '_v' || next_number else '' end)),
          coalesce(add_version.match_threshold, (select s.default_threshold from reembed.spaces s where s.id = add_version.space_id)),
          add_version.takes_unnamed, add_version.adopts)
  returning v.id into new_id;
  -- The older versions' RPCs too: from now on one of equal width asks for the name of the space.
  for sibling in select v.id from reembed.versions v where v.collection_id = c.id and v.state <> 'retired' order by v.number loop
    perform reembed.create_match_function(sibling.id);
  end loop;
  insert into reembed.events (kind, collection, version, detail) values ('add', c.name, next_number, jsonb_build_object('space', add_version.space_id));
  perform reembed.renew_dependents(c);
  return new_id;
end
$$;
comment on function reembed.add_version(text, text, name, text, double precision, regclass, name[], name, boolean, boolean) is
  'Registers the next version of a collection and makes its match RPC; the first one is active. Returns its id. Where two versions have equal width, both RPCs then refuse a query vector whose space is not named (takes_unnamed exempts an RPC that an app called before). With adopts, vectors that are there when its rows are enqueued for the first time are taken as they are. RE005, RE008 on bad arguments.';

create function reembed.set_space(collection text, version int, space_id text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  sibling record;
begin
  if v.space_id = set_space.space_id then
    return;
  end if;
  if not exists (select from reembed.spaces s where s.id = set_space.space_id) then
    raise exception using errcode = 'RE008', message = format('space_id: space %L is unknown', left(space_id, 100)), hint = 'Add it first with reembed.add_space.';
  end if;
  begin
    -- The records are locked against writers, so that no complete is under way in the old space: not for long, and not behind a long one.
    update reembed.versions x
       set space_id = set_space.space_id,
           match_threshold = case when v.number = 1 then v.match_threshold else (select s.default_threshold from reembed.spaces s where s.id = set_space.space_id) end
     where x.id = v.id;
  exception when lock_not_available then
    raise exception using errcode = 'RE009', message = format('a transaction is writing records: the space of version %s of %s could not be changed', v.number, set_space.collection),
      hint = 'Nothing was changed. See pg_stat_activity for a long transaction, then run the same again.';
  end;
  for sibling in select x.id from reembed.versions x where x.collection_id = v.collection_id and x.state <> 'retired' order by x.number loop
    perform reembed.create_match_function(sibling.id);
  end loop;
  insert into reembed.events (kind, collection, version, detail)
  values ('set_space', set_space.collection, v.number, jsonb_build_object('from', v.space_id, 'to', set_space.space_id));
end
$$;
comment on function reembed.set_space(text, int, text) is
  'Gives a version another space of the same width, as long as it has no record (RE007); its RPC is made anew. RE005, RE006, RE008 on bad arguments; RE009: a long transaction was writing records.';

create function reembed.lock_tables(tables regclass[], lock_mode text, attempt int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  locked_table regclass;
begin
  -- A vacuum of vectors takes minutes, and an autovacuum goes away only for whoever has waited longer than deadlock_timeout for it. Nobody else
  -- waits for this lock meanwhile: it stops neither readers nor writers.
  perform set_config('lock_timeout', s.setting::int + 500 || 'ms', true) from pg_catalog.pg_settings s where s.name = 'deadlock_timeout';
  foreach locked_table in array tables loop
    execute format('lock table %s in share update exclusive mode', locked_table);
  end loop;
  perform set_config('lock_timeout', least(900, 100 * attempt) || 'ms', true);
  foreach locked_table in array tables loop
    execute format('lock table %s in %s mode', locked_table, lock_mode);
  end loop;
end
$$;
comment on function reembed.lock_tables(regclass[], text, int) is
  'Locks an application''s tables, in this order, for a change of their triggers. A lock that stops searches is waited for 100 ms at the first attempt, since all that come after it wait behind it, and up to 900 ms at later ones, since on a busy table there is always one under way that takes longer. Throws lock_not_available, or deadlock_detected: the caller gives everything back, pauses and tries again.';

create function reembed.start_loading(collection text, version int, actor text default null, reason text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  v reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
begin
  if v.maintained then
    return;
  end if;
  if v.state <> 'prepared' then
    perform reembed.refuse_step(v, 'start_loading');
  end if;
  for attempt in 1..15 loop
    begin
      perform reembed.lock_tables(array[c.source_table, v.vector_table], 'share row exclusive', attempt);
      select * into strict v from reembed.versions x where x.id = v.id for no key update;
      if v.maintained then
        return;
      end if;
      v := reembed.transition(v.id, 'start_loading', 'loading', start_loading.actor, start_loading.reason);
      perform reembed.create_triggers(v);
      perform reembed.keep_index_from_start(v);
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.05 * attempt);
    end;
  end loop;
  raise exception using errcode = 'RE009', message = format('%s is locked by a long transaction: the triggers could not be placed', c.source_table),
    hint = 'Nothing was changed. See pg_stat_activity for who holds it, then run the same again.';
end
$$;
comment on function reembed.start_loading(text, int, text, text) is
  'Makes a version maintained: registry row and triggers in one transaction. Existing rows are enqueued after it commits (enqueue_missing, then finish_enqueueing). Does nothing when it is maintained already. RE009: the table stayed locked for fifteen seconds; RE010: it was finalized.';

create function reembed.finish_enqueueing(collection text, version int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  update reembed.versions x set enqueued_at = clock_timestamp() where x.id = v.id and x.maintained and x.enqueued_at is null;
end
$$;
comment on function reembed.finish_enqueueing(text, int) is 'Notes that all rows that existed before the version was maintained are enqueued: law 2 counts it from now on.';

create function reembed.advance(collection text, version int, actor text default null) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions := reembed.version_numbered(collection, version);
  next_state text;
begin
  loop
    -- Under the row's lock, so that of two who look at once one moves it; only where there is something to do.
    next_state := reembed.next_state(v);
    exit when next_state is null;
    select * into strict v from reembed.versions x where x.id = v.id for no key update;
    next_state := reembed.next_state(v);
    exit when next_state is null;
    v := reembed.transition(v.id, 'advance', next_state, advance.actor);
  end loop;
  return v.state;
end
$$;
comment on function reembed.advance(text, int, text) is
  'Moves a version to where the facts say it stands and returns its state: loading -> indexing when no backfill job is left, indexing -> ready when its index stands, and back when there are backfill jobs again or the index is gone.';

create function reembed.next_state(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case
    when v.state = 'loading' and v.enqueued_at is not null and reembed.pending(v) = 0 then 'indexing'
    when v.state in ('indexing', 'ready') and reembed.pending(v) > 0 then 'loading'
    when v.state = 'indexing' and reembed.has_index(v) then 'ready'
    when v.state = 'ready' and not reembed.has_index(v) then 'indexing'
  end
$$;
comment on function reembed.next_state(reembed.versions) is 'The state that a version would advance to by the facts; null where it stands right.';

create function reembed.stop_maintaining(version_id int, action text, to_state text, actor text, reason text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  v reembed.versions;
  part record;
begin
  select * into strict v from reembed.versions x where x.id = stop_maintaining.version_id;
  for attempt in 1..15 loop
    begin
      -- The tables in the order of start_loading and complete. Dropping a trigger needs this lock; a table that was dropped is not waited for.
      perform reembed.lock_tables(array(
        select x.oid::regclass from pg_catalog.pg_class x join reembed.collections c on c.id = v.collection_id
         where x.oid in (c.source_table, v.vector_table) order by x.oid <> c.source_table), 'access exclusive', attempt);
      v := reembed.transition(v.id, stop_maintaining.action, stop_maintaining.to_state, stop_maintaining.actor, stop_maintaining.reason);
      -- Vectors of before are then no longer those of the present texts.
      update reembed.versions x set adopts = false, keeps_text = false where x.id = v.id and (x.adopts or x.keeps_text);
      -- Loaded again, it would have its share of the callers back, unasked.
      update reembed.collections x set traffic_version = null, traffic_percent = 0, traffic_since = null where x.traffic_version = v.id;
      for part in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                   where p.pronamespace = 'reembed'::regnamespace and p.proname in ('track_version_' || v.id, 'track_vectors_' || v.id, 'keep_text_' || v.id) loop
        -- With the triggers that call it, which are nobody else's.
        execute format('drop function %s cascade', part.signature);
      end loop;
      perform reembed.sweep(10000);
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.05 * attempt);
    end;
  end loop;
  raise exception using errcode = 'RE009',
    message = format('%s is locked by a long transaction: the triggers of version %s could not be taken away', (select c.source_table from reembed.collections c where c.id = v.collection_id), v.number),
    hint = 'Nothing was changed. See pg_stat_activity for who holds it, then run the same again.';
end
$$;
comment on function reembed.stop_maintaining(int, text, text, text, text) is
  'Takes a version''s triggers away and moves its state, in one transaction, for abandon and finalize. RE009: a table stayed locked for fifteen seconds, nothing was changed.';

create function reembed.abandon(collection text, version int, reason text default null, actor text default null) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  if v.id = (reembed.collection_named(collection)).active_version then
    perform reembed.refuse_step(v, 'abandon', 'it is the active version');
  end if;
  if not exists (select from reembed.transitions t where t.from_state = reembed.state_of(v) and t.action = 'abandon') then
    perform reembed.refuse_step(v, 'abandon');
  end if;
  perform reembed.stop_maintaining(v.id, 'abandon', 'prepared', abandon.actor, abandon.reason);
  return 'prepared';
end
$$;
comment on function reembed.abandon(text, int, text, text) is
  'Gives up a version that is not active: it is prepared again, edits no longer reach it, its jobs go. Its vectors and records stay, so that loading it again buys only what has changed. RE007: it is active, in standby, or was never loaded; RE010: it was finalized.';

create function reembed.sweep(max_rows int default 10000) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  found_ids text[];
  swept bigint := 0;
begin
  perform reembed.check_range('max_rows', max_rows, 1, 1000000);
  -- The version's row is held, so that none is loaded again meanwhile, whose new jobs would be taken for old ones.
  for v in select x.* from reembed.versions x
            where not x.maintained
              and (exists (select from reembed.jobs j where j.version_id = x.id)
                   or x.state = 'retired' and exists (select from reembed.records r where r.version_id = x.id))
            order by x.id for share skip locked loop
    select coalesce(array_agg(g.row_id), '{}') into found_ids from (
      select j.row_id from reembed.jobs j where j.version_id = v.id order by j.row_id limit max_rows - swept for update skip locked) g;
    delete from reembed.jobs j where j.version_id = v.id and j.row_id = any (found_ids);
    swept := swept + cardinality(found_ids);
    if v.state = 'retired' then
      select coalesce(array_agg(g.row_id), '{}') into found_ids from (
        select r.row_id from reembed.records r where r.version_id = v.id order by r.row_id limit max_rows - swept for update skip locked) g;
      delete from reembed.records r where r.version_id = v.id and r.row_id = any (found_ids);
      swept := swept + cardinality(found_ids);
    end if;
    exit when swept >= max_rows;
  end loop;
  return swept;
end
$$;
comment on function reembed.sweep(int) is
  'Removes at most max_rows jobs of versions that are not maintained and records of finalized ones, a part at a time so that it holds nothing for long. Returns how many.';

revoke execute on all functions in schema reembed from public;
