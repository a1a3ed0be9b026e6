-- A share of the callers tries a version before everybody does, and a rule that calls it off.
-- Makes: the rule's bounds on reembed.collections with set_traffic_rule, reembed.search_samples and reembed.search_minutes, set_traffic, count_search
-- and its door for service_role, roll_up_searches, traffic, apply_traffic_rule. embedding_route does the routing.
-- Risks: none until set_traffic gives a version a share. While it does, `search` appends one small row for each search of a caller that it can tell from
-- others, after it has answered; every twentieth of these rolls them up into minutes, which are kept for two days.
--
-- Nothing here says who searched or for what: a caller is a number from 0 to 99, which is not stored either.

alter table reembed.collections
  add column traffic_factor double precision not null default 2 check (traffic_factor between 1 and 100),
  add column traffic_min_searches int not null default 100 check (traffic_min_searches between 10 and 1000000),
  add column traffic_window_minutes int not null default 60 check (traffic_window_minutes between 1 and 1440);
comment on column reembed.collections.traffic_factor is 'How many times the active version''s empty answers and p95 of latency a canary may have.';
comment on column reembed.collections.traffic_min_searches is 'A canary is judged once it and the active version have answered so many searches.';
comment on column reembed.collections.traffic_window_minutes is 'A canary is judged by the searches of so many minutes.';

create table reembed.search_samples (
  id bigint generated always as identity primary key,
  version_id int not null references reembed.versions (id) on delete cascade,
  at timestamptz not null default clock_timestamp(),
  empty boolean not null,
  latency_ms real check (latency_ms >= 0)
);
comment on table reembed.search_samples is 'One search a row, appended and not yet rolled up: no row that many searches would wait for.';
comment on column reembed.search_samples.empty is 'No row came back by meaning: nothing was found, the search failed, or words had to answer because the provider could not.';
comment on column reembed.search_samples.latency_ms is
  'How long the version''s RPC took, as search saw it; null where it was not reached. The query''s embedding is not in it: a new space''s cache of queries is cold.';
create index search_samples_version_idx on reembed.search_samples (version_id);
alter table reembed.search_samples enable row level security;

create table reembed.search_minutes (
  version_id int not null references reembed.versions (id) on delete cascade,
  minute timestamptz not null,
  latency int check (latency between 0 and 64),
  searches bigint not null check (searches > 0),
  empty bigint not null check (empty between 0 and searches),
  unique nulls not distinct (version_id, minute, latency)
);
comment on table reembed.search_minutes is 'Searches of a version, a minute and a step of latency: what search_samples are rolled up into.';
comment on column reembed.search_minutes.latency is 'latency_step of the searches; null where the RPC was not reached.';
alter table reembed.search_minutes enable row level security;

-- A canary ---------------------------------------------------------------------------------------------------------------------------------

create function reembed.set_traffic(collection text, version int, percent int, reason text default null, actor text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  v reembed.versions := reembed.version_numbered(collection, version);
  c reembed.collections;
  percent_before int;
begin
  perform reembed.check_range('percent', percent, 0, 100);
  begin
    -- In this order, as whoever abandons or finalizes it takes them.
    select * into strict v from reembed.versions x where x.id = v.id for share;
  exception when lock_not_available then
    raise exception using errcode = 'RE009', message = format('version %s of %s is changing its state', v.number, collection), hint = 'Nothing was changed. Run the same again.';
  end;
  c := reembed.locked_collection(collection);
  percent_before := case when c.traffic_version = v.id then c.traffic_percent else 0 end;
  if percent > 0 then
    if v.id = c.active_version then
      perform reembed.refuse_step(v, 'set_traffic', 'it is the active version');
    end if;
    if not reembed.takes_traffic(v) then
      perform reembed.refuse_step(v, 'set_traffic');
    end if;
    if c.traffic_version <> v.id then
      perform reembed.refuse_step(v, 'set_traffic',
        format('version %s has a share of the callers: set it to 0 first', (select x.number from reembed.versions x where x.id = c.traffic_version)));
    end if;
  end if;
  if percent <> percent_before then
    update reembed.collections x
       set traffic_version = case when percent > 0 then v.id end, traffic_percent = set_traffic.percent,
           traffic_since = case when percent > 0 then clock_timestamp() end
     where x.id = c.id;
    insert into reembed.events (kind, collection, version, actor, reason, detail)
    values ('traffic', c.name, v.number, coalesce(set_traffic.actor, session_user), set_traffic.reason, jsonb_build_object('percent', percent, 'from', percent_before));
  end if;
  return reembed.traffic(c.name);
end
$$;
comment on function reembed.set_traffic(text, int, int, text, text) is
  'Lets a version that is ready answer the searches by text of percent (0 to 100) of the callers; 0 ends it. Growing percent only adds callers. Returns reembed.traffic. RE004, RE005, RE006: bad arguments; RE007: it is active, not ready, or another version has a share; RE009: somebody is switching; RE010: it was finalized.';

create function reembed.set_traffic_rule(
  collection text, factor double precision default null, min_searches int default null, window_minutes int default null, reason text default null, actor text default null
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  rule jsonb;
begin
  perform reembed.check_range('factor', coalesce(factor, c.traffic_factor)::numeric, 1, 100);
  perform reembed.check_range('min_searches', coalesce(min_searches, c.traffic_min_searches), 10, 1000000);
  perform reembed.check_range('window_minutes', coalesce(window_minutes, c.traffic_window_minutes), 1, 1440);
  update reembed.collections x
     set traffic_factor = coalesce(set_traffic_rule.factor, x.traffic_factor), traffic_min_searches = coalesce(set_traffic_rule.min_searches, x.traffic_min_searches),
         traffic_window_minutes = coalesce(set_traffic_rule.window_minutes, x.traffic_window_minutes)
   where x.id = c.id
  returning jsonb_build_object('factor', x.traffic_factor, 'min_searches', x.traffic_min_searches, 'window_minutes', x.traffic_window_minutes) into rule;
  insert into reembed.events (kind, collection, actor, reason, detail)
  values ('set_traffic_rule', c.name, coalesce(set_traffic_rule.actor, session_user), set_traffic_rule.reason, rule);
  return rule;
end
$$;
comment on function reembed.set_traffic_rule(text, double precision, int, int, text, text) is
  'Changes the rule that calls off a canary; what is null stays. factor (1 to 100): how many times the active version''s empty answers or p95; min_searches (10 to 1,000,000): of each version before it is judged; window_minutes (1 to 1440): how far back. Returns all three. RE004, RE005 on bad arguments.';

-- Counting ---------------------------------------------------------------------------------------------------------------------------------

create function reembed.latency_step(latency_ms double precision) returns int
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when latency_ms is not null then least(64, ceil(4 * ln(greatest(latency_ms, 1)) / ln(2.0::double precision)))::int end
$$;
comment on function reembed.latency_step(double precision) is
  'The step of a latency: step n ends at 2^(n/4) ms, so that steps are 19 % wide, from 0 (1 ms and less) to 64 (65 s and more).';

create function reembed.sweep_search_minutes() returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  swept bigint;
begin
  delete from reembed.search_minutes m where m.minute < clock_timestamp() - interval '2 days';
  get diagnostics swept = row_count;
  return swept;
end
$$;
comment on function reembed.sweep_search_minutes() is 'Deletes the minutes of more than two days ago, twice what any rule looks at; returns how many rows.';

create function reembed.roll_up_searches(max_rows int default 10000) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  rolled bigint;
begin
  perform reembed.check_range('max_rows', max_rows, 1, 1000000);
  -- One at a time, and nobody waits: what this one leaves the next one takes.
  if not pg_try_advisory_xact_lock(hashtextextended('reembed.roll_up_searches', 0)) then
    return null;
  end if;
  with taken as (
    delete from reembed.search_samples s
     where s.id in (select o.id from reembed.search_samples o order by o.id limit max_rows for update skip locked)
    returning s.version_id, date_trunc('minute', s.at) as minute, reembed.latency_step(s.latency_ms) as latency, s.empty
  ), summed as (
    insert into reembed.search_minutes as m (version_id, minute, latency, searches, empty)
    select t.version_id, t.minute, t.latency, count(*), count(*) filter (where t.empty) from taken t group by 1, 2, 3
    on conflict (version_id, minute, latency) do update set searches = m.searches + excluded.searches, empty = m.empty + excluded.empty
  )
  select count(*) into rolled from taken;
  -- Now and then: an hour of minutes more makes no difference.
  if random() < 0.01 then
    perform reembed.sweep_search_minutes();
  end if;
  return rolled;
end
$$;
comment on function reembed.roll_up_searches(int) is
  'Moves at most max_rows samples of searches into minutes and returns how many; null when another session is doing it. Now and then sweep_search_minutes tidies.';

create function reembed.count_search(collection text, version int, empty boolean, latency_ms double precision default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  sample_id bigint;
begin
  if empty is null then
    raise exception using errcode = 'RE004', message = 'empty is null', hint = 'Pass true or false.';
  end if;
  if latency_ms is not null then
    perform reembed.check_range('latency_ms', latency_ms::numeric, 0, 3600000);
  end if;
  insert into reembed.search_samples as s (version_id, empty, latency_ms) values (v.id, count_search.empty, count_search.latency_ms) returning s.id into sample_id;
  if sample_id % 20 = 0 and reembed.roll_up_searches() is not null then
    perform reembed.apply_traffic_rule();
  end if;
end
$$;
comment on function reembed.count_search(text, int, boolean, double precision) is
  'Appends one search that a version answered. empty: no row came by meaning; latency_ms: its RPC''s, null where that was not reached. Every twentieth call rolls up and applies the rule to every canary. RE004, RE005, RE006 on bad arguments.';

create function public.reembed_count_search(collection text, version int, empty boolean, latency_ms double precision default null) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.count_search(collection, version, empty, latency_ms) $$;
revoke execute on function public.reembed_count_search(text, int, boolean, double precision) from public, anon, authenticated;
grant execute on function public.reembed_count_search(text, int, boolean, double precision) to service_role;
comment on function public.reembed_count_search(text, int, boolean, double precision) is 'For service_role: reembed.count_search, which documents it.';

create function reembed.search_figures(v reembed.versions, since timestamptz) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  with counted as (
    select m.latency, m.searches, m.empty from reembed.search_minutes m where m.version_id = v.id and m.minute >= date_trunc('minute', since)
    union all
    select reembed.latency_step(s.latency_ms), 1, s.empty::int from reembed.search_samples s where s.version_id = v.id and s.at >= date_trunc('minute', since)
  ), steps as (
    select round(power(2::numeric, g.latency / 4.0), 1) as ends_at, sum(g.searches) over (order by g.latency) as up_to, sum(g.searches) over () as measured
      from (select k.latency, sum(k.searches) as searches from counted k where k.latency is not null group by k.latency) g
  )
  select jsonb_build_object('version', v.number, 'searches', coalesce(sum(k.searches), 0), 'empty', coalesce(sum(k.empty), 0),
      'empty_share', round(sum(k.empty) / sum(k.searches), 4),
      'p50_ms', (select min(t.ends_at) from steps t where t.up_to >= 0.5 * t.measured),
      'p95_ms', (select min(t.ends_at) from steps t where t.up_to >= 0.95 * t.measured))
    from counted k
$$;
comment on function reembed.search_figures(reembed.versions, timestamptz) is
  'What was counted of a version since the beginning of that minute, rolled up or not: { version, searches, empty, empty_share, p50_ms, p95_ms }. Counts are exact, latencies the ends of their steps (19 % wide); what is not known is null.';

-- The rule ---------------------------------------------------------------------------------------------------------------------------------

create function reembed.traffic_verdict(factor double precision, min_searches int, old jsonb, new jsonb) returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  old_searches constant double precision := (old ->> 'searches')::double precision;
  new_searches constant double precision := (new ->> 'searches')::double precision;
  new_empty constant double precision := (new ->> 'empty')::double precision;
  -- What the old version would have left empty of as many searches.
  ratio constant double precision := new_searches / nullif(old_searches, 0);
  old_empty constant double precision := (old ->> 'empty')::double precision * ratio;
  old_p95 constant double precision := (old ->> 'p95_ms')::double precision;
  new_p95 constant double precision := (new ->> 'p95_ms')::double precision;
begin
  if least(old_searches, new_searches) < min_searches then
    return jsonb_build_object('verdict', 'waiting', 'why', format('%s searches in version %s and %s in version %s: each needs %s before the rule looks',
      old_searches, old ->> 'version', new_searches, new ->> 'version', min_searches));
  end if;
  -- Beyond the factor, and by three standard deviations of the difference of two counts: a few searches more or less are chance.
  if new_empty - factor * old_empty > 3 * sqrt(new_empty + factor * factor * old_empty * ratio) then
    return jsonb_build_object('verdict', 'beyond', 'why', format('version %s left %s of %s searches empty, version %s %s of %s: more than %s times as many',
      new ->> 'version', new_empty, new_searches, old ->> 'version', old ->> 'empty', old_searches, factor));
  end if;
  -- What stays below ten milliseconds times the factor is felt by nobody.
  if new_p95 > factor * greatest(old_p95, 10) then
    return jsonb_build_object('verdict', 'beyond', 'why', format('the p95 of version %s is %s ms, that of version %s %s ms: more than %s times as long',
      new ->> 'version', new_p95, old ->> 'version', old_p95, factor));
  end if;
  return jsonb_build_object('verdict', 'within', 'why', format('version %s is within %s times the figures of version %s', new ->> 'version', factor, old ->> 'version'));
end
$$;
comment on function reembed.traffic_verdict(double precision, int, jsonb, jsonb) is
  'What the rule says of a new version''s figures against the old one''s, both as search_figures gives them: { verdict: waiting, within or beyond, why }.';

create function reembed.traffic(collection text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  report constant jsonb := jsonb_build_object('collection', c.name, 'percent', c.traffic_percent,
    'rule', jsonb_build_object('factor', c.traffic_factor, 'min_searches', c.traffic_min_searches, 'window_minutes', c.traffic_window_minutes));
  since constant timestamptz := greatest(c.traffic_since, clock_timestamp() - make_interval(mins => c.traffic_window_minutes));
  candidate reembed.versions;
  old_figures jsonb;
  new_figures jsonb;
begin
  if c.traffic_percent = 0 then
    return report || jsonb_build_object('version', null, 'since', null, 'versions', '[]'::jsonb, 'verdict', 'off',
      'why', coalesce((select format('version %s had %s %% of the callers until %s UTC%s', e.version, e.detail ->> 'from', to_char(e.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), ': ' || e.reason)
                         from (select x.* from reembed.events x where x.collection = c.name and x.kind = 'traffic' order by x.id desc limit 1) e
                        where (e.detail ->> 'percent')::int = 0), 'every search is answered by the active version'));
  end if;
  select * into strict candidate from reembed.versions v where v.id = c.traffic_version;
  select reembed.search_figures(v, since) into strict old_figures from reembed.versions v where v.id = c.active_version;
  new_figures := reembed.search_figures(candidate, since);
  return report || jsonb_build_object('version', candidate.number, 'since', since, 'versions', jsonb_build_array(old_figures, new_figures))
    || case when reembed.takes_traffic(candidate) then reembed.traffic_verdict(c.traffic_factor, c.traffic_min_searches, old_figures, new_figures)
            else jsonb_build_object('verdict', 'resting',
              'why', format('version %s is %s: every search is answered by the active version until it is ready again', candidate.number, reembed.state_of(candidate))) end;
end
$$;
comment on function reembed.traffic(text) is
  'The canary of a collection: { collection, version, percent, since, rule: { factor, min_searches, window_minutes }, versions: search_figures of the active version and of the canary, verdict: off, waiting, within, beyond or resting, why }. RE005: unknown.';

create function reembed.apply_traffic_rule() returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  report jsonb;
  ended int := 0;
begin
  for c in select x.* from reembed.collections x where x.traffic_percent > 0 order by x.id loop
    report := reembed.traffic(c.name);
    if report ->> 'verdict' = 'beyond' then
      -- Whoever holds the row is switching or setting it this moment: then the figures are no longer the question.
      perform from reembed.collections x where x.id = c.id and (x.traffic_version, x.traffic_since) = (c.traffic_version, c.traffic_since) for no key update skip locked;
      if found then
        update reembed.collections x set traffic_version = null, traffic_percent = 0, traffic_since = null where x.id = c.id;
        insert into reembed.events (kind, collection, version, actor, reason, detail)
        values ('traffic', c.name, (report ->> 'version')::int, 'rule', report ->> 'why',
                jsonb_build_object('percent', 0, 'from', c.traffic_percent, 'rule', report -> 'rule', 'versions', report -> 'versions'));
        ended := ended + 1;
      end if;
    end if;
  end loop;
  return ended;
end
$$;
comment on function reembed.apply_traffic_rule() is
  'Ends every canary that the rule finds beyond its bounds: its share becomes 0, and an event of the actor rule says why, with the figures. Returns how many.';

revoke execute on all functions in schema reembed from public;
