-- Taking a collection out again, as if it had never been added.
-- Makes: reembed.remove_collection(), which the down migrations of `reembed add` call.
-- Risks: it forgets what every version's vectors were made from. The table, its rows and its vector columns stay; what was spent stays in the
-- ledger, and the events stay with the history.

create function reembed.remove_collection(collection text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '5s' as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  v reembed.versions;
  leftover record;
begin
  -- Writers first, in the order in which start_loading takes the tables; a table that was dropped is not waited for.
  for leftover in select x.oid::regclass as name from pg_catalog.pg_class x
                   where x.oid = c.source_table or x.oid in (select o.vector_table from reembed.versions o where o.collection_id = c.id)
                   order by x.oid <> c.source_table, x.oid loop
    execute format('lock table %s in share row exclusive mode', leftover.name);
  end loop;
  for v in select * from reembed.versions x where x.collection_id = c.id order by x.id loop
    for leftover in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                     where p.pronamespace = 'reembed'::regnamespace and p.proname in ('track_version_' || v.id, 'track_vectors_' || v.id) loop
      -- With the triggers that call it, which are nobody else's.
      execute format('drop function %s cascade', leftover.signature);
    end loop;
    for leftover in select p.oid::regprocedure as signature from pg_catalog.pg_proc p
                     where p.pronamespace = 'public'::regnamespace and p.proname in (v.match_function, v.hybrid_function) loop
      execute format('drop function %s', leftover.signature);
    end loop;
  end loop;
  delete from reembed.collections x where x.id = c.id;
  insert into reembed.events (kind, collection) values ('remove', c.name);
  notify pgrst, 'reload schema';
end
$$;
comment on function reembed.remove_collection(text) is
  'Takes a collection out of the registry: its triggers and RPCs, its versions with their jobs and records. Its table, rows and vectors stay. RE005: unknown; 55P03: one of its tables stayed locked, nothing was changed.';

revoke execute on all functions in schema reembed from public;
