-- A text that has a stored vector in a version is copied there, not bought again (law 5).
-- Makes: an index on the records' hashes, donor_of(), copy() with its door for service_role, and reserve_jobs(), by which a claim buys the rest.
-- Risks: none for existing data; a copy writes vectors as a complete does, by the same function.
--
-- The claim only finds out which of its jobs can be copied and leases them; the copying is a call of its own. It writes the collection's rows
-- and its vector index, which takes longer than the claim may hold the space's row, and it must follow every rule of complete, so it is one.

create index records_content_idx on reembed.records (version_id, content_hash) where skipped is null;

create function reembed.donor_of(v reembed.versions, hash text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- A row with a job proves nothing: where rows exchanged keys in one statement, its record tells of another row's vector.
  -- The records first, by their index (offset 0), whatever the statistics hold of a version whose records are new.
  select format('(select %1$s as vector, r.truncated
                    from (select * from reembed.records x where x.version_id = %3$s and x.content_hash = %4$s and x.skipped is null offset 0) r, %2$s
                   where %5$s and %6$s
                     and case when exists (select from reembed.jobs j where j.version_id = %3$s and j.row_id = r.row_id) then false else %7$s end limit 1)',
                reembed.vector_of(v), reembed.rows_of(v), v.id, hash, reembed.key_match(c, c.key_columns, 't', 'r.row_id'),
                case when c.long_text = 'fail' then 'not r.truncated' else 'true' end, reembed.current_condition(v, reembed.input_hash(v, 't')))
  from reembed.collections c where c.id = v.collection_id
$$;
comment on function reembed.donor_of(reembed.versions, text) is
  'SQL text of a FROM item: the stored vector of a current row whose text has the hash in the SQL expression `hash`. Record and vector change together, so what one statement reads of both belongs together, whatever becomes of the row.';

create function reembed.copyable_hashes(v reembed.versions, hashes bytea[]) returns bytea[]
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  copyable bytea[];
begin
  execute format('select coalesce(array_agg(u.hash), ''{}'') from (select distinct h as hash from unnest($1) h) u where exists %s', reembed.donor_of(v, 'u.hash'))
    into copyable using hashes;
  return copyable;
exception when others then
  -- A stored row's text cannot be read any more: a change that fired no trigger. What cannot be copied is bought.
  return array[]::bytea[];
end
$$;
comment on function reembed.copyable_hashes(reembed.versions, bytea[]) is 'Those of the hashes whose text has a stored vector in the version.';

create function reembed.copy(version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], wait boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  found_ids text[];
  found_hashes text[];
  found_vectors text[];
  found_truncated boolean[];
begin
  if cardinality(row_ids) is distinct from cardinality(hashes) then
    raise exception using errcode = 'RE004', message = 'row_ids and hashes must have the same length', hint = 'One element a row in each.';
  end if;
  select * into v from reembed.versions x where x.id = copy.version_id;
  if not found then
    raise exception using errcode = 'RE006', message = format('version_id %s is unknown', coalesce(copy.version_id::text, 'null')), hint = 'Pass the version_id that the claim returned.';
  end if;
  -- As in complete; until here nothing is held.
  perform set_config('lock_timeout', '500ms', true);
  begin
    execute format(
        'select coalesce(array_agg(g.row_id order by g.n), ''{}''), coalesce(array_agg(g.hash order by g.n), ''{}''),
                coalesce(array_agg(d.vector::text order by g.n), ''{}''), coalesce(array_agg(d.truncated order by g.n), ''{}'')
           from unnest($1, $2) with ordinality g(row_id, hash, n)
           join (select u.hash, x.* from (select distinct h as hash from unnest($2) h) u cross join lateral %s x) d on d.hash = g.hash',
        reembed.donor_of(v, 'decode(u.hash, ''hex'')'))
      into found_ids, found_hashes, found_vectors, found_truncated using row_ids, hashes;
  exception
    when lock_not_available then
      return reembed.outcomes(0, '{}', '{}', '{}', row_ids, '{}') || jsonb_build_object('missing', '[]'::jsonb);
    when others then
      return reembed.outcomes(0, '{}', '{}', '{}', '{}', '{}') || jsonb_build_object('missing', to_jsonb(row_ids));
  end;
  return reembed.complete(version_id, space_id, lease_token, found_ids, found_hashes, found_vectors, array_fill(0, array[cardinality(found_ids)]),
                          wait => copy.wait, truncated => found_truncated)
      || jsonb_build_object('missing', (select coalesce(jsonb_agg(m.row_id), '[]'::jsonb) from unnest(row_ids) m(row_id) where m.row_id <> all (found_ids)));
end
$$;
comment on function reembed.copy(int, text, uuid, text[], text[], boolean) is
  'Completes leased jobs with vectors that the version stores for the same texts (hashes in hex), at no cost. Returns what complete returns and missing: row ids whose text has no stored vector any more, to be released. RE004, RE006 on bad arguments.';

create function reembed.reserve_jobs(v reembed.versions, s reembed.spaces, jobs jsonb[], lane text) returns jsonb[]
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  scopes constant text[] := array['all', (select c.name from reembed.collections c where c.id = v.collection_id)];
  tightest reembed.budgets;
  fitting jsonb[] := jobs;
  cost numeric;
begin
  if s.price_per_mtok = 0 or cardinality(jobs) = 0 then
    return jobs;
  end if;
  -- The space's row and the jobs' are held: whoever has a budget's row for longer than it takes to commit is not waited for.
  perform set_config('lock_timeout', '200ms', true);
  begin
    tightest := reembed.open_budgets(scopes, reembed.is_moving(v));
  exception when lock_not_available then
    return null;
  end;
  if tightest.scope is null then
    return jobs;
  end if;
  -- The shortest first, so that as many as possible fit; what is kept stays in its order.
  select coalesce(array_agg(x.job order by x.n), '{}') into fitting
    from (select g.job, g.n, sum((g.job ->> 'tokens')::numeric) over (order by (g.job ->> 'tokens')::numeric, g.n) as running
            from unnest(jobs) with ordinality g(job, n)) x
   where x.running * reembed.token_price(s, lane) <= tightest.limit_usd - tightest.spent_usd - tightest.reserved_usd;
  select case when cardinality(fitting) > 0 then sum((g.job ->> 'tokens')::numeric) else (select min((o.job ->> 'tokens')::numeric) from unnest(jobs) o(job)) end
         * reembed.token_price(s, lane) into cost from unnest(fitting) g(job);
  perform reembed.reserve(scopes, cost, reembed.is_moving(v));
  return fitting;
end
$$;
comment on function reembed.reserve_jobs(reembed.versions, reembed.spaces, jsonb[], text) is
  'Reserves in the budgets what a claim''s jobs cost by estimate and returns those that fit: all where there is no budget, none where not even the cheapest fits, null where a budget''s row stayed locked.';

create function public.reembed_copy(version_id int, space_id text, lease_token uuid, row_ids text[], hashes text[], wait boolean default false)
returns jsonb language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select reembed.copy(version_id, space_id, lease_token, row_ids, hashes, wait)
$$;
revoke execute on function public.reembed_copy(int, text, uuid, text[], text[], boolean) from public, anon, authenticated;
grant execute on function public.reembed_copy(int, text, uuid, text[], text[], boolean) to service_role;
comment on function public.reembed_copy(int, text, uuid, text[], text[], boolean) is 'For service_role: reembed.copy, which documents it.';

revoke execute on all functions in schema reembed from public;
