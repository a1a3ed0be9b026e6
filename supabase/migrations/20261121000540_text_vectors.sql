-- Vectors that an app keeps as texts: a column that holds each vector as a JSON array, beside the vector column or instead of it.
-- Makes: set_text_column, by which a version's vectors are read from there when its rows are enqueued for the first time, and written there with each
-- change while that is wanted; unreadable_texts, refresh_texts.
-- Risks: keeping the texts in step puts two BEFORE triggers on the table, under a lock time-out with retry; each stored vector is then written twice, the
-- second time as text (a 768-dimensional one has about 9 kB, and `npm run bench -- --only news` measures what that costs).
--
-- Reading follows the rules of adopting (adopt_rows in 300): rows are held by the caller, one that was edited since the triggers stand has a job and
-- is not read, vector and record change in one transaction. A text that is no vector of the space stops nothing: its row is enqueued like one without
-- a text, and its job says why.
-- Writing is a BEFORE trigger: text and vector change in the same update of the row, so none of the protocol's steps and none of its locks is new.

create function reembed.vector_of_text(content text, dimensions int, is_half boolean, out vector extensions.vector, out fault text)
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if content is null then
    return;
  end if;
  vector := content::extensions.vector;
  if extensions.vector_dims(vector) <> dimensions then
    fault := 'another width';
  elsif not extensions.vector_norm(vector) between 1e-15 and 1e15 then
    fault := 'no direction: its length is zero, or overflows';
  elsif is_half and extensions.vector_norm(vector::extensions.halfvec::extensions.vector) not between 1e-15 and 1e15 then
    fault := 'no direction in half precision';
  end if;
  if fault is not null then
    vector := null;
  end if;
exception
  when program_limit_exceeded then
    vector := null;
    fault := 'another width';
  when invalid_text_representation then
    vector := null;
    fault := 'no JSON array of numbers';
  when data_exception then
    vector := null;
    fault := case when content ~ '^\s*\[\s*\]\s*$' then 'another width' else 'a number that is not finite' end;
end
$$;
comment on function reembed.vector_of_text(text, int, boolean) is
  'The vector in a JSON array of numbers, or what is wrong with it (fault): no JSON array, another width, a number that is not finite, no direction. Both null for no text.';

create function reembed.text_fault(v reembed.versions, alias text) returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select format('reembed.vector_of_text(%s.%I::text, %s, %s)', alias, v.text_column, s.dimensions, (a.atttypid = 'extensions.halfvec'::regtype)::text)
    from reembed.spaces s, pg_catalog.pg_attribute a
   where s.id = v.space_id and a.attrelid = v.vector_table and a.attname = v.vector_column
$$;
comment on function reembed.text_fault(reembed.versions, text) is 'SQL text of vector_of_text for the text column of the row `alias`.';

create function reembed.read_text_vectors(v reembed.versions, row_ids text[]) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
  column_type text;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  select format_type(a.atttypid, a.atttypmod) into strict column_type
    from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.vector_column;
  perform set_config('reembed.completing', v.id::text, true);
  -- The application's triggers see the search path they are used to; the statement below names every schema itself.
  perform set_config('search_path', (select p.reset_val from pg_catalog.pg_settings p where p.name = 'search_path'), true);
  -- Row by row and by key, as in adopt_rows.
  execute format(
      'update %1$s t set %2$I = x.vector::%3$s
         from unnest($1) g(row_id)
        cross join lateral (select f.vector from %1$s s cross join lateral %4$s f
                             where %5$s and s.%2$I is null and s.%6$I is not null
                               and not exists (select from reembed.jobs j where j.version_id = $2 and j.row_id = g.row_id offset 0) offset 0) x
        where x.vector is not null and %7$s',
      c.source_table, v.vector_column, column_type, reembed.text_fault(v, 's'), reembed.key_match(c, c.key_columns, 's', 'g.row_id'), v.text_column,
      reembed.key_match(c, c.key_columns, 't', 'g.row_id'))
    using row_ids, v.id;
  perform set_config('reembed.completing', '', true);
  perform set_config('search_path', 'pg_catalog, pg_temp', true);
end
$$;
comment on function reembed.read_text_vectors(reembed.versions, text[]) is
  'Fills the vector column of those rows that have no vector and no job from the version''s text column, where a vector of the space stands there. The caller holds the rows and writes their records.';

create function reembed.note_text_faults(v reembed.versions, row_ids text[]) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c reembed.collections;
begin
  select * into strict c from reembed.collections where id = v.collection_id;
  execute format(
      'update reembed.jobs j set error = %L || x.fault
         from (select g.row_id, f.fault from unnest($2) g(row_id) join %s t on %s cross join lateral %s f where t.%I is null and f.fault is not null) x
        where j.version_id = $1 and j.row_id = x.row_id',
      reembed.text_fault_label(v), c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id'), reembed.text_fault(v, 't'), v.vector_column)
    using v.id, row_ids;
end
$$;
comment on function reembed.note_text_faults(reembed.versions, text[]) is
  'Writes into the jobs of those rows why the text in the version''s text column was not taken for a vector. It is never an attempt: the text is then embedded.';

create function reembed.text_fault_label(v reembed.versions) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$ select format('%s holds ', v.text_column) $$;
comment on function reembed.text_fault_label(reembed.versions) is 'How the note begins that note_text_faults writes.';

create function reembed.unreadable_texts(collection text, version int) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_object_agg(x.fault, x.rows), '{}')
    from (select substr(j.error, length(reembed.text_fault_label(v)) + 1) as fault, count(*) as rows
            from reembed.version_numbered(unreadable_texts.collection, unreadable_texts.version) v
            join reembed.jobs j on j.version_id = v.id and v.text_column is not null and starts_with(j.error, reembed.text_fault_label(v))
           group by 1) x
$$;
comment on function reembed.unreadable_texts(text, int) is
  'How many rows of a version still wait to be embedded because the text in its text column was no vector of its space, by what is wrong with it. RE005, RE006: unknown.';

create function reembed.text_trigger_sql(v reembed.versions) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  text_type text;
begin
  select format_type(a.atttypid, a.atttypmod) into strict text_type
    from pg_catalog.pg_attribute a where a.attrelid = v.vector_table and a.attname = v.text_column;
  return format($sql$
create or replace function reembed.keep_text_%1$s() returns trigger
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $body$
begin
  -- A row that has no vector keeps what stands there: it may be all that there is of one.
  if new.%2$I is not null or tg_op = 'UPDATE' and old.%2$I is not null then
    new.%3$I := new.%2$I::text::%4$s;
  end if;
  return new;
end
$body$;
revoke execute on function reembed.keep_text_%1$s() from public;
comment on function reembed.keep_text_%1$s() is 'Trigger: %3$I is %2$I as a JSON array.';
create or replace trigger reembed_%1$s_text_insert before insert on %5$s for each row when (new.%2$I is not null) execute function reembed.keep_text_%1$s();
create or replace trigger reembed_%1$s_text_update before update on %5$s for each row
  when (%6$s or old.%3$I::text is distinct from new.%3$I::text) execute function reembed.keep_text_%1$s();
$sql$, v.id, v.vector_column, v.text_column, text_type, v.vector_table, reembed.vector_differs(v));
end
$$;
comment on function reembed.text_trigger_sql(reembed.versions) is 'SQL text of the triggers that keep a version''s text column in step with its vectors.';

create function reembed.set_text_column(collection text, version int, text_column name, keep boolean default false) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  v reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
  sibling reembed.versions;
begin
  if v.state = 'retired' then
    perform reembed.refuse_step(v, 'set_text_column');
  end if;
  if not reembed.stands_in_source(v) then
    raise exception using errcode = 'RE008', message = format('version %s of %s has a table of its own, which holds no texts', v.number, c.name),
      hint = 'Texts are read and kept where they stand in the same row as the vector.';
  end if;
  if keep is null or text_column is null and keep then
    raise exception using errcode = 'RE004', message = 'keep needs a text_column', hint = 'Name the column, or pass keep => false.';
  end if;
  if text_column is not null and not exists (
    select from pg_catalog.pg_attribute a
     where a.attrelid = c.source_table and a.attname = set_text_column.text_column and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
       and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'json'::regtype, 'jsonb'::regtype)) then
    raise exception using errcode = 'RE008', message = format('text_column: %s has no column %I of type text, varchar, json or jsonb that can be written', c.source_table, text_column),
      hint = 'It holds each vector as a JSON array of numbers.';
  end if;
  for attempt in 1..15 loop
    begin
      -- Dropping a trigger needs more than making one, and is asked for only where one stands.
      perform reembed.lock_tables(array[c.source_table], case when v.keeps_text then 'access exclusive' else 'share row exclusive' end, attempt);
      select * into strict v from reembed.versions x where x.id = v.id for no key update;
      if v.keeps_text then
        execute format('drop function if exists reembed.keep_text_%s() cascade', v.id);
      end if;
      update reembed.versions x set text_column = set_text_column.text_column, keeps_text = keep where x.id = v.id returning * into v;
      if keep then
        execute reembed.text_trigger_sql(v);
      end if;
      for sibling in select * from reembed.versions x where x.collection_id = c.id and x.maintained order by x.id loop
        execute reembed.trigger_function_sql(sibling);
      end loop;
      insert into reembed.events (kind, collection, version, detail)
      values ('text_column', c.name, v.number, jsonb_build_object('column', v.text_column, 'keep', v.keeps_text));
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.05 * attempt);
    end;
  end loop;
  raise exception using errcode = 'RE009', message = format('%s is locked by a long transaction: nothing was changed', c.source_table),
    hint = 'See pg_stat_activity for who holds it, then run the same again.';
end
$$;
comment on function reembed.set_text_column(text, int, name, boolean) is
  'Says in which column a version''s vectors also stand as JSON arrays; null: in none. Of a version that adopts, rows without a vector get theirs from there when they are enqueued for the first time. keep: from now on the column follows each change of the vector, in the same update of the row; what was written before is brought up by refresh_texts. RE004, RE005, RE006, RE008 on bad arguments; RE009: the table stayed locked for fifteen seconds; RE010: it was finalized.';

create function reembed.refresh_texts(collection text, version int, after_row text default null, max_rows int default 500) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v constant reembed.versions := reembed.version_numbered(collection, version);
  c constant reembed.collections := reembed.collection_named(collection);
  chunk text[];
  locked text[];
  written int;
begin
  perform reembed.check_range('max_rows', max_rows, 1, 10000);
  if not v.keeps_text then
    raise exception using errcode = 'RE007', message = format('version %s of %s keeps no text column', v.number, c.name),
      hint = 'First: select reembed.set_text_column(''<collection>'', <version>, ''<column>'', keep => true);';
  end if;
  execute format('select coalesce(array_agg(k), ''{}'') from (select %s as k from %s t where %s order by %s limit $2) x',
      reembed.key_of(c.key_columns, 't'), c.source_table, case when after_row is null then 'true' else reembed.key_after(c, 't', '$1', '>') end, reembed.key_list(c, 't'))
    into chunk using after_row, max_rows;
  -- A row that another transaction is writing is brought up by that one, or by the next call.
  execute format('select coalesce(array_agg(row_id), ''{}'') from (select g.row_id from unnest($1) g(row_id) join %s t on %s for no key update of t skip locked) x',
      c.source_table, reembed.key_match(c, c.key_columns, 't', 'g.row_id')) into locked using chunk;
  execute format('update %1$s t set %2$I = t.%3$I::text::%4$s from unnest($1) g(row_id)
                   where %5$s and t.%3$I is not null and t.%2$I::text is distinct from (t.%3$I::text::%4$s)::text',
      c.source_table, v.text_column, v.vector_column,
      (select format_type(a.atttypid, a.atttypmod) from pg_catalog.pg_attribute a where a.attrelid = c.source_table and a.attname = v.text_column),
      reembed.key_match(c, c.key_columns, 't', 'g.row_id')) using locked;
  get diagnostics written = row_count;
  return jsonb_build_object('written', written, 'busy', cardinality(chunk) - cardinality(locked), 'last', case when cardinality(chunk) < max_rows then null else chunk[cardinality(chunk)] end);
end
$$;
comment on function reembed.refresh_texts(text, int, text, int) is
  'Brings the text column of the next max_rows rows after after_row up to their vectors, for a version that keeps it in step. Returns { written, busy: rows that others were writing, last: where to go on, null at the end }. RE004 to RE006 on bad arguments; RE007: it keeps none.';

revoke execute on all functions in schema reembed from public;
