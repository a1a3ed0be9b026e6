-- Where everything stands, in one call: what is current, what waits and since when, what failed and why, how fast it goes, what was spent.
-- Makes: status, and an index of the failed jobs that it reads instead of the jobs themselves.
-- Risks: none for existing data.
--
-- Exact with a million jobs, and fast: what is many is counted in an index alone, what is few is looked up, and the number of a large table's rows
-- follows from law 2. Nothing is counted in advance: a counter would be a row that every write of the application waits for.

create index jobs_failed_idx on reembed.jobs (version_id) where failed_at is not null;

create function reembed.first_jobs(version_id int) returns bigint
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  are_few constant boolean := (select count(*) < 10000 from (select from reembed.jobs j where j.version_id = version_id limit 10000) few);
  found_jobs bigint;
begin
  -- Few are looked up one by one; of many, both tables' keys are read in their order. The planner cannot choose: of a version's jobs it knows nothing.
  if are_few then
    select count(*) into found_jobs from reembed.jobs j
     where j.version_id = version_id and not exists (select from reembed.records r where r.version_id = version_id and r.row_id = j.row_id offset 0);
  else
    select count(*) into found_jobs from reembed.jobs j
     where j.version_id = version_id and not exists (select from reembed.records r where r.version_id = version_id and r.row_id = j.row_id);
  end if;
  return found_jobs;
end
$$;
comment on function reembed.first_jobs(int) is 'How many of a version''s jobs, failed ones included, are of rows that have no record yet.';

create function reembed.version_jobs(version_id int, at timestamptz) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object(
    'edits', (select count(*) from reembed.jobs j where j.version_id = version_jobs.version_id and j.priority = 0 and j.failed_at is null),
    'backfill', (select count(*) from reembed.jobs j where j.version_id = version_jobs.version_id and j.priority = 1 and j.failed_at is null),
    -- A claim sets run_at to the end of its lease.
    'leased', (select count(*) from reembed.jobs j
                where j.version_id = version_jobs.version_id and j.priority in (0, 1) and j.failed_at is null and j.run_at > version_jobs.at and j.lease_until > version_jobs.at),
    'failed', f.failed, 'reasons', f.reasons,
    'oldest_edit_seconds', extract(epoch from version_jobs.at - reembed.oldest_edit(version_jobs.version_id))::bigint,
    'oldest_backfill_seconds', (select extract(epoch from version_jobs.at - min(j.enqueued_at))::bigint
                                  from reembed.jobs j where j.version_id = version_jobs.version_id and j.priority = 1 and j.failed_at is null))
  from (select coalesce(sum(x.rows), 0) as failed,
               coalesce(jsonb_agg(jsonb_build_object('error', x.error, 'rows', x.rows) order by x.place) filter (where x.place <= 5), '[]') as reasons
          from (select coalesce(j.error, 'unknown') as error, count(*) as rows,
                       row_number() over (order by count(*) desc, coalesce(j.error, 'unknown')) as place
                  from reembed.jobs j where j.version_id = version_jobs.version_id and j.failed_at is not null group by 1) x) f
$$;
comment on function reembed.version_jobs(int, timestamptz) is
  'A version''s jobs as they are at that time: { edits, backfill: pending; leased; failed, reasons: the five commonest; oldest_edit_seconds, oldest_backfill_seconds: null where none waits }.';

create function reembed.table_rows(c reembed.collections) returns bigint
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  estimate bigint;
  counted bigint;
  v reembed.versions;
begin
  select greatest(x.reltuples, 0)::bigint into estimate from pg_catalog.pg_class x where x.oid = c.source_table;
  if estimate < 10000 then
    execute format('select count(*) from %s', c.source_table) into counted;
    return counted;
  end if;
  -- By law 2 every row has a record or a job. The version with the fewest jobs tells soonest, without reading the table, which may be wide.
  select x.* into v from reembed.versions x
   where x.collection_id = c.id and x.maintained and x.enqueued_at is not null and reembed.is_intact(x)
   order by (select count(*) from (select from reembed.jobs j where j.version_id = x.id limit 10000) few), x.number limit 1;
  if not found then
    return null;
  end if;
  return (select count(*) from reembed.records r where r.version_id = v.id) + reembed.first_jobs(v.id);
end
$$;
comment on function reembed.table_rows(reembed.collections) is
  'How many rows a collection has, exactly; null where only reading all of a large table could tell: it has ten thousand rows and no maintained version, or is gone.';

create function reembed.recent_rate(version_id int, at timestamptz) returns double precision
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select sum(u.inputs - u.stale)
       / greatest(1, extract(epoch from recent_rate.at - min(u.at - make_interval(secs => coalesce(u.latency_ms, 0) / 1000.0))))::double precision
    from reembed.usage u
   where u.version_id = recent_rate.version_id and u.at > recent_rate.at - interval '1 minute' and u.state = 'settled' and u.outcome = 'ok' and u.lane = 'sync'
$$;
comment on function reembed.recent_rate(int, timestamptz) is
  'Texts a second that were bought and stored for a version in the minute before, by the ledger, from when the first of their requests was sent; null where there was none.';

create function reembed.version_status(v reembed.versions, c reembed.collections, row_total bigint, is_exact boolean, at timestamptz) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  j constant jsonb := reembed.version_jobs(v.id, version_status.at);
  edits constant bigint := (j ->> 'edits')::bigint;
  backfill constant bigint := (j ->> 'backfill')::bigint;
  failed constant bigint := (j ->> 'failed')::bigint;
  jobs constant bigint := edits + backfill + failed;
  is_lawful constant boolean := v.maintained and v.enqueued_at is not null and reembed.is_intact(v) and is_exact;
  recorded bigint;
  per_second constant double precision := reembed.recent_rate(v.id, version_status.at);
begin
  -- Every row has a record or a job, by law 2, and then the few tell of the many. What the law does not count yet is counted.
  if is_lawful and jobs < 10000 then
    recorded := row_total - reembed.first_jobs(v.id);
  else
    select count(*) into recorded from reembed.records r where r.version_id = v.id;
  end if;
  return jsonb_build_object(
    'version', v.number, 'space', v.space_id, 'state', reembed.state_of(v), 'active', v.id = c.active_version, 'maintained', v.maintained,
    'current', greatest(0, case when is_lawful then row_total - jobs else recorded - jobs + reembed.first_jobs(v.id) end),
    'coverage', case when not v.maintained or not reembed.is_intact(v) then 0 when row_total = 0 then 1
                     else least(1, recorded::double precision / row_total) end,
    'pending', edits + backfill, 'pending_edits', edits, 'leased', j -> 'leased', 'failed', failed, 'reasons', j -> 'reasons',
    'oldest_edit_seconds', j -> 'oldest_edit_seconds', 'oldest_backfill_seconds', j -> 'oldest_backfill_seconds',
    'rows_per_second', coalesce(per_second, 0), 'eta_seconds', case when edits + backfill = 0 then 0 else ceil((edits + backfill) / nullif(per_second, 0)) end,
    'budget', reembed.out_of_budget(v), 'index', reembed.index_state(v))
    || (select jsonb_build_object(
          'tokens', coalesce(sum(u.tokens) filter (where u.state <> 'reserved'), 0),
          'cost_usd', coalesce(sum(u.cost_usd) filter (where u.state <> 'reserved'), 0),
          'tokens_reserved', coalesce(sum(u.tokens) filter (where u.state = 'reserved'), 0),
          'cost_usd_reserved', coalesce(sum(u.cost_usd) filter (where u.state = 'reserved'), 0))
          from reembed.usage u where u.version_id = v.id);
end
$$;
comment on function reembed.version_status(reembed.versions, reembed.collections, bigint, boolean, timestamptz) is
  'What status() says of one version, given how many rows its collection has, exactly or by the planner''s estimate.';

create function reembed.space_status(s reembed.spaces, at timestamptz) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('space', s.id,
    'paused', case when s.paused_until > space_status.at then coalesce(s.pause_reason, '') end,
    'paused_until', case when s.paused_until > space_status.at then s.paused_until end,
    'waits_until', case when s.waits_until > space_status.at then s.waits_until end, 'refusals', s.refusals,
    'in_flight', (select count(*) from reembed.usage u
                   where u.space_id = s.id and u.state = 'reserved' and u.purpose = 'document' and u.lease_until > space_status.at),
    'max_in_flight', floor(s.max_in_flight), 'tokens_per_minute', s.tokens_per_minute, 'requests_per_minute', s.requests_per_minute)
$$;
comment on function reembed.space_status(reembed.spaces, timestamptz) is
  'The state of a space''s provider: { space, paused: the reason, or null; paused_until, waits_until: no claim before, for its rate; refusals: for the rate, in a row; in_flight, max_in_flight: requests; tokens_per_minute, requests_per_minute: what it last said it allows }.';

create function reembed.status(collection text default null) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  only_one constant text := case when collection is not null then (reembed.collection_named(collection)).name end;
  c reembed.collections;
  at constant timestamptz := clock_timestamp();
  exact_rows bigint;
  row_total bigint;
  collection_list jsonb := '[]'::jsonb;
begin
  for c in select * from reembed.collections x where only_one is null or x.name = only_one order by x.name loop
    exact_rows := reembed.table_rows(c);
    row_total := coalesce(exact_rows, (select greatest(x.reltuples, 0)::bigint from pg_catalog.pg_class x where x.oid = c.source_table), 0);
    collection_list := collection_list || jsonb_build_object(
      'collection', c.name, 'table', c.source_table::text, 'rows', row_total, 'rows_estimated', exact_rows is null,
      'versions', (select coalesce(jsonb_agg(reembed.version_status(v, c, row_total, exact_rows is not null, at) order by v.number), '[]')
                     from reembed.versions v where v.collection_id = c.id));
  end loop;
  return jsonb_build_object('collections', collection_list,
    'spaces', (select coalesce(jsonb_agg(reembed.space_status(s, at) order by s.id), '[]')
                 from reembed.spaces s
                where exists (select from reembed.versions v join reembed.collections x on x.id = v.collection_id
                               where v.space_id = s.id and v.state <> 'retired' and (only_one is null or x.name = only_one))),
    'budgets', (select coalesce(jsonb_agg(reembed.budget_state(b) order by b.scope, b.period), '[]') from reembed.budgets b
                 where only_one is null or b.scope in ('all', 'queries', only_one)),
    'queries', (select jsonb_build_object('requests', count(*), 'tokens', coalesce(sum(y.tokens), 0), 'cost_usd', coalesce(sum(y.cost_usd), 0))
                  from reembed.usage y where y.purpose = 'query')
            || (select jsonb_build_object('cached', count(*), 'hits', coalesce(sum(q.hits), 0)) from reembed.query_cache q),
    'completions', (select coalesce(jsonb_agg(to_jsonb(y) order by y.model, y.purpose), '[]')
                      from (select l.model_id as model, l.purpose, count(*) filter (where l.state <> 'reserved') as requests,
                                   coalesce(sum(l.input_tokens) filter (where l.state <> 'reserved'), 0) as input_tokens,
                                   coalesce(sum(l.output_tokens) filter (where l.state <> 'reserved'), 0) as output_tokens,
                                   coalesce(sum(l.cost_usd) filter (where l.state <> 'reserved'), 0) as cost_usd,
                                   coalesce(sum(l.cost_usd) filter (where l.state = 'reserved'), 0) as cost_usd_reserved
                              from reembed.completions l group by l.model_id, l.purpose) y));
end
$$;
comment on function reembed.status(text) is
  'Where everything stands, or one collection with its spaces and the budgets that it counts against (queries and completions are those of all): { collections: [{ collection, table, rows, rows_estimated, versions: [{ version, space, state, active, maintained, current: rows without a job, coverage, pending, pending_edits, leased, failed, reasons: [{ error, rows }], oldest_edit_seconds, oldest_backfill_seconds, rows_per_second, eta_seconds: null while nothing moves, budget: the exhausted one (budget_state), index: index_state, tokens, cost_usd, tokens_reserved, cost_usd_reserved }] }], spaces: [space_status], budgets: [budget_state], queries: { requests, tokens, cost_usd, cached, hits: of those that are cached }, completions: [{ model, purpose, requests, input_tokens, output_tokens, cost_usd, cost_usd_reserved }] }. Counted, not estimated, but for the rows of a large table without a maintained version. RE005: there is no such collection.';

revoke execute on all functions in schema reembed from public;
