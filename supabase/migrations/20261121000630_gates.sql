-- What holds a cutover, and the cutover itself with its way back.
-- Makes: the gates' bounds on reembed.collections with set_gates, reembed.gates, upkeep, cutover, rollback.
-- Risks: cutover and rollback change one row and append one event. What has to be counted is counted before that row is locked, so that the lock
-- lasts milliseconds however many jobs there are; only the gate on jobs, which two index lookups answer, is asked again under the lock.

alter table reembed.collections
  add column gate_edit_seconds int not null default 60 check (gate_edit_seconds between 1 and 86400),
  add column gate_failed_share double precision not null default 0.001 check (gate_failed_share between 0 and 1),
  add column gate_index_recall double precision not null default 0.97 check (gate_index_recall between 0 and 1),
  add column gate_ndcg_drop double precision not null default 0 check (gate_ndcg_drop between 0 and 1),
  add column gate_evaluation_hours double precision not null default 24 check (gate_evaluation_hours > 0 and gate_evaluation_hours <= 8760);
comment on column reembed.collections.gate_edit_seconds is 'No edit of the candidate may wait longer than this at a cutover.';
comment on column reembed.collections.gate_failed_share is 'The share of rows that may have failed in the candidate.';
comment on column reembed.collections.gate_index_recall is 'The recall at 10 of the candidate''s index against an exact scan that is asked for.';
comment on column reembed.collections.gate_ndcg_drop is
  'The fall of nDCG@10 that is put up with: a cutover is held when the whole interval of the fall lies above it, that is when the candidate is measurably worse.';
comment on column reembed.collections.gate_evaluation_hours is 'How old the evaluation may be on which a cutover rests.';

create function reembed.set_gates(
  collection text, edit_seconds int default null, failed_share double precision default null, index_recall double precision default null,
  ndcg_drop double precision default null, evaluation_hours double precision default null, reason text default null, actor text default null
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections := reembed.collection_named(collection);
  bounds jsonb;
begin
  -- A bound that is not given stays as it is; NaN passes no comparison that it should.
  perform reembed.check_range('edit_seconds', coalesce(edit_seconds, c.gate_edit_seconds), 1, 86400);
  perform reembed.check_range('failed_share', coalesce(failed_share, c.gate_failed_share)::numeric, 0, 1);
  perform reembed.check_range('index_recall', coalesce(set_gates.index_recall, c.gate_index_recall)::numeric, 0, 1);
  perform reembed.check_range('ndcg_drop', coalesce(set_gates.ndcg_drop, c.gate_ndcg_drop)::numeric, 0, 1);
  perform reembed.check_range('evaluation_hours', coalesce(evaluation_hours, c.gate_evaluation_hours)::numeric, 0.01, 8760);
  update reembed.collections x
     set gate_edit_seconds = coalesce(set_gates.edit_seconds, x.gate_edit_seconds), gate_failed_share = coalesce(set_gates.failed_share, x.gate_failed_share),
         gate_index_recall = coalesce(set_gates.index_recall, x.gate_index_recall), gate_ndcg_drop = coalesce(set_gates.ndcg_drop, x.gate_ndcg_drop),
         gate_evaluation_hours = coalesce(set_gates.evaluation_hours, x.gate_evaluation_hours)
   where x.id = c.id
  returning jsonb_build_object('edit_seconds', x.gate_edit_seconds, 'failed_share', x.gate_failed_share, 'index_recall', x.gate_index_recall,
                               'ndcg_drop', x.gate_ndcg_drop, 'evaluation_hours', x.gate_evaluation_hours) into bounds;
  insert into reembed.events (kind, collection, actor, reason, detail)
  values ('set_gates', c.name, coalesce(set_gates.actor, session_user), set_gates.reason, bounds);
  return bounds;
end
$$;
comment on function reembed.set_gates(text, int, double precision, double precision, double precision, double precision, text, text) is
  'Changes the bounds of a collection''s gates; what is null stays. Returns all of them: { edit_seconds, failed_share, index_recall, ndcg_drop, evaluation_hours }. RE004, RE005 on bad arguments.';

create function reembed.gate(gate text, figure jsonb, bound jsonb, passes boolean, why text) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('gate', gate, 'figure', figure, 'bound', bound, 'passes', coalesce(passes, false), 'why', why)
$$;
comment on function reembed.gate(text, jsonb, jsonb, boolean, text) is 'One gate as reembed.gates lists it.';

create function reembed.job_gates(v reembed.versions, c reembed.collections) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  -- One job holds the gate: how many there are beyond a thousand makes no difference, and is not worth the time under a lock.
  backfill constant bigint := (select count(*) from (select from reembed.jobs j where j.version_id = v.id and j.priority = 1 and j.failed_at is null limit 1000) few);
  waits constant numeric := round(extract(epoch from clock_timestamp() - reembed.oldest_edit(v.id)), 1);
begin
  return jsonb_build_array(
    reembed.gate('backfill', to_jsonb(backfill), to_jsonb(0), backfill = 0, case
      when backfill = 0 then 'no backfill job is left'
      else format('%s of its backfill jobs are not done', case when backfill = 1000 then 'a thousand or more' else backfill::text end) end),
    reembed.gate('edits', to_jsonb(waits), to_jsonb(c.gate_edit_seconds), waits is null or waits < c.gate_edit_seconds, case
      when waits is null then 'no edit waits'
      else format('its oldest edit waits since %s s', waits) end));
end
$$;
comment on function reembed.job_gates(reembed.versions, reembed.collections) is
  'The gates on a version''s jobs, which the cutover asks again under its lock: by a few lookups in the indexes of the jobs.';

create function reembed.gates(collection text, version int) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  active_number constant int := (select x.number from reembed.versions x where x.id = c.active_version);
  state constant text := reembed.state_of(v);
  failed constant bigint := (select count(*) from reembed.jobs j where j.version_id = v.id and j.failed_at is not null);
  -- One that failed is a row that is there.
  row_total constant bigint := greatest(failed, coalesce(reembed.table_rows(c), (select x.reltuples::bigint from pg_catalog.pg_class x where x.oid = c.source_table)), 1);
  failed_share constant numeric := round(failed::numeric / row_total, 6);
  ready_at constant timestamptz := (select max(e.at) from reembed.events e where e.collection = c.name and e.kind = 'ready' and e.version = v.number);
  ef_search_set_at constant timestamptz := (select max(e.at) from reembed.events e where e.collection = c.name and e.kind = 'set_ef_search' and e.version = v.number);
  e reembed.evaluations;
  is_evaluated boolean;
  hours numeric;
  unmeasured constant text := format('not measured: no evaluation compares v%s with v%s', v.number, active_number);
begin
  select * into e from reembed.evaluations x
   where x.candidate_version = v.id and x.baseline_version = c.active_version order by x.id desc limit 1;
  is_evaluated := found;
  hours := round(extract(epoch from clock_timestamp() - e.created_at) / 3600, 2);
  return jsonb_build_array(reembed.gate('state', to_jsonb(state), to_jsonb('ready'::text), state in ('ready', 'standby'),
      format('its state is %s%s', state, case when state in ('ready', 'standby') then '' else ', not ready' end)))
    || reembed.job_gates(v, c)
    || jsonb_build_array(
      reembed.gate('failed', to_jsonb(failed_share), to_jsonb(c.gate_failed_share), failed_share <= c.gate_failed_share, case
        when failed = 0 then 'no row failed' else format('%s of %s rows failed', failed, row_total) end),
      reembed.gate('evaluation', to_jsonb(hours), to_jsonb(c.gate_evaluation_hours),
        is_evaluated and hours < c.gate_evaluation_hours and e.created_at > all (array_remove(array[ready_at, ef_search_set_at], null)), case
          when not is_evaluated then format('no evaluation compares v%s with v%s, the active version', v.number, active_number)
          when e.created_at <= ready_at then 'its last evaluation was made before it became ready'
          when e.created_at <= ef_search_set_at then 'its last evaluation was made before its ef_search was set'
          else format('its last evaluation is %s h old', hours) end),
      reembed.gate('index_recall', to_jsonb(e.index_recall), to_jsonb(c.gate_index_recall),
        is_evaluated and (e.index_recall is null or e.index_recall >= c.gate_index_recall), case
          when not is_evaluated then unmeasured
          when e.index_recall is null then 'its searches read no index: they are exact'
          else format('its index finds %s of what an exact scan finds', round(e.index_recall::numeric, 4))
            || case when e.index_recall >= c.gate_index_recall then ''
                    else format('; with a greater ef_search (now %s) it finds more: reembed.set_ef_search', v.ef_search) end end),
      reembed.gate('index_used', to_jsonb(e.index_used), to_jsonb(true), is_evaluated and coalesce(e.index_used, true), case
        when not is_evaluated then unmeasured
        when e.index_used is null then 'its table is so small that no index is needed'
        when e.index_used then 'each search reads the index'
        else 'searches read the table instead of the index' end),
      reembed.gate('ndcg_drop', to_jsonb(e.ndcg_drop), to_jsonb(c.gate_ndcg_drop),
        is_evaluated and (e.ndcg_drop_low is null or e.ndcg_drop_low <= c.gate_ndcg_drop), case
          when not is_evaluated then unmeasured
          when e.ndcg_drop is null then 'no query was judged: quality is not known'
          else format('nDCG@10 falls by %s, of which the interval is %s to %s', round(e.ndcg_drop::numeric, 4), round(e.ndcg_drop_low::numeric, 4), round(e.ndcg_drop_high::numeric, 4)) end));
end
$$;
comment on function reembed.gates(text, int) is
  'What holds a cutover to this version or lets it pass: [{ gate, figure, bound, passes, why }] for state, backfill (jobs), edits (seconds the oldest waits), failed (share of rows), evaluation (hours since the last one against the active version), index_recall, index_used and ndcg_drop. A figure is null where there is nothing to measure; why says what that means. RE005, RE006: unknown.';

create function reembed.upkeep(collection text, version int) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  s reembed.spaces;
begin
  select * into strict s from reembed.spaces x where x.id = v.space_id;
  return jsonb_build_object('version', v.number, 'space', s.id, 'maintained', v.maintained,
      'unreachable', case
        when s.paused_until > clock_timestamp() then format('the space is paused%s', coalesce(': ' || s.pause_reason, ''))
        when s.provider = 'external' then 'its vectors come from elsewhere: no provider here makes them' end)
    || (select jsonb_build_object('jobs', count(*), 'oldest_seconds', extract(epoch from clock_timestamp() - min(j.enqueued_at))::bigint)
          from reembed.jobs j where j.version_id = v.id)
    || (select jsonb_build_object('tokens', coalesce(sum(u.tokens), 0), 'cost_usd', coalesce(sum(u.cost_usd), 0),
                                  'tokens_30_days', coalesce(sum(u.tokens) filter (where u.at > clock_timestamp() - interval '30 days'), 0),
                                  'cost_usd_30_days', coalesce(sum(u.cost_usd) filter (where u.at > clock_timestamp() - interval '30 days'), 0))
          from reembed.usage u where u.version_id = v.id and u.state <> 'reserved');
end
$$;
comment on function reembed.upkeep(text, int) is
  'How fresh a version is and what keeping it so costs: { version, space, maintained, unreachable: why nothing can be embedded in it now, or null; jobs: how many rows are stale, oldest_seconds, tokens, cost_usd, tokens_30_days, cost_usd_30_days }. RE005, RE006: unknown.';

-- The switch -----------------------------------------------------------------------------------------------------------------------------

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

create function reembed.switch_to(c reembed.collections, target int, kind text, actor text, reason text, detail jsonb) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  here reembed.collections;
  to_version reembed.versions;
  left_number constant int := (select v.number from reembed.versions v where v.id = c.active_version);
begin
  select * into here from reembed.collections x where x.id = c.id;
  if here.active_version is distinct from c.active_version then
    raise exception using errcode = 'RE009', message = format('another switch of %s was faster', c.name), hint = 'Nothing was changed. Look at reembed.events, then decide again.';
  end if;
  select * into strict to_version from reembed.versions v where v.id = target;
  if to_version.state = 'retired' or not to_version.maintained then
    perform reembed.refuse_step(to_version, kind, 'it is no longer maintained');
  end if;
  update reembed.collections x set active_version = target, traffic_version = null, traffic_percent = 0, traffic_since = null where x.id = c.id;
  insert into reembed.events (kind, collection, version, actor, reason, detail)
  values (switch_to.kind, c.name, to_version.number, coalesce(switch_to.actor, session_user), switch_to.reason, jsonb_build_object('from', left_number) || switch_to.detail
    || case when here.traffic_percent = 0 then '{}'::jsonb else jsonb_build_object('ended_traffic',
         jsonb_build_object('version', (select v.number from reembed.versions v where v.id = here.traffic_version), 'percent', here.traffic_percent)) end);
end
$$;
comment on function reembed.switch_to(reembed.collections, int, text, text, text, jsonb) is
  'The switch itself: one row and one event. It ends a canary in the same row. c is the collection as it was when the caller decided; RE009 when it was switched since. The caller holds its lock.';

create function reembed.switched(c reembed.collections, to_number int, kept jsonb, back jsonb) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('collection', c.name, 'from', kept -> 'version', 'to', to_number, 'stale', back -> 'jobs', 'oldest_seconds', back -> 'oldest_seconds', 'left', kept)
$$;
comment on function reembed.switched(reembed.collections, int, jsonb, jsonb) is 'What cutover and rollback return, made from the upkeep of the version left and of the one gone to.';

create function reembed.refuse_by_gates(c reembed.collections, v reembed.versions, gates jsonb) returns void
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from jsonb_array_elements(gates) g where not (g ->> 'passes')::boolean) then
    raise exception using errcode = 'RE007',
      message = format('version %s of %s cannot be made active: %s', v.number, c.name,
                       (select string_agg(g ->> 'why', '; ' order by n) from jsonb_array_elements(gates) with ordinality x(g, n) where not (g ->> 'passes')::boolean)),
      detail = (select string_agg(format('%s %s: %s (bound %s): %s', case when (g ->> 'passes')::boolean then 'passes' else 'holds' end,
                                         g ->> 'gate', coalesce(g ->> 'figure', '-'), g ->> 'bound', g ->> 'why'), E'\n' order by n)
                  from jsonb_array_elements(gates) with ordinality x(g, n)),
      hint = format('select reembed.gates(%L, %s) lists the gates; reembed evaluate makes an evaluation. Force, with a reason, overrules them.', c.name, v.number);
  end if;
end
$$;
comment on function reembed.refuse_by_gates(reembed.collections, reembed.versions, jsonb) is 'RE007 when a gate holds: the message says why, the detail lists every gate with its figure.';

create function reembed.cutover(collection text, version int, reason text default null, force boolean default false, actor text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v constant reembed.versions := reembed.version_numbered(collection, version);
  forced constant boolean := coalesce(force, false);
  -- What --force cannot overrule.
  obstacle constant text := case
    when v.state = 'retired' then 'it was finalized'
    when v.id = c.active_version then 'it is active already'
    when not v.maintained then 'it is not maintained: start loading it first'
    when v.enqueued_at is null then 'its existing rows are not all enqueued yet' end;
  gates jsonb;
  kept jsonb;
  back jsonb;
begin
  if obstacle is not null then
    raise exception using errcode = 'RE007', message = format('version %s of %s cannot be made active: %s', v.number, c.name, obstacle),
      hint = reembed.allowed_from(reembed.state_of(v));
  end if;
  if forced and coalesce(btrim(reason), '') = '' then
    raise exception using errcode = 'RE004', message = 'reason is empty: a forced cutover says why', hint = 'Pass a reason; it is written into reembed.events.';
  end if;
  gates := reembed.gates(c.name, v.number);
  if not forced then
    perform reembed.refuse_by_gates(c, v, gates);
  end if;
  kept := reembed.upkeep(c.name, (select x.number from reembed.versions x where x.id = c.active_version));
  back := reembed.upkeep(c.name, v.number);
  perform reembed.locked_collection(c.name);
  if not forced then
    perform reembed.refuse_by_gates(c, v, reembed.job_gates(v, c));
  end if;
  perform reembed.switch_to(c, v.id, 'cutover', actor, reason, jsonb_build_object('forced', forced, 'gates', gates));
  return reembed.switched(c, v.number, kept, back) || jsonb_build_object('forced', forced, 'gates', gates);
end
$$;
comment on function reembed.cutover(text, int, text, boolean, text) is
  'Makes a version the active one when its gates let it pass: one row and one event. Returns { collection, from, to, stale: jobs it still has, oldest_seconds, left: upkeep of the version left, which stays maintained, forced, gates }. RE007: a gate holds (force with a reason overrules it, and is written down with the figures), or the version is active, finalized or not loaded; RE009: somebody else is switching.';

create function reembed.rollback(collection text, reason text default null, actor text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  here constant int := (select v.number from reembed.versions v where v.id = c.active_version);
  back reembed.versions;
  kept jsonb;
  gone_to jsonb;
begin
  -- Cutovers of a collection of the same name that was removed are older than this one's versions.
  select v.* into back from reembed.events e
    join reembed.versions v on v.collection_id = c.id and v.number = (e.detail ->> 'from')::int
   where e.collection = c.name and e.kind = 'cutover' and e.version = here
     and e.id > coalesce((select max(a.id) from reembed.events a where a.collection = c.name and a.kind = 'add' and a.version = here), 0)
   order by e.id desc limit 1;
  if not found then
    raise exception using errcode = 'RE007', message = format('version %s of %s was not cut over to: there is nothing to roll back', here, c.name),
      hint = 'Use cutover to choose a version.';
  end if;
  if back.state = 'retired' then
    raise exception using errcode = 'RE007', message = format('version %s of %s was finalized: there is no way back to it', back.number, c.name),
      hint = 'Add a version in its space and load it.';
  end if;
  if not back.maintained then
    raise exception using errcode = 'RE007', message = format('version %s of %s is no longer maintained: its vectors are not current', back.number, c.name),
      hint = reembed.allowed_from(reembed.state_of(back));
  end if;
  kept := reembed.upkeep(c.name, here);
  gone_to := reembed.upkeep(c.name, back.number);
  perform reembed.locked_collection(c.name);
  perform reembed.switch_to(c, back.id, 'rollback', actor, reason, jsonb_build_object('stale', gone_to -> 'jobs'));
  return reembed.switched(c, back.number, kept, gone_to);
end
$$;
comment on function reembed.rollback(text, text, text) is
  'Makes active again the version that the last cutover left; no gate asks. Returns { collection, from, to, stale: jobs that version still has, 0 normally, oldest_seconds, left: upkeep of the version left }. RE007: there is no way back.';

revoke execute on all functions in schema reembed from public;
