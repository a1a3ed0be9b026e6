-- The index conductor: a version's HNSW index is planned, built after the load without holding anybody up, watched, and replaced where a build failed.
-- Makes: index_sql, hnsw_parameters, hnsw_bytes, hnsw_build_bytes, hnsw_build_seconds, index_plan, index_state, index_leftovers; for a build over a direct connection
-- enter_index_build and leave_index_build; for one by pg_cron reembed.index_builds, schedule_index_build, cancel_index_build, watch_index_builds;
-- and what goes by itself: keep_index_from_start (in start_loading) and conduct (in poke).
-- Risks: none until a version is indexed. A build by pg_cron changes four settings of its own role in this database from when it is scheduled until
-- its session has begun (a second or two), and puts them back as they were, after a failure too.
--
-- create index concurrently runs neither in a function nor in a transaction: a CLI runs it as its own statement, or pg_cron as a job's. Two never build
-- the same index. A build by a CLI holds an advisory lock of its session, which ends with the session and so outlives a CLI that was killed for just
-- as long as the server goes on building; a scheduled one stands in reembed.index_builds.

-- Parameters, sizes, time --------------------------------------------------------------------------------------------------------------------

create function reembed.hnsw_parameters(row_total bigint) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('m', case when row_total < 10000000 then 16 else 24 end,
                            'ef_construction', case when row_total < 1000000 then 64 else 128 end)
$$;
comment on function reembed.hnsw_parameters(bigint) is
  'm and ef_construction for so many rows: pgvector''s defaults (16, 64) below a million, ef_construction 128 from there, m 24 from ten million: a larger graph needs more of both for the same recall (pgvector''s README). Not measured past 50,000 rows.';

create function reembed.hnsw_bytes(row_total bigint, vector_type text, dimensions int, m int default 16) returns bigint
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  -- A page of 8,192 has a header of 24 and pgvector's 8 at its end. An element has 72 bytes before its vector, which has 8 of its own; its neighbours
  -- are 4 bytes and 6 for each of 2m links; each of the two is aligned to 8 and has a pointer of 4. None is split over two pages.
  select ceil(row_total * 8192 / case when r.bytes > 8160 then 8160 / r.bytes else floor(8160 / r.bytes) end)::bigint
    from (select 8 * ceil((80 + dimensions * case vector_type when 'halfvec' then 2 else 4 end) / 8.0) + 8 * ceil((4 + 12 * m) / 8.0) + 8 as bytes) r
$$;
comment on function reembed.hnsw_bytes(bigint, text, int, int) is
  'Bytes on disk of an HNSW index over so many vectors (vector_type: vector or halfvec), from the layout of pgvector''s pages: 8,192 a row for vector(1536), half of it for halfvec(1536).';

create function reembed.hnsw_build_bytes(row_total bigint, vector_type text, dimensions int, m int default 16) returns bigint
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  -- pgvector's HnswElementData has 128 bytes; its vector 8 of its own; the neighbours of a layer are an array with a head of 8 and 16 a link, 2m links on
  -- the lowest layer and m on each of the layers above, of which an element has 1 / (m - 1) on average; a pointer of 8 for each layer.
  select ceil(row_total * (128 + 8 * ceil((8 + dimensions * case vector_type when 'halfvec' then 2 else 4 end) / 8.0)
                           + 16 + 32 * m + (16 + 16 * m) / (m - 1.0)))::bigint
$$;
comment on function reembed.hnsw_build_bytes(bigint, text, int, int) is
  'Bytes of maintenance_work_mem in which pgvector holds the graph of so many vectors while it builds their index, from its structures. Past that it goes on on disk, slower.';

create function reembed.hnsw_build_seconds(row_total bigint, dimensions int, m int, ef_construction int, fits_memory boolean) returns double precision
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select row_total * (0.00006 + 0.00000044 * dimensions) * (m / 16.0) * (ef_construction / 64.0) * greatest(1, ln(greatest(row_total, 1)) / ln(50000))
         * case when fits_memory then 1 else 2.5 end
$$;
comment on function reembed.hnsw_build_seconds(bigint, int, int, int, boolean) is
  'About how long such a build takes. Measured on two cores with PostgreSQL 17 and pgvector 0.8.0: 50,000 vectors of 1536 in 37 s, 2.5 times that where the graph does not fit into memory. A larger machine is faster.';

create function reembed.row_total(c reembed.collections) returns bigint
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(reembed.table_rows(c), (select greatest(x.reltuples, 0)::bigint from pg_catalog.pg_class x where x.oid = c.source_table), 0);
end
$$;
comment on function reembed.row_total(reembed.collections) is 'How many rows a collection has: exactly where that is cheap (table_rows), else by the planner''s estimate.';

create function reembed.vector_type(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when format_type(a.atttypid, null) = 'extensions.halfvec' then 'halfvec' else 'vector' end
    from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column
$$;
comment on function reembed.vector_type(reembed.versions) is 'The type of a version''s vectors, vector or halfvec; null where the column is gone.';

create function reembed.index_name(v reembed.versions) returns name
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- A name that is cut could be another version's: `if not exists` would then build nothing.
  select case when octet_length(n.full_name) < 64 then n.full_name
              else format('%s_v%s_hnsw', (select c.name from reembed.collections c where c.id = v.collection_id), v.number) end
    from (select format('%s_%s_hnsw', (select x.relname from pg_catalog.pg_class x where x.oid = v.vector_table), v.vector_column) as full_name) n
$$;
comment on function reembed.index_name(reembed.versions) is 'The name of the HNSW index that is built for a version.';

create function reembed.index_sql(collection text, version int, build_concurrently boolean default true) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
  p constant jsonb := reembed.hnsw_parameters(reembed.row_total(c));
begin
  return format('create index %s if not exists %I on %s using hnsw (%I extensions.%s_cosine_ops)%s',
    case when build_concurrently then 'concurrently' else '' end, reembed.index_name(v), v.vector_table, v.vector_column, reembed.vector_type(v),
    case when p = reembed.hnsw_parameters(0) then '' else format(' with (m = %s, ef_construction = %s)', p ->> 'm', p ->> 'ef_construction') end);
end
$$;
comment on function reembed.index_sql(text, int, boolean) is
  'The statement that builds a version''s HNSW index, m and ef_construction by its size. Concurrently it must be run by itself, outside a transaction, over a direct connection.';

-- What stands now ----------------------------------------------------------------------------------------------------------------------------

create function reembed.indexes_of_vectors(v reembed.versions) returns setof pg_catalog.pg_index
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select i.* from pg_catalog.pg_index i
    join pg_catalog.pg_class x on x.oid = i.indexrelid join pg_catalog.pg_am m on m.oid = x.relam
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
   where i.indrelid = v.vector_table and a.attname = v.vector_column and m.amname = 'hnsw'
$$;
comment on function reembed.indexes_of_vectors(reembed.versions) is 'The HNSW indexes on a version''s vectors, those too that are INVALID.';

create function reembed.index_builder(v reembed.versions) returns pg_catalog.pg_stat_progress_create_index
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- One whose index cannot be seen yet may be building this one.
  select p from pg_catalog.pg_stat_progress_create_index p
   where p.datname = current_database() and p.relid = v.vector_table and p.pid <> pg_backend_pid()
     and (not exists (select from pg_catalog.pg_index i where i.indexrelid = p.index_relid)
          or p.index_relid in (select i.indexrelid from reembed.indexes_of_vectors(v) i))
   limit 1
$$;
comment on function reembed.index_builder(reembed.versions) is 'The progress of another session that builds an index on a version''s vectors; null where none does.';

create function reembed.index_leftovers(v reembed.versions) returns setof regclass
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select i.indexrelid::regclass from reembed.indexes_of_vectors(v) i where not i.indisvalid and (reembed.index_builder(v)).pid is null
$$;
comment on function reembed.index_leftovers(reembed.versions) is 'INVALID HNSW indexes on a version''s vectors that nobody builds: what failed builds left. They serve no search and slow every write.';

create table reembed.index_builds (
  version_id int primary key references reembed.versions on delete cascade,
  step text not null check (step in ('build', 'drop', 'failed')),
  cancelled boolean not null default false,
  attempts int not null default 0,
  last_run bigint not null default 0,
  settings_before text[],
  error text,
  scheduled_at timestamptz not null default clock_timestamp()
);
comment on table reembed.index_builds is
  'Index builds by pg_cron. step: build, drop (of what a failed one left), failed (given up; schedule_index_build begins anew). settings_before: what the role had set in this database, while it is changed. last_run: the last run of the job that was judged.';
-- One at a time: memory, and the role's settings, are shared.
create unique index index_builds_one_idx on reembed.index_builds ((true)) where step <> 'failed';
alter table reembed.index_builds enable row level security;

create function reembed.index_state(v reembed.versions) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  p constant pg_catalog.pg_stat_progress_create_index := reembed.index_builder(v);
  b reembed.index_builds;
begin
  if reembed.has_index(v) then
    return jsonb_build_object('state', 'valid');
  end if;
  if p.pid is not null then
    return jsonb_build_object('state', 'building', 'pid', p.pid, 'phase', p.phase, 'blocks_done', p.blocks_done, 'blocks_total', p.blocks_total, 'tuples_done', p.tuples_done,
      'seconds', (select extract(epoch from clock_timestamp() - a.query_start)::bigint from pg_catalog.pg_stat_activity a where a.pid = p.pid));
  end if;
  select * into b from reembed.index_builds x where x.version_id = v.id;
  return jsonb_build_object('state', case when b.step in ('build', 'drop') then 'scheduled' when b.step = 'failed' then 'failed'
                                          when exists (select from reembed.index_leftovers(v)) then 'invalid' else 'none' end)
         || case when b.error is null then '{}'::jsonb else jsonb_build_object('error', b.error) end;
end
$$;
comment on function reembed.index_state(reembed.versions) is
  'How a version''s index stands: { state: valid, building, scheduled, invalid (a failed build left it), failed (pg_cron gave it up), none; error: of the last build by pg_cron that failed } and while building { pid, phase, blocks_done, blocks_total, tuples_done, seconds }: which of them move is the build''s choice, a parallel one counts tuples alone.';

-- The plan -----------------------------------------------------------------------------------------------------------------------------------

create function reembed.index_plan(collection text, version int, memory_bytes bigint default null, free_bytes bigint default null, workers int default null) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
  s reembed.spaces;
  row_total bigint;
  type text;
  p jsonb;
  index_bytes bigint;
  graph_bytes bigint;
  disk_bytes bigint;
  seconds double precision;
  timeout_seconds double precision;
  -- How much memory a server has it does not say. Its shared_buffers are about a quarter of it, where somebody has set them, as hosted projects have.
  own_memory constant bigint := (select x.setting::bigint * 1024 from pg_catalog.pg_settings x where x.name = 'maintenance_work_mem');
  most_memory constant bigint := greatest(own_memory, (select x.setting::bigint * 8192 from pg_catalog.pg_settings x where x.name = 'shared_buffers'));
  memory bigint;
  obstacle jsonb;
begin
  perform reembed.check_range('memory_bytes', coalesce(memory_bytes, 1048576), 1048576, 1099511627776);
  perform reembed.check_range('free_bytes', coalesce(free_bytes, 0), 0, 9007199254740991);
  perform reembed.check_range('workers', coalesce(workers, 0), 0, 64);
  if v.state = 'retired' then
    perform reembed.refuse_step(v, 'index');
  end if;
  select * into strict s from reembed.spaces x where x.id = v.space_id;
  row_total := reembed.row_total(c);
  type := coalesce(reembed.vector_type(v), 'vector');
  p := reembed.hnsw_parameters(row_total);
  index_bytes := reembed.hnsw_bytes(row_total, type, s.dimensions, (p ->> 'm')::int);
  graph_bytes := reembed.hnsw_build_bytes(row_total, type, s.dimensions, (p ->> 'm')::int);
  -- A little more than the graph needs, as a parallel build keeps 3 MB for itself and whole chunks are counted.
  memory := coalesce(index_plan.memory_bytes, greatest(own_memory, least(most_memory, (graph_bytes * 1.05)::bigint + 4194304)));
  seconds := reembed.hnsw_build_seconds(row_total, s.dimensions, (p ->> 'm')::int, (p ->> 'ef_construction')::int, graph_bytes <= memory);
  timeout_seconds := (select x.setting::bigint / 1000.0 from pg_catalog.pg_settings x where x.name = 'statement_timeout');
  -- The index is written to the log as well, which keeps max_wal_size of it.
  disk_bytes := index_bytes + least(index_bytes, (select x.setting::bigint * 1048576 from pg_catalog.pg_settings x where x.name = 'max_wal_size'));
  obstacle := case
    when not reembed.is_intact(v) then jsonb_build_object('message', 'its table or its vectors'' column is gone', 'hint', 'Add a new version.')
    when not (select pg_has_role(current_user, x.relowner, 'usage') from pg_catalog.pg_class x where x.oid = v.vector_table)
      then jsonb_build_object('message', format('%s belongs to another role, and only its owner builds an index', v.vector_table), 'hint', format('Run this as %I.', (select x.relowner::regrole from pg_catalog.pg_class x where x.oid = v.vector_table)))
    when s.dimensions > case type when 'halfvec' then 4000 else 2000 end
      then jsonb_build_object('message', format('an HNSW index holds no %s of %s dimensions', type, s.dimensions), 'hint', 'Add a version whose column is halfvec (up to 4,000 dimensions), or of fewer dimensions.')
    when not reembed.has_index(v) and exists (
           select from pg_catalog.pg_class x where x.relnamespace = (select t.relnamespace from pg_catalog.pg_class t where t.oid = v.vector_table) and x.relname = reembed.index_name(v)
              and x.oid not in (select i.indexrelid from reembed.indexes_of_vectors(v) i where not i.indisvalid))
      then jsonb_build_object('message', format('something else is named %I', reembed.index_name(v)), 'hint', format('Rename it, or drop it if it is of no use: it is no HNSW index for cosine distance over all vectors of %I.', v.vector_column))
    when disk_bytes > free_bytes
      then jsonb_build_object('message', format('it takes %s MB of disk while it is built, and %s MB are free', ceil(disk_bytes / 1048576.0), free_bytes / 1048576), 'hint', 'Make the disk larger first: a full one stops every write.')
  end;
  return jsonb_build_object(
    'collection', c.name, 'version', v.number, 'index', reembed.index_name(v), 'state', reembed.index_state(v), 'statement', reembed.index_sql(c.name, v.number),
    'rows', row_total, 'type', type, 'dimensions', s.dimensions, 'm', p -> 'm', 'ef_construction', p -> 'ef_construction',
    'index_bytes', index_bytes, 'disk_bytes', disk_bytes, 'free_bytes', free_bytes, 'database_bytes', pg_database_size(current_database()),
    'graph_bytes', graph_bytes, 'memory_bytes', memory, 'seconds', ceil(seconds), 'timeout_seconds', timeout_seconds,
    'fits', jsonb_build_object('memory', graph_bytes <= memory, 'timeout', timeout_seconds = 0 or seconds <= timeout_seconds, 'disk', disk_bytes <= free_bytes),
    'settings', jsonb_build_object('statement_timeout', '0', 'lock_timeout', '0', 'maintenance_work_mem', (memory / 1024) || 'kB',
                                   'max_parallel_maintenance_workers', coalesce(workers::text, current_setting('max_parallel_maintenance_workers'))),
    'obstacle', obstacle);
end
$$;
comment on function reembed.index_plan(text, int, bigint, bigint, int) is
  'What building a version''s index takes, before it is built: { index, statement, rows, type, dimensions, m, ef_construction; index_bytes; disk_bytes: with the log, free_bytes: as told; graph_bytes: what it needs in memory, memory_bytes: what it is given (as told; else as much as it needs, at most shared_buffers or maintenance_work_mem); seconds; timeout_seconds in force; fits: { memory, timeout, disk: null unless free_bytes is told }; settings: of the session that builds; state: index_state; obstacle: { message, hint } of why it cannot be built, or null }. Without memory it is slower, and the build''s own session has no time-out: neither refuses it. RE004, RE005, RE006, RE010.';

create function reembed.require_index_plan(plan jsonb) returns void
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if plan -> 'obstacle' <> 'null' then
    raise exception using errcode = 'RE007', message = format('the index of %s v%s cannot be built: %s', plan ->> 'collection', plan ->> 'version', plan -> 'obstacle' ->> 'message'),
      hint = plan -> 'obstacle' ->> 'hint';
  end if;
end
$$;
comment on function reembed.require_index_plan(jsonb) is 'Refuses (RE007) what index_plan names an obstacle for.';

-- Over a direct connection -------------------------------------------------------------------------------------------------------------------

create function reembed.enter_index_build(collection text, version int) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  if reembed.has_index(v) then
    return 'stands';
  end if;
  -- Tried and not waited for: a statement that waits holds a snapshot, for whose end the other's build waits.
  if not pg_try_advisory_lock(hashtext('reembed: index'), v.id) then
    return 'wait';
  end if;
  if (reembed.index_builder(v)).pid is not null or exists (select from reembed.index_builds b where b.version_id = v.id and b.step <> 'failed') then
    perform pg_advisory_unlock(hashtext('reembed: index'), v.id);
    return 'wait';
  end if;
  return 'enter';
end
$$;
comment on function reembed.enter_index_build(text, int) is
  'Whether this session may build a version''s index: enter (until leave_index_build, or its end), stands (there is nothing to do) or wait (another builds it, or it is scheduled: ask again).';

create function reembed.leave_index_build(collection text, version int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  perform pg_advisory_unlock(hashtext('reembed: index'), v.id);
  -- What pg_cron gave up is forgotten when the index stands.
  delete from reembed.index_builds b where b.version_id = v.id and b.step = 'failed' and reembed.has_index(v);
end
$$;
comment on function reembed.leave_index_build(text, int) is 'Gives back what enter_index_build gave to this session.';

-- By pg_cron ---------------------------------------------------------------------------------------------------------------------------------

create function reembed.lend_build_settings(version_id int, settings jsonb) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  setting record;
begin
  update reembed.index_builds b
     set settings_before = coalesce((
           select array_agg(x.entry) from pg_catalog.pg_db_role_setting r, unnest(r.setconfig) x(entry)
            where r.setrole = current_user::regrole and r.setdatabase = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
              and split_part(x.entry, '=', 1) in (select jsonb_object_keys(settings))), '{}')
   where b.version_id = lend_build_settings.version_id and b.settings_before is null;
  for setting in select * from jsonb_each_text(settings) loop
    execute format('alter role %I in database %I set %I = %L', current_user, current_database(), setting.key, setting.value);
  end loop;
end
$$;
comment on function reembed.lend_build_settings(int, jsonb) is
  'Gives this role, in this database, the settings that a build needs: the session of a pg_cron job takes them when it begins. What was set before is kept in index_builds.';

create function reembed.return_build_settings(version_id int) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  settings_before constant text[] := (select b.settings_before from reembed.index_builds b where b.version_id = return_build_settings.version_id);
  entry text;
begin
  if settings_before is null then
    return;
  end if;
  foreach entry in array array['statement_timeout', 'lock_timeout', 'maintenance_work_mem', 'max_parallel_maintenance_workers'] loop
    execute format('alter role %I in database %I reset %I', current_user, current_database(), entry);
  end loop;
  foreach entry in array settings_before loop
    execute format('alter role %I in database %I set %I = %L', current_user, current_database(), split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1));
  end loop;
  update reembed.index_builds b set settings_before = null where b.version_id = return_build_settings.version_id;
end
$$;
comment on function reembed.return_build_settings(int) is 'Puts back what lend_build_settings changed.';

create function reembed.invalid_index_of(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- Not as a regclass: of an index that is dropped meanwhile that is a number.
  select format('%I.%I', n.nspname, x.relname)
    from reembed.indexes_of_vectors(v) i
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    join pg_catalog.pg_namespace n on n.oid = x.relnamespace
   where not i.indisvalid limit 1
$$;
comment on function reembed.invalid_index_of(reembed.versions) is 'The qualified name of an INVALID index on a version''s vectors, being built or left by a build that failed; null where there is none.';

create function reembed.schedule_index_build(collection text, version int) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  plan jsonb;
  leftover text;
begin
  if to_regnamespace('cron') is null then
    raise exception using errcode = 'RE007', message = 'pg_cron is not installed in this database', hint = 'Enable pg_cron, or run reembed index over a direct connection, which needs none.';
  end if;
  plan := reembed.index_plan(collection, version);
  perform reembed.require_index_plan(plan);
  if plan -> 'state' ->> 'state' = 'valid' then
    return plan;
  end if;
  if exists (select from reembed.index_builds b where b.version_id = v.id and b.step <> 'failed') then
    return plan;
  end if;
  leftover := reembed.invalid_index_of(v);
  -- What the server told of its sessions before is of before.
  perform pg_stat_clear_snapshot();
  if not pg_try_advisory_xact_lock(hashtext('reembed: index'), v.id) or (reembed.index_builder(v)).pid is not null
     or exists (select from reembed.index_builds b where b.step <> 'failed') then
    raise exception using errcode = 'RE009', message = 'another session or schedule is building an index', hint = 'Wait for it: select * from pg_stat_progress_create_index.';
  end if;
  insert into reembed.index_builds as b (version_id, step) values (v.id, case when leftover is null then 'build' else 'drop' end)
  on conflict on constraint index_builds_pkey do update
    set step = excluded.step, cancelled = false, attempts = 0, last_run = 0, error = null, scheduled_at = excluded.scheduled_at;
  perform reembed.lend_build_settings(v.id, plan -> 'settings');
  execute 'select cron.schedule($1, $2, $3)' using 'reembed-index-build', '2 seconds', coalesce('drop index concurrently if exists ' || leftover, plan ->> 'statement');
  execute 'select cron.schedule($1, $2, $3)' using 'reembed-index-watch', '2 seconds', 'select reembed.watch_index_builds()';
  insert into reembed.events (kind, collection, version, detail) values ('schedule_index', schedule_index_build.collection, v.number, plan - 'state' - 'obstacle');
  return plan;
end
$$;
comment on function reembed.schedule_index_build(text, int) is
  'Lets pg_cron build a version''s index concurrently: one job has the statement, one watches it, replaces what a failed build left, tries three times at most, advances the version and takes both jobs away. Returns index_plan. Does nothing when the index stands or its build is scheduled. RE004 to RE006, RE010: bad arguments; RE007: no pg_cron, or the plan names an obstacle; RE009: another index is being built.';

create function reembed.cancel_index_build(collection text, version int) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
begin
  update reembed.index_builds b set cancelled = true where b.version_id = v.id and b.step <> 'failed';
  if not found then
    return false;
  end if;
  perform pg_cancel_backend((reembed.index_builder(v)).pid);
  return true;
end
$$;
comment on function reembed.cancel_index_build(text, int) is
  'Ends a scheduled build: what it has made so far is dropped and its jobs go, within some seconds. Returns whether there was one.';

create function reembed.end_index_build(v reembed.versions, error text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := (select x from reembed.collections x where x.id = v.collection_id);
begin
  perform reembed.return_build_settings(v.id);
  execute 'delete from cron.job_run_details d using cron.job j where j.jobid = d.jobid and j.jobname in (''reembed-index-build'', ''reembed-index-watch'')';
  execute 'select cron.unschedule(j.jobname) from cron.job j where j.jobname in (''reembed-index-build'', ''reembed-index-watch'')';
  if error is null then
    delete from reembed.index_builds b where b.version_id = v.id;
    perform reembed.advance(c.name, v.number);
  else
    update reembed.index_builds b set step = 'failed', error = end_index_build.error where b.version_id = v.id;
  end if;
  insert into reembed.events (kind, collection, version, reason) values (case when error is null then 'index' else 'index_failed' end, c.name, v.number, error);
end
$$;
comment on function reembed.end_index_build(reembed.versions, text) is
  'Takes a scheduled build''s jobs, their log and its settings away. Without an error its index stands and the version advances; with one it is given up.';

create function reembed.watch_index_builds() returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  attempts_at_most constant int := 3;
  b reembed.index_builds;
  v reembed.versions;
  c reembed.collections;
  runs record;
  leftover text;
  builder int;
begin
  select * into b from reembed.index_builds x where x.step <> 'failed' for update skip locked;
  if not found then
    return 'nothing to watch';
  end if;
  select * into strict v from reembed.versions x where x.id = b.version_id;
  select * into strict c from reembed.collections x where x.id = v.collection_id;
  -- In this order: what is INVALID now, is built by nobody then, and is not valid after that was left by a build that failed.
  leftover := reembed.invalid_index_of(v);
  builder := (reembed.index_builder(v)).pid;
  if reembed.has_index(v) then
    perform reembed.end_index_build(v, null);
    return 'built';
  end if;
  if builder is not null then
    if b.cancelled then
      perform pg_cancel_backend(builder);
    end if;
    -- Its session has taken the settings.
    perform reembed.return_build_settings(v.id);
    perform reembed.set_build_command(reembed.index_sql(c.name, v.number));
    return 'building';
  end if;
  -- Between two looks there may be several runs: one that failed, and one that found its leftover and did nothing.
  execute 'select bool_or(d.status in (''starting'', ''connecting'', ''sending'', ''running'')) as is_at_work, max(d.runid) as last_run, count(*) filter (where d.status = ''failed'') as failures,
                  (array_agg(d.return_message order by d.runid desc) filter (where d.status = ''failed''))[1] as error
             from cron.job_run_details d join cron.job j on j.jobid = d.jobid where j.jobname = ''reembed-index-build'' and d.runid > $1'
     into runs using b.last_run;
  if runs.is_at_work then
    return 'at work';
  end if;
  if runs.last_run is not null then
    b.attempts := b.attempts + runs.failures;
    b.error := coalesce(left(runs.error, 500), b.error);
    update reembed.index_builds x set attempts = b.attempts, error = b.error, last_run = runs.last_run where x.version_id = b.version_id;
  end if;
  -- A drop that fails is tried longer: what it leaves would slow every write.
  if b.attempts >= attempts_at_most * (case when leftover is null then 1 else 10 end) or leftover is null and (b.cancelled or not v.maintained) then
    perform reembed.end_index_build(v, coalesce(case when b.cancelled then 'cancelled' when not v.maintained then 'the version is no longer maintained' end, b.error, 'unknown'));
    return 'given up';
  end if;
  if leftover is not null then
    update reembed.index_builds x set step = 'drop' where x.version_id = b.version_id;
    perform reembed.set_build_command('drop index concurrently if exists ' || leftover);
    return 'replacing';
  end if;
  update reembed.index_builds x set step = 'build' where x.version_id = b.version_id;
  perform reembed.lend_build_settings(v.id, reembed.index_plan(c.name, v.number) -> 'settings');
  perform reembed.set_build_command(reembed.index_sql(c.name, v.number));
  return 'waiting';
end
$$;
comment on function reembed.watch_index_builds() is
  'What the job reembed-index-watch calls: sees how the scheduled build stands, and takes its next step. Returns it: built, building, at work, replacing, waiting, given up, nothing to watch.';

create function reembed.set_build_command(command text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  execute 'select cron.alter_job(j.jobid, command => $1) from cron.job j where j.jobname = ''reembed-index-build'' and j.command <> $1' using set_build_command.command;
end
$$;
comment on function reembed.set_build_command(text) is 'Gives the job reembed-index-build its next statement.';

-- By itself ----------------------------------------------------------------------------------------------------------------------------------

create function reembed.keep_index_from_start(v reembed.versions) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := (select x from reembed.collections x where x.id = v.collection_id);
  is_small boolean;
  has_vectors boolean;
begin
  execute format('select count(*) < 2000 from (select from %s limit 2000) few', c.source_table) into is_small;
  execute format('select exists (select from %s where %I is not null)', v.vector_table, v.vector_column) into has_vectors;
  -- Over vectors that stand already a build would hold writers up.
  if not is_small or has_vectors or reembed.has_index(v) or reembed.index_plan(c.name, v.number) -> 'obstacle' <> 'null' or exists (select from reembed.indexes_of_vectors(v)) then
    return false;
  end if;
  execute reembed.index_sql(c.name, v.number, build_concurrently => false);
  return true;
end
$$;
comment on function reembed.keep_index_from_start(reembed.versions) is
  'Gives a version of fewer than 2,000 rows that has no vector yet its index before it is loaded, in start_loading''s transaction: on an empty column that takes a millisecond, and the version is ready as soon as it is loaded. Returns whether it did.';

create function reembed.tell_cron_again() returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if to_regnamespace('cron') is not null
     and exists (select from reembed.index_builds b where b.step <> 'failed' and b.scheduled_at < clock_timestamp() - interval '10 seconds') then
    execute 'select cron.alter_job(j.jobid, active => j.active) from cron.job j
              where j.jobname in (''reembed-index-build'', ''reembed-index-watch'') and not exists (select from cron.job_run_details d where d.jobid = j.jobid)';
  end if;
end
$$;
comment on function reembed.tell_cron_again() is
  'Changes the jobs of a scheduled build to what they are, where none of their runs is on record after ten seconds: pg_cron overlooks a new job when more changes at that moment than the server''s queue of changes holds, and takes it in with the next change.';

create function reembed.conduct() returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  collection_name text;
begin
  perform reembed.tell_cron_again();
  for v in select x.* from reembed.versions x
            where x.maintained and x.enqueued_at is not null and x.state in ('loading', 'indexing') and reembed.is_intact(x)
              and not exists (select from reembed.jobs j where j.version_id = x.id and j.priority = 1 and j.failed_at is null) order by x.id loop
    select x.name into strict collection_name from reembed.collections x where x.id = v.collection_id;
    begin
      if reembed.advance(collection_name, v.number, 'schedule') = 'indexing' and to_regnamespace('cron') is not null
         and not exists (select from reembed.index_builds b where b.version_id = v.id) then
        perform reembed.schedule_index_build(collection_name, v.number);
      end if;
    exception
      when sqlstate 'RE009' then null;
      when sqlstate 'RE007' then
        -- Until an operator has seen to it.
        insert into reembed.index_builds (version_id, step, error) values (v.id, 'failed', sqlerrm);
    end;
  end loop;
end
$$;
comment on function reembed.conduct() is
  'Moves on what is loaded, at each poke: a version without backfill jobs is advanced, and its index scheduled where it is missing and pg_cron is there.';

revoke execute on all functions in schema reembed from public;
