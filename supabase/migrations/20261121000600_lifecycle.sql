-- The life of a version: added, loaded, indexed, ready, made active, left and returned to.
-- Makes: add_version, set_space, start_loading, finish_enqueueing, advance, cutover, rollback.
-- Risks: start_loading takes share row exclusive on the collection's table for a moment, under lock_timeout with retry; cutover and
-- rollback change one row and append one event.

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

create function reembed.start_loading(collection text, version int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
begin
  if v.state = 'retired' then
    raise exception using errcode = 'RE010', message = format('version %s of collection %s was finalized', v.number, c.name), hint = 'Add a new version.';
  end if;
  if v.maintained then
    return;
  end if;
  for attempt in 1..20 loop
    begin
      -- Short waits (lock_timeout above) with pauses between: a queued lock request would hold up every search that comes after it.
      execute format('lock table %s in share row exclusive mode', c.source_table);
      execute format('lock table %s in share row exclusive mode', v.vector_table);
      update reembed.versions x set maintained = true, state = 'loading' where x.id = v.id and not x.maintained;
      if not found then
        return;
      end if;
      perform reembed.create_triggers((select x from reembed.versions x where x.id = v.id));
      insert into reembed.events (kind, collection, version) values ('load', c.name, v.number);
      return;
    exception when lock_not_available then
      perform pg_sleep(0.05 * attempt);
    end;
  end loop;
  raise exception using errcode = 'RE009', message = format('%s is locked by a long transaction: the triggers could not be placed', c.source_table),
    hint = 'Nothing was changed. See pg_stat_activity for who holds it, then run the same again.';
end
$$;
comment on function reembed.start_loading(text, int) is
  'Makes a version maintained: registry row and triggers in one transaction. Existing rows are enqueued after it commits (enqueue_missing, then finish_enqueueing). Does nothing when it is maintained already. RE009: the table stayed locked for ten seconds.';

create function reembed.finish_enqueueing(collection text, version int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  update reembed.versions x set enqueued_at = clock_timestamp() where x.id = v.id and x.maintained and x.enqueued_at is null;
end
$$;
comment on function reembed.finish_enqueueing(text, int) is 'Notes that all rows that existed before the version was maintained are enqueued: law 2 counts it from now on.';

create function reembed.advance(collection text, version int) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions := reembed.version_numbered(collection, version);
begin
  if v.state = 'loading' and v.enqueued_at is not null and reembed.pending(v) = 0 then
    update reembed.versions x set state = 'indexing' where x.id = v.id returning * into v;
    insert into reembed.events (kind, collection, version) values ('indexing', advance.collection, v.number);
  end if;
  if v.state = 'indexing' and reembed.has_index(v) then
    update reembed.versions x set state = 'ready' where x.id = v.id returning * into v;
    insert into reembed.events (kind, collection, version) values ('ready', advance.collection, v.number);
  end if;
  return v.state;
end
$$;
comment on function reembed.advance(text, int) is
  'Moves a version on as far as the facts allow and returns its state: loading -> indexing when no backfill job is left, indexing -> ready when its index stands.';

create function reembed.switch_to(c reembed.collections, target reembed.versions, kind text, actor text, reason text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  left_number constant int := (select v.number from reembed.versions v where v.id = c.active_version);
begin
  update reembed.collections x set active_version = target.id where x.id = c.id;
  insert into reembed.events (kind, collection, version, actor, reason, detail)
  values (switch_to.kind, c.name, target.number, coalesce(switch_to.actor, session_user), switch_to.reason, jsonb_build_object('from', left_number));
  return jsonb_build_object('collection', c.name, 'from', left_number, 'to', target.number,
    'stale', (select count(*) from reembed.jobs j where j.version_id = target.id));
end
$$;
comment on function reembed.switch_to(reembed.collections, reembed.versions, text, text, text) is 'The switch itself: one row and one event.';

create function reembed.locked_collection(collection text) returns reembed.collections
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  c reembed.collections := reembed.collection_named(collection);
begin
  select * into strict c from reembed.collections x where x.id = c.id for no key update;
  return c;
exception when lock_not_available then
  raise exception using errcode = 'RE009', message = format('another switch of %s is under way', collection), hint = 'Nothing was changed. Look at reembed.events, then decide again.';
end
$$;
comment on function reembed.locked_collection(text) is 'The collection''s row, locked for a switch. RE005: unknown; RE009: somebody else is switching it.';

create function reembed.cutover(collection text, version int, reason text default null, force boolean default false, actor text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.locked_collection(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  obstacle text;
begin
  obstacle := case
    when v.state = 'retired' then 'it was finalized'
    when v.id = c.active_version then 'it is active already'
    when not v.maintained then 'it is not maintained: start loading it first'
    when v.enqueued_at is null then 'its existing rows are not all enqueued yet'
  end;
  -- What --force cannot overrule stands above, what it can below.
  if obstacle is null and not coalesce(force, false) then
    obstacle := case
      when reembed.pending(v) > 0 then format('%s of its backfill jobs are not done', reembed.pending(v))
      when v.state <> 'ready' then format('its state is %s, not ready', v.state)
    end;
  end if;
  if obstacle is not null then
    raise exception using errcode = 'RE007', message = format('version %s of %s cannot be made active: %s', v.number, c.name, obstacle),
      hint = 'reembed status shows where it stands.';
  end if;
  if coalesce(force, false) and coalesce(reason, '') = '' then
    raise exception using errcode = 'RE004', message = 'reason is empty: a forced cutover says why', hint = 'Pass a reason; it is written into reembed.events.';
  end if;
  return reembed.switch_to(c, v, 'cutover', actor, reason);
end
$$;
comment on function reembed.cutover(text, int, text, boolean, text) is
  'Makes a version the active one: one row and one event. Returns { collection, from, to, stale }. The version left stays maintained. RE007: not ready (force with a reason overrules unfinished loading); RE009: somebody else is switching.';

create function reembed.rollback(collection text, reason text default null, actor text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.locked_collection(collection);
  here constant int := (select v.number from reembed.versions v where v.id = c.active_version);
  back reembed.versions;
begin
  select v.* into back from reembed.events e
    join reembed.versions v on v.collection_id = c.id and v.number = (e.detail ->> 'from')::int
   where e.collection = c.name and e.kind = 'cutover' and e.version = here
   order by e.id desc limit 1;
  if not found then
    raise exception using errcode = 'RE007', message = format('version %s of %s was not cut over to: there is nothing to roll back', here, c.name),
      hint = 'Use cutover to choose a version.';
  end if;
  if back.state = 'retired' or not back.maintained then
    raise exception using errcode = 'RE007', message = format('version %s of %s is no longer maintained: its vectors are not current', back.number, c.name),
      hint = 'Add a version in its space and load it.';
  end if;
  return reembed.switch_to(c, back, 'rollback', actor, reason);
end
$$;
comment on function reembed.rollback(text, text, text) is
  'Makes active again the version that the last cutover left. Returns { collection, from, to, stale: jobs that version still has, 0 normally }. RE007: there is no way back.';

revoke execute on all functions in schema reembed from public;
