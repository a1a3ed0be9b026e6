-- Where everything stands, in one call: what is current, what waits and why, what was spent.
-- Makes: status().
-- Risks: none; it reads.

create function reembed.status() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  row_total bigint;
  is_estimate boolean;
  version_list jsonb;
  collection_list jsonb := '[]'::jsonb;
begin
  for c in select * from reembed.collections x order by x.name loop
    select greatest(x.reltuples, 0)::bigint into row_total from pg_catalog.pg_class x where x.oid = c.source_table;
    -- Null where the table was dropped.
    is_estimate := coalesce(row_total >= 10000, true);
    if not is_estimate then
      execute format('select count(*) from %s', c.source_table) into row_total;
    end if;
    select coalesce(jsonb_agg(jsonb_build_object(
             'version', v.number, 'space', v.space_id, 'state', v.state, 'active', v.id = c.active_version, 'maintained', v.maintained,
             'current', (select count(*) from reembed.records r where r.version_id = v.id) - j.with_record, 'coverage', reembed.coverage(v),
             'pending', j.pending, 'leased', j.leased, 'failed', j.failed,
             'oldest_seconds', extract(epoch from clock_timestamp() - j.oldest)::bigint, 'reasons', e.reasons,
             'tokens', u.tokens, 'cost_usd', u.cost_usd, 'tokens_reserved', u.tokens_reserved, 'cost_usd_reserved', u.cost_usd_reserved,
             'paused', case when s.paused_until > clock_timestamp() then coalesce(s.pause_reason, '') end,
             'paused_until', case when s.paused_until > clock_timestamp() then s.paused_until end) order by v.number), '[]')
      into version_list
      from reembed.versions v
      join reembed.spaces s on s.id = v.space_id
      cross join lateral (
        select count(*) filter (where q.failed_at is null) as pending,
               count(*) filter (where q.lease_until > clock_timestamp()) as leased,
               count(*) filter (where q.failed_at is not null) as failed,
               min(q.enqueued_at) filter (where q.failed_at is null) as oldest,
               count(r.row_id) as with_record
          from reembed.jobs q left join reembed.records r on r.version_id = q.version_id and r.row_id = q.row_id
         where q.version_id = v.id) j
      cross join lateral (
        select coalesce(jsonb_agg(jsonb_build_object('error', x.error, 'rows', x.rows) order by x.rows desc, x.error), '[]') as reasons
          from (select coalesce(q.error, 'unknown') as error, count(*) as rows from reembed.jobs q
                 where q.version_id = v.id and q.failed_at is not null group by 1 order by 2 desc, 1 limit 5) x) e
      cross join lateral (
        select coalesce(sum(y.tokens) filter (where y.state <> 'reserved'), 0) as tokens,
               coalesce(sum(y.cost_usd) filter (where y.state <> 'reserved'), 0) as cost_usd,
               coalesce(sum(y.tokens) filter (where y.state = 'reserved'), 0) as tokens_reserved,
               coalesce(sum(y.cost_usd) filter (where y.state = 'reserved'), 0) as cost_usd_reserved
          from reembed.usage y where y.version_id = v.id) u
     where v.collection_id = c.id;
    collection_list := collection_list || jsonb_build_object(
      'collection', c.name, 'table', c.source_table::text, 'rows', coalesce(row_total, 0), 'rows_estimated', is_estimate, 'versions', version_list);
  end loop;
  return jsonb_build_object('collections', collection_list,
    'budgets', (select coalesce(jsonb_agg(reembed.budget_state(b) order by b.scope, b.period), '[]') from reembed.budgets b),
    'queries', (select jsonb_build_object('requests', count(*), 'tokens', coalesce(sum(y.tokens), 0), 'cost_usd', coalesce(sum(y.cost_usd), 0))
                  from reembed.usage y where y.purpose = 'query')
            || (select jsonb_build_object('cached', count(*), 'hits', coalesce(sum(q.hits), 0)) from reembed.query_cache q));
end
$$;
comment on function reembed.status() is
  'Where everything stands: { collections: [{ collection, table, rows, rows_estimated, versions: [{ version, space, state, active, maintained, current, coverage, pending, leased, failed, oldest_seconds, reasons: [{ error, rows }], tokens, cost_usd, tokens_reserved, cost_usd_reserved, paused, paused_until }] }], budgets: [budget_state], queries: { requests, tokens, cost_usd, cached, hits: of those that are cached } }. current: rows with a record and no job. One pass over jobs and records; above ten thousand rows their number is the planner''s estimate.';

revoke execute on all functions in schema reembed from public;
