-- What a system's migration does by itself with a table that is there, as long as it is small: its indexes are built and its vectors taken in the
-- migration's own transaction.
-- Makes: reembed.rows_at_once, index_at_once, load_at_once.
-- Risks: writers of the table wait until the migration commits. What is larger than rows_at_once() is left to `reembed index` and `reembed adopt`, which hold
-- nobody up: the migration says so.

create function reembed.rows_at_once() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 10000';
comment on function reembed.rows_at_once() is 'How many rows a table may have for a migration to index and adopt it by itself.';

create function reembed.index_at_once(collection text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  old_index regclass;
begin
  for v in select x.* from reembed.versions x join reembed.collections c on c.id = x.collection_id where c.name = index_at_once.collection order by x.number loop
    -- It may stand already, under another name.
    if not reembed.has_index(v) then
      execute reembed.index_sql(index_at_once.collection, v.number, build_concurrently => false);
    end if;
    for old_index in select i.indexrelid::regclass from pg_catalog.pg_index i
                       join pg_catalog.pg_class x on x.oid = i.indexrelid join pg_catalog.pg_am m on m.oid = x.relam
                      where i.indrelid = v.vector_table and m.amname = 'ivfflat' loop
      execute format('drop index %s', old_index);
    end loop;
  end loop;
end
$$;
comment on function reembed.index_at_once(text) is
  'Builds the HNSW index of each version of a collection that has none, in this transaction, and drops the ivfflat indexes of their tables. For tables of at most rows_at_once() rows.';

create function reembed.load_at_once(collection text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  step jsonb;
  busy text;
begin
  perform reembed.start_loading(load_at_once.collection, 1);
  v := reembed.version_numbered(load_at_once.collection, 1);
  -- A version that adopts takes its vectors with each row that is enqueued.
  if not v.adopts then
    perform reembed.adopt_vectors(v.id);
  end if;
  loop
    step := reembed.enqueue_missing(v.id, step ->> 'last');
    for busy in select jsonb_array_elements_text(step -> 'busy') loop
      perform reembed.enqueue_row(v.id, busy);
    end loop;
    exit when step ->> 'last' is null;
  end loop;
  perform reembed.finish_enqueueing(load_at_once.collection, 1);
end
$$;
comment on function reembed.load_at_once(text) is
  'Makes version 1 of a collection maintained in this transaction: the vectors that stand there get their records, as of the rows'' present texts, and rows without one a job. advance comes after it.';

revoke execute on all functions in schema reembed from public;
