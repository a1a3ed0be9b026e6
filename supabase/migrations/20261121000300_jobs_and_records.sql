-- What is out of date, and what each stored vector was made from.
-- Makes: reembed.jobs, reembed.records, the triggers that keep a maintained version's jobs true, violations(), reconcile().
-- Risks: making a version maintained puts four triggers on the collection's table (and three on a vector table of its own); it takes
-- share row exclusive on them under a lock time-out, with retry, so that no search ever queues behind it.
--
-- The rules, each of which stands for a failure that was reproduced without it:
--   * An enqueue always writes the job and clears its lease. `do nothing` would forget an edit that meets a completing worker.
--   * Maintained versions are triggers, not rows that a trigger reads: a trigger that reads a table misses the writers in flight.
--   * INSERT, DELETE and TRUNCATE are seen a statement at a time; UPDATE a row at a time, comparing the input itself, because
--     `update of` misses columns that a BEFORE trigger changed.

create table reembed.jobs (
  version_id int not null,
  row_id text collate "C" not null,
  priority smallint not null default 0,
  attempts smallint not null default 0,
  enqueued_at timestamptz not null default now(),
  run_at timestamptz not null default now(),
  lease_token uuid,
  lease_until timestamptz,
  lease_hash bytea,
  failed_at timestamptz,
  error text,
  buys boolean not null default false,
  primary key (version_id, row_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
comment on table reembed.jobs is
  '"This row''s vector in this version is out of date": state, not a message. No foreign key: it would cost every write of the app a lookup.';
comment on column reembed.jobs.priority is '0: an edit; 1: backfill. Edits come first.';
comment on column reembed.jobs.run_at is 'When it may be claimed. A claim sets it to the end of the lease, so that due jobs are always the first of the index.';
comment on column reembed.jobs.lease_token is 'The claim that holds it. The token decides, not the deadline: an expired lease that nobody took is still good.';
comment on column reembed.jobs.lease_hash is 'Hash of the text that was leased, only to keep other claims from buying the same text meanwhile. It proves nothing at completion.';
comment on column reembed.jobs.buys is 'Somebody has ordered its vector to be bought, though the stored one may be right (order_rows): it is neither settled as current nor copied.';
create index jobs_due_idx on reembed.jobs (version_id, priority, run_at) where failed_at is null;
-- For the age of the oldest: of edits that nobody has touched since, which is what an application's write makes, jobs_due_idx tells it already.
create index jobs_age_idx on reembed.jobs (version_id, priority, enqueued_at) where failed_at is null and (priority = 1 or run_at <> enqueued_at);
create index jobs_lease_hash_idx on reembed.jobs (lease_hash) where lease_hash is not null;

create table reembed.records (
  version_id int not null,
  row_id text collate "C" not null,
  content_hash bytea not null,
  space_id text not null,
  tokens int not null default 0 check (tokens >= 0),
  truncated boolean not null default false,
  skipped text,
  embedded_at timestamptz not null default clock_timestamp(),
  primary key (version_id, row_id)
);
comment on table reembed.records is 'The provenance of one stored vector: hash of its text, space, tokens, time; or why the row was skipped.';

alter table reembed.jobs enable row level security;
alter table reembed.records enable row level security;

-- A version's jobs and records come and go by the hundred thousand. Statistics that were taken before know none of them, and a plan for one row
-- then reads them all, again and again; without any the planner takes its usual share of the table as it is now.
alter table reembed.jobs alter column version_id set statistics 0;
alter table reembed.records alter column version_id set statistics 0;

-- A space may change only while nothing was embedded in it: its vectors would belong to another space.
create function reembed.oldest_edit(version_id int) returns timestamptz
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  -- No edit is due before it is enqueued: either the first that is due was never touched, or the oldest of those that were is older.
  select least((select min(j.run_at) from reembed.jobs j where j.version_id = oldest_edit.version_id and j.priority = 0 and j.failed_at is null),
               (select min(j.enqueued_at) from reembed.jobs j where j.version_id = oldest_edit.version_id and j.priority = 0 and j.failed_at is null
                                                                and j.run_at <> j.enqueued_at))
$$;
comment on function reembed.oldest_edit(int) is 'Since when the oldest edit of a version waits, by two lookups in the indexes of its jobs; null where none does.';

create function reembed.refuse_space_with_records() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A complete holds row exclusive on records from before it reads the space: this waits for those in flight.
  lock table reembed.records in share mode;
  if exists (select from reembed.records r where r.version_id = old.id) then
    raise exception using errcode = 'RE007',
      message = format('version %s of collection %s has records in %s: its space cannot change', old.number,
                       (select c.name from reembed.collections c where c.id = old.collection_id), old.space_id),
      hint = 'Add a new version in the other space and move to it.';
  end if;
  update reembed.jobs j set lease_token = null, lease_until = null, lease_hash = null, run_at = now()
   where j.version_id = old.id and j.lease_token is not null;
  return new;
end
$$;
comment on function reembed.refuse_space_with_records() is 'Trigger: a version''s space changes only while it has no record (RE007); open leases lose.';
create trigger versions_space_fixed before update of space_id on reembed.versions for each row
  when (old.space_id is distinct from new.space_id) execute function reembed.refuse_space_with_records();

create function reembed.delete_version_state() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from reembed.jobs j where j.version_id = old.id;
  delete from reembed.records r where r.version_id = old.id;
  return null;
end
$$;
comment on function reembed.delete_version_state() is 'Trigger: a version takes its jobs and records with it.';
create trigger versions_deleted after delete on reembed.versions for each row execute function reembed.delete_version_state();

create function reembed.is_intact(v reembed.versions) returns boolean
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_catalog.pg_class x join reembed.collections c on c.source_table = x.oid where c.id = v.collection_id)
     and exists (select from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column and not a.attisdropped)
$$;
comment on function reembed.is_intact(reembed.versions) is
  'Whether a version''s tables and its vector column still exist. One whose were dropped under it is left alone: it must not stop the work on the others.';

-- SQL texts about a version's rows -------------------------------------------------------------------------------------------------

create function reembed.vector_join(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select case when c.source_table = v.vector_table then ''
    else format(' left join %s e on %s', v.vector_table,
                (select string_agg(format('e.%I = t.%I', v.vector_key[n], k), ' and ' order by n) from unnest(c.key_columns) with ordinality u(k, n)))
    end
  from reembed.collections c where c.id = v.collection_id
$$;
comment on function reembed.vector_join(reembed.versions) is
  'SQL text that joins the vectors as e to the collection''s rows t where they stand in a table of their own; empty where they stand in the row.';

create function reembed.rows_of(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('%s t%s', c.source_table, reembed.vector_join(v)) from reembed.collections c where c.id = v.collection_id
$$;
comment on function reembed.rows_of(reembed.versions) is 'SQL text of a FROM item: the collection''s rows as t and, where the vectors stand in a table of their own, their vectors as e.';

create function reembed.vector_of(v reembed.versions) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('%s.%I', case when reembed.stands_in_source(v) then 't' else 'e' end, v.vector_column)
$$;
comment on function reembed.vector_of(reembed.versions) is 'SQL text of the vector of the row in rows_of.';

create function reembed.current_condition(v reembed.versions, hash text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('coalesce(r.content_hash = %s and r.space_id = %L and (r.skipped is null) = (%s is not null), false)',
                hash, v.space_id, reembed.vector_of(v))
$$;
comment on function reembed.current_condition(reembed.versions, text) is
  'SQL text of law 2''s "current" for a row t of rows_of with its record r: the record''s hash and space are right, and the vector is there unless the row was skipped.';

-- Triggers ---------------------------------------------------------------------------------------------------------------------------

create function reembed.enqueue_clause() returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select 'on conflict (version_id, row_id) do update set priority = 0, attempts = 0, enqueued_at = now(), run_at = now(),
      lease_token = null, lease_until = null, lease_hash = null, failed_at = null, error = null'
$$;
comment on function reembed.enqueue_clause() is
  'SQL text that ends every enqueue of an edit: the job is always written, at the front of the queue, and its lease is cleared.';

create function reembed.vector_differs(v reembed.versions) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  -- The operator by its schema: `is distinct from` would look for it in the search path.
  select format('coalesce(old.%1$I operator(extensions.<>) new.%1$I, (old.%1$I is null) <> (new.%1$I is null))', v.vector_column)
$$;
comment on function reembed.vector_differs(reembed.versions) is 'SQL text of the condition that the vector of a row differs between old and new.';

create function reembed.trigger_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  vector_changed text := 'false';
begin
  select * into c from reembed.collections where id = v.collection_id;
  if reembed.stands_in_source(v) then
    -- Another hand than complete: the flag is set by complete around its own update, and hides nothing but the vector.
    vector_changed := format('coalesce(current_setting(''reembed.completing'', true), '''') <> %L and %s', v.id::text, reembed.vector_differs(v));
  end if;
  return format($sql$
create or replace function reembed.track_version_%1$s() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $body$
#variable_conflict use_variable
declare
  old_id text;
  new_id text;
  unchanged %10$s;
begin
  if tg_op = 'INSERT' then
    if (select count(*) from (select from inserted_rows limit 100) few) = 100 then
      -- A bulk insert tries the plain form, a third cheaper; it fails only where a job has outlived its row.
      begin
        insert into reembed.jobs (version_id, row_id) select %1$s, %2$s from inserted_rows n order by %13$s;
        return null;
      exception when unique_violation then
        null;
      end;
    end if;
    insert into reembed.jobs as j (version_id, row_id)
    select %1$s, %2$s from inserted_rows n order by %13$s
    %4$s;
  elsif tg_op = 'UPDATE' then
    old_id := %3$s;
    new_id := %5$s;
    if old_id <> new_id then
      -- The vector moves with its row: so does its record, and the claim finds out that nothing has to be bought.
      -- Where rows exchange keys in one statement, the old key is another row's by now, and the job of it.
      delete from reembed.jobs j where j.version_id = %1$s and j.row_id = old_id
         and not exists (select from %10$s t where %11$s and %12$s = old_id);
      delete from reembed.records r where r.version_id = %1$s and r.row_id = new_id;
      update reembed.records r set row_id = new_id where r.version_id = %1$s and r.row_id = old_id;
    end if;
    if %6$s then
      delete from reembed.records r where r.version_id = %1$s and r.row_id = new_id;
    elsif old_id = new_id then
      -- Nothing but vectors is new, as when they are stored: the same input, which is read only where more than that changed.
      begin
        unchanged := new;
%14$s        if unchanged operator(pg_catalog.*=) old then
          return null;
        end if;
      exception when undefined_column then
        -- Another version's column was dropped.
        null;
      end;
      begin
        if %7$s is not distinct from %8$s then
          return null;
        end if;
      exception when others then
        -- An input that cannot be made is no reason to refuse the app its edit: the claim tells what is wrong.
        null;
      end;
    end if;
    insert into reembed.jobs as j (version_id, row_id) values (%1$s, new_id)
    %4$s;
  elsif tg_op = 'DELETE' then
    delete from reembed.jobs j using deleted_rows o where j.version_id = %1$s and j.row_id = %9$s;
    delete from reembed.records r using deleted_rows o where r.version_id = %1$s and r.row_id = %9$s;
  else
    delete from reembed.jobs j where j.version_id = %1$s;
    delete from reembed.records r where r.version_id = %1$s;
  end if;
  return null;
end
$body$;
revoke execute on function reembed.track_version_%1$s() from public;
$sql$,
    v.id,
    reembed.key_of(c.key_columns, 'n'),
    reembed.key_of(c.key_columns, 'old'),
    reembed.enqueue_clause(),
    reembed.key_of(c.key_columns, 'new'),
    vector_changed,
    v.input_function || '(old)',
    v.input_function || '(new)',
    reembed.key_of(c.key_columns, 'o'),
    c.source_table,
    reembed.key_match(c, c.key_columns, 't', 'old_id'),
    reembed.key_of(c.key_columns, 't'),
    reembed.key_list(c, 'n'),
    (select string_agg(format(E'        unchanged.%1$I := old.%1$I;\n', u.name), '' order by x.number, u.name)
       from reembed.versions x
      cross join lateral unnest(array_remove(array[x.vector_column, case when x.keeps_text then x.text_column end], null)) u(name)
      where x.collection_id = c.id and x.vector_table = c.source_table and x.state <> 'retired'));
end
$$;
comment on function reembed.trigger_function_sql(reembed.versions) is
  'SQL text of the trigger function that keeps one maintained version''s jobs true on the collection''s table.';

create function reembed.vector_trigger_function_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
begin
  select * into c from reembed.collections where id = v.collection_id;
  return format($sql$
create or replace function reembed.track_vectors_%1$s() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $body$
declare
  changed_ids text[];
  is_moved boolean := false;
begin
  if coalesce(current_setting('reembed.completing', true), '') = %2$L then
    return null;
  end if;
  if tg_op = 'TRUNCATE' then
    -- It empties the table for everybody, whatever this transaction sees of the rows; an emptied source (cascade) has none.
    if current_setting('transaction_isolation') <> 'read committed' and pg_relation_size(%4$L::regclass) > 0 then
      raise exception using errcode = 'RE007',
        message = 'the vectors are truncated under ' || current_setting('transaction_isolation') || ': rows newer than its snapshot would be forgotten',
        hint = 'Truncate them in a transaction of isolation level read committed.';
    end if;
    delete from reembed.records r where r.version_id = %1$s;
    select coalesce(array_agg(%3$s), '{}') into changed_ids from %4$s t;
  elsif tg_op = 'INSERT' then
    changed_ids := array[%6$s];
  elsif tg_op = 'DELETE' then
    changed_ids := array[%5$s];
  elsif %7$s then
    changed_ids := array[%5$s, %6$s];
  elsif %5$s <> %6$s then
    -- The vector moved with its row, whose own trigger moves the record: the claim finds out that nothing has to be bought.
    changed_ids := array[%5$s, %6$s];
    is_moved := true;
  else
    return null;
  end if;
  if not is_moved then
    delete from reembed.records r where r.version_id = %1$s and r.row_id = any (changed_ids);
  end if;
  -- A cascade comes here after the source's own triggers: a row that is gone has no job.
  insert into reembed.jobs as j (version_id, row_id)
  select distinct %1$s, u.id from unnest(changed_ids) u(id) where exists (select from %4$s t where %9$s) order by 2
  %8$s;
  return null;
end
$body$;
revoke execute on function reembed.track_vectors_%1$s() from public;
$sql$,
    v.id, v.id::text, reembed.key_of(c.key_columns, 't'), c.source_table,
    reembed.key_of(v.vector_key, 'old'), reembed.key_of(v.vector_key, 'new'), reembed.vector_differs(v), reembed.enqueue_clause(),
    reembed.key_match(c, c.key_columns, 't', 'u.id'));
end
$$;
comment on function reembed.vector_trigger_function_sql(reembed.versions) is
  'SQL text of the trigger function on a vector table of its own: a vector that another hand than complete writes, changes or removes is out of date.';

create function reembed.create_triggers(v reembed.versions) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  sibling reembed.versions;
begin
  select * into c from reembed.collections where id = v.collection_id;
  -- The siblings' too, which name the vector columns that are nobody's input.
  for sibling in select * from reembed.versions x where x.collection_id = c.id and (x.maintained or x.id = v.id) order by x.id loop
    execute reembed.trigger_function_sql(sibling);
  end loop;
  execute format('create or replace trigger reembed_%1$s_insert after insert on %2$s referencing new table as inserted_rows
                    for each statement execute function reembed.track_version_%1$s()', v.id, c.source_table);
  execute format('create or replace trigger reembed_%1$s_update after update on %2$s
                    for each row execute function reembed.track_version_%1$s()', v.id, c.source_table);
  execute format('create or replace trigger reembed_%1$s_delete after delete on %2$s referencing old table as deleted_rows
                    for each statement execute function reembed.track_version_%1$s()', v.id, c.source_table);
  execute format('create or replace trigger reembed_%1$s_truncate after truncate on %2$s
                    for each statement execute function reembed.track_version_%1$s()', v.id, c.source_table);
  if not reembed.stands_in_source(v) then
    execute reembed.vector_trigger_function_sql(v);
    execute format('create or replace trigger reembed_%1$s_vectors after insert or update or delete on %2$s
                      for each row execute function reembed.track_vectors_%1$s()', v.id, v.vector_table);
    execute format('create or replace trigger reembed_%1$s_vectors_truncate after truncate on %2$s
                      for each statement execute function reembed.track_vectors_%1$s()', v.id, v.vector_table);
  end if;
end
$$;
comment on function reembed.create_triggers(reembed.versions) is 'Puts a maintained version''s triggers on its tables, or renews them. The caller holds share row exclusive on both.';

-- Existing rows --------------------------------------------------------------------------------------------------------------------

create function reembed.key_list(c reembed.collections, alias text) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s.%I', alias, k), ', ' order by n) from unnest(c.key_columns) with ordinality u(k, n)
$$;
comment on function reembed.key_list(reembed.collections, text) is 'SQL text of the key columns of the row `alias`, separated by commas.';

create function reembed.key_after(c reembed.collections, alias text, row_id text, operator text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('(%s) %s (%s)', reembed.key_list(c, alias), operator,
    string_agg(format('(%s)::%s', case when cardinality(c.key_columns) = 1 then row_id else format('(%s)::jsonb ->> %s', row_id, n - 1) end,
                      format_type(a.atttypid, a.atttypmod)), ', ' order by n))
  from unnest(c.key_columns) with ordinality u(k, n)
  join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attname = k
$$;
comment on function reembed.key_after(reembed.collections, text, text, text) is 'SQL text that compares the key of the row `alias` with the key in the SQL expression `row_id`.';

create function reembed.backfill_turn(place tid, rank int default null) returns timestamptz
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select date_trunc('hour', now()) - interval '1 hour'
       + least(3600000, div(at[0]::numeric, 4096) * 300 + at[1]::numeric)::double precision * interval '1 millisecond'
       -- A day a rank: no loading takes so long that the turns of two ranks meet.
       - coalesce(1000 - least(greatest(backfill_turn.rank, 0), 1000), 0) * interval '1 day'
    from (select place::text::point as at) p
$$;
comment on function reembed.backfill_turn(tid, int) is
  'When the row at this place of its table is due, in the past: the lower ranks first; of equal ones, of each 4,096 pages first the first row of each page, then the second, and so on. A vector that is stored lengthens its row, which moves to another page and is entered anew into every index of the table, the one of the old vectors above all. Its old place is free once that is committed, and the next row of the page, stored later, stays on its page and out of the indexes.';

create function reembed.adopt_rows(v reembed.versions, row_ids text[]) returns text[]
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  free text[] := row_ids;
  adopted text[] := array[]::text[];
  one text;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  if not reembed.stands_in_source(v) then
    -- A vector that another transaction is writing is not the one that is seen here.
    execute format('select coalesce(array_agg(row_id), ''{}'') from (select g.row_id from unnest($1) g(row_id) join %s e on %s for no key update of e skip locked) x',
        v.vector_table, reembed.key_match(c, v.vector_key, 'e', 'g.row_id'))
      into free using row_ids;
  end if;
  begin
    if v.text_column is not null then
      perform reembed.read_text_vectors(v, free);
    end if;
    -- In a later snapshot than the locks: a row that was edited since the triggers stand has a job, and its vector is an older text's. Looked up a
    -- row at a time (offset 0): statistics that are older than the vectors take them for nulls, and the plan of a join for that reads all rows once for each.
    execute format(
        'with taken as (
           insert into reembed.records as r (version_id, row_id, content_hash, space_id)
           select $1, g.row_id, x.hash, $2 from unnest($3) g(row_id)
            cross join lateral (select %s as hash from %s where %s and %s is not null
                                   and not exists (select from reembed.jobs j where j.version_id = $1 and j.row_id = g.row_id offset 0) offset 0) x
           on conflict do nothing returning row_id)
         select coalesce(array_agg(row_id), ''{}'') from taken',
        reembed.input_hash(v, 't'), reembed.rows_of(v), reembed.key_match(c, c.key_columns, 't', 'g.row_id'), reembed.vector_of(v))
      into adopted using v.id, v.space_id, free;
  exception when others then
    -- The input of one of them cannot be made: that one is enqueued, and a claim tells why.
    if cardinality(free) > 1 then
      foreach one in array free loop
        adopted := adopted || reembed.adopt_rows(v, array[one]);
      end loop;
    end if;
  end;
  return adopted;
end
$$;
comment on function reembed.adopt_rows(reembed.versions, text[]) is
  'Writes the records of those rows that have a vector and no job: it is taken as the embedding of the present text, and nothing is bought. The caller holds the rows. Returns which.';

create function reembed.set_backfill_rank(collection text, rank_function text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  ranking regprocedure;
begin
  if rank_function is not null then
    begin
      ranking := to_regprocedure(format('%s(%s)', rank_function, c.source_table));
    exception when syntax_error or invalid_name then
      null;
    end;
    if ranking is null or (select p.prorettype <> 'int'::regtype from pg_catalog.pg_proc p where p.oid = ranking) then
      raise exception using errcode = 'RE008', message = format('rank_function: there is no function %s(%s) that returns int', left(rank_function, 100), c.source_table),
        hint = 'It takes a row of the collection''s table, with its schema in its name, and returns 0 for the rows that come first.';
    end if;
  end if;
  update reembed.collections x set backfill_rank = ranking::oid::regproc::text where x.id = c.id;
end
$$;
comment on function reembed.set_backfill_rank(text, text) is
  'Which rows of a collection are bought first when a version is loaded: rank_function takes a row and returns 0 to 1000, the least first; it may look at other rows, since it only orders. Null: in the order of their places. RE005, RE008: there is no such collection, or function.';

create function reembed.enqueue_missing(version_id int, after_row text default null, max_rows int default 2000) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  v reembed.versions;
  c reembed.collections;
  chunk_end text;
  chunk text[];
  missing text[];
  locked text[];
  places tid[];
  ranks int[];
  adopted text[] := array[]::text[];
  queued int := 0;
begin
  select * into strict v from reembed.versions where id = enqueue_missing.version_id;
  select * into strict c from reembed.collections where id = v.collection_id;
  -- The chunk's end first: the scan below then reads one range of the key.
  execute format('select coalesce(array_agg(k), ''{}'') from (select %1$s as k from %3$s t where %4$s order by %2$s limit $2) x',
      reembed.key_of(c.key_columns, 't'), reembed.key_list(c, 't'), c.source_table,
      case when after_row is null then 'true' else reembed.key_after(c, 't', '$1', '>') end)
    into chunk using after_row, max_rows;
  chunk_end := chunk[cardinality(chunk)];
  if chunk_end is null then
    return jsonb_build_object('enqueued', 0, 'busy', '[]'::jsonb, 'last', null);
  end if;
  begin
    -- The jobs and the records by their keys, a row at a time (offset 0): as joins they are planned by statistics that cannot know how many a
    -- version has by now, and then each chunk reads them all.
    execute format(
        'select coalesce(array_agg(%1$s), ''{}'') from %2$s
           left join lateral (select * from reembed.records x where x.version_id = $1 and x.row_id = %1$s offset 0) r on true
          where %3$s and %4$s and not %5$s
            and not exists (select from reembed.jobs j where j.version_id = $1 and j.row_id = %1$s offset 0)',
        reembed.key_of(c.key_columns, 't'), reembed.rows_of(v),
        case when after_row is null then 'true' else reembed.key_after(c, 't', '$2', '>') end, reembed.key_after(c, 't', '$3', '<='),
        reembed.current_condition(v, reembed.input_hash(v, 't')))
      into missing using v.id, after_row, chunk_end;
  exception when others then
    -- The input of one of them cannot be made. A claim finds out which, and settles for nothing those that are current.
    select coalesce(array_agg(u.k), '{}') into missing from unnest(chunk) u(k)
     where not exists (select from reembed.jobs j where j.version_id = v.id and j.row_id = u.k offset 0);
  end;
  -- A row that another transaction is writing is left for later: waiting for its lock while holding others' would deadlock with the app.
  execute format('select coalesce(array_agg(row_id), ''{}''), coalesce(array_agg(place), ''{}''), coalesce(array_agg(rank), ''{}'')
                    from (select g.row_id, t.ctid as place, %s as rank from unnest($1) g(row_id) join %s t on %s for no key update of t skip locked) x',
      case when c.backfill_rank is null then 'null::int' else format('coalesce(%s(t.*), 1000)', c.backfill_rank) end,
      c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'))
    into locked, places, ranks using missing;
  -- The app may be enqueueing one of them for a vector that it writes, without holding the row; it is not waited for.
  perform set_config('lock_timeout', '500ms', true);
  if v.adopts and v.enqueued_at is null then
    adopted := reembed.adopt_rows(v, locked);
  end if;
  begin
    insert into reembed.jobs as j (version_id, row_id, priority, run_at)
    select v.id, m.row_id, 1, reembed.backfill_turn(m.place, m.rank) from unnest(locked, places, ranks) m(row_id, place, rank)
     where m.row_id not in (select unnest(adopted)) order by m.row_id
    on conflict do nothing;
    get diagnostics queued = row_count;
    if v.adopts and v.enqueued_at is null and v.text_column is not null then
      perform reembed.note_text_faults(v, (select coalesce(array_agg(m.row_id), '{}') from unnest(locked) m(row_id) where m.row_id <> all (adopted)));
    end if;
  exception when lock_not_available then
    locked := array[]::text[];
  end;
  return jsonb_build_object('enqueued', queued,
    'busy', (select coalesce(jsonb_agg(m.row_id), '[]'::jsonb) from unnest(missing) m(row_id) where m.row_id not in (select unnest(locked || adopted))),
    'last', case when cardinality(chunk) < max_rows then null else chunk_end end);
end
$$;
comment on function reembed.enqueue_missing(int, text, int) is
  'Enqueues, as backfill, the next max_rows rows after after_row that are neither current nor queued; of a version that adopts, those with a vector are taken as they are. Returns { enqueued, busy: row ids that others were writing, last: where to go on, null at the end }. A busy row is asked for again with enqueue_row, one a transaction.';

create function reembed.enqueue_row(version_id int, row_id text) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  needed boolean;
begin
  select * into strict v from reembed.versions where id = enqueue_row.version_id;
  select * into strict c from reembed.collections where id = v.collection_id;
  perform set_config('lock_timeout', '500ms', true);
  execute format('select true from %s t where %s for no key update of t', c.source_table, reembed.key_match(c, c.key_columns, 't', '$1'))
    into needed using enqueue_row.row_id;
  if needed is null then
    return false;
  end if;
  if v.adopts and v.enqueued_at is null and cardinality(reembed.adopt_rows(v, array[enqueue_row.row_id])) > 0 then
    return false;
  end if;
  insert into reembed.jobs as j (version_id, row_id, priority) values (v.id, enqueue_row.row_id, 1) on conflict do nothing;
  if not found then
    return false;
  end if;
  if v.adopts and v.enqueued_at is null and v.text_column is not null then
    perform reembed.note_text_faults(v, array[enqueue_row.row_id]);
  end if;
  return true;
end
$$;
comment on function reembed.enqueue_row(int, text) is
  'Enqueues one row as backfill, waiting at most 500 ms for whoever writes it. True when a job was added. 55P03: still busy. Call it in a transaction of its own.';

create function reembed.adopt_vectors(version_id int) returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  adopted bigint;
begin
  select * into strict v from reembed.versions where id = adopt_vectors.version_id;
  select * into strict c from reembed.collections where id = v.collection_id;
  execute format('lock table %s in share row exclusive mode', c.source_table);
  execute format('lock table %s in share row exclusive mode', v.vector_table);
  execute format('insert into reembed.records as r (version_id, row_id, content_hash, space_id)
                  select $1, %s, %s, $2 from %s where %s is not null on conflict do nothing',
      reembed.key_of(c.key_columns, 't'), reembed.input_hash(v, 't'), reembed.rows_of(v), reembed.vector_of(v))
    using v.id, v.space_id;
  get diagnostics adopted = row_count;
  execute format('delete from reembed.jobs j using (
                    select %1$s as row_id from %2$s left join lateral (select * from reembed.records x where x.version_id = $1 and x.row_id = %1$s offset 0) r on true
                     where %3$s offset 0) k
                   where j.version_id = $1 and j.row_id = k.row_id',
      reembed.key_of(c.key_columns, 't'), reembed.rows_of(v), reembed.current_condition(v, reembed.input_hash(v, 't')))
    using v.id;
  insert into reembed.events (kind, collection, version, detail)
  values ('adopt', c.name, v.number, jsonb_build_object('rows', adopted, 'space', v.space_id));
  return adopted;
end
$$;
comment on function reembed.adopt_vectors(int) is
  'Takes the vectors that stand in a version''s column as embeddings of their rows'' present texts, writes their records and drops their jobs; costs no token. Writers wait meanwhile. Returns how many.';

-- The law, and its repair ------------------------------------------------------------------------------------------------------------

create function reembed.violations() returns table (collection text, version int, row_id text, problem text)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
begin
  for v in select * from reembed.versions x where x.maintained and x.enqueued_at is not null order by x.id loop
    select * into strict c from reembed.collections where id = v.collection_id;
    if not reembed.is_intact(v) then
      return query select c.name, v.number, null::text, 'its table or its vector column is gone';
      continue;
    end if;
    begin
      return query execute format(
        'select %1$L::text, %2$s, %3$s,
                case when r.row_id is null then ''no record''
                     when r.content_hash <> %4$s then ''the text changed''
                     when r.space_id <> %5$L then ''embedded in another space''
                     when r.skipped is null then ''the vector is missing''
                     else ''skipped, yet there is a vector'' end
           from %6$s left join reembed.records r on r.version_id = %7$s and r.row_id = %3$s
          where case when exists (select from reembed.jobs j where j.version_id = %7$s and j.row_id = %3$s) then false else not %8$s end',
        c.name, v.number, reembed.key_of(c.key_columns, 't'), reembed.input_hash(v, 't'), v.space_id,
        reembed.rows_of(v), v.id, reembed.current_condition(v, reembed.input_hash(v, 't')));
    exception when others then
      -- A row that is neither queued nor readable: reconcile enqueues it, the claim fails it and names it. Not the error's own message: it may quote the row.
      return query select c.name, v.number, null::text, format('%s cannot make the input of a row that has no job (%s)', v.input_function, sqlstate);
    end;
  end loop;
end
$$;
comment on function reembed.violations() is
  'Law 2 as a query: each row of a maintained version that is neither current nor queued, with the reason. It reads every row; no row comes back unless something bypassed the triggers. Where an input cannot be made it says so, without a row, for the rest of that version.';

create function reembed.reconcile(collection text default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  step jsonb;
  enqueued bigint := 0;
  busy bigint := 0;
  orphans bigint := 0;
  removed bigint;
  locked text[];
  state_table name;
begin
  -- A worker gives up before the server looks for deadlocks, so that it never causes one.
  perform set_config('lock_timeout', '500ms', true);
  if reconcile.collection is not null then
    perform reembed.collection_named(reconcile.collection);
  end if;
  for v in select x.* from reembed.versions x join reembed.collections y on y.id = x.collection_id
            where x.maintained and reembed.is_intact(x) and (reconcile.collection is null or y.name = reconcile.collection) order by x.id loop
    select * into strict c from reembed.collections where id = v.collection_id;
    step := null;
    loop
      step := reembed.enqueue_missing(v.id, step ->> 'last');
      enqueued := enqueued + (step ->> 'enqueued')::bigint;
      busy := busy + jsonb_array_length(step -> 'busy');
      exit when step ->> 'last' is null;
    end loop;
    -- Locked first, looked up in a later snapshot: a row that comes back meanwhile keeps its job and record.
    foreach state_table in array array['jobs', 'records'] loop
      execute format('select coalesce(array_agg(row_id), ''{}'') from (
                        select o.row_id from reembed.%I o where o.version_id = $1 and not exists (select from %s t where %s) for update skip locked) x',
          state_table, c.source_table, reembed.key_match(c, c.key_columns, 't', 'o.row_id')) into locked using v.id;
      execute format('delete from reembed.%I o where o.version_id = $1 and o.row_id = any ($2) and not exists (select from %s t where %s)',
          state_table, c.source_table, reembed.key_match(c, c.key_columns, 't', 'o.row_id')) using v.id, locked;
      get diagnostics removed = row_count;
      orphans := orphans + removed;
    end loop;
  end loop;
  return jsonb_build_object('enqueued', enqueued, 'orphans_removed', orphans, 'busy', busy);
end
$$;
comment on function reembed.reconcile(text) is
  'Mends what bypassed the triggers (replica-role restores, disabled triggers, a changed input function): enqueues rows that are neither current nor queued and removes jobs and records of rows that are gone. Returns { enqueued, orphans_removed, busy }; busy rows were being written: call again. RE005: unknown collection.';

revoke execute on all functions in schema reembed from public;
