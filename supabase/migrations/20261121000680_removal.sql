-- Taking a collection out again, as if it had never been added.
-- Makes: reembed.remove_collection(), which the down migrations of `reembed add` call.
-- Risks: it forgets what every version's vectors were made from. The table, its rows and its vector columns stay; what was spent stays in the
-- ledger, and the events stay with the history.

create function reembed.remove_collection(collection text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  leftover record;
begin
  for attempt in 1..15 loop
    begin
      -- A wait that ends gives everything back, as in start_loading: a worker may hold a job of it while it waits for the table.
      perform reembed.lock_tables(array(
        select x.oid::regclass from pg_catalog.pg_class x
         where x.oid = c.source_table or x.oid in (select v.vector_table from reembed.versions v where v.collection_id = c.id)
         order by x.oid <> c.source_table, x.oid), 'share row exclusive', attempt);
      for leftover in select p.oid::regprocedure as signature, p.pronamespace = 'reembed'::regnamespace as has_triggers
                        from reembed.versions v
                        join pg_catalog.pg_proc p on p.pronamespace = 'reembed'::regnamespace and p.proname in ('track_version_' || v.id, 'track_vectors_' || v.id, 'keep_text_' || v.id)
                          or p.pronamespace = 'public'::regnamespace and p.proname = any (reembed.rpcs_of(v))
                       where v.collection_id = c.id loop
        -- The triggers that call it are ours, too; what of the app's own stands on a search is not.
        execute format('drop function %s %s', leftover.signature, case when leftover.has_triggers then 'cascade' else 'restrict' end);
      end loop;
      delete from reembed.collections x where x.id = c.id;
      insert into reembed.events (kind, collection) values ('remove', c.name);
      notify pgrst, 'reload schema';
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.05 * attempt);
    end;
  end loop;
  raise exception using errcode = 'RE009', message = format('%s is in use: the collection %s could not be removed', c.source_table, c.name),
    hint = 'Nothing was changed. End the workers, see pg_stat_activity for who holds it, then run the same again.';
end
$$;
comment on function reembed.remove_collection(text) is
  'Takes a collection out of the registry: its triggers and RPCs, its versions with their jobs and records. Its table, rows and vectors stay. RE005: unknown; RE009: one of its tables stayed locked for fifteen seconds, nothing was changed.';

revoke execute on all functions in schema reembed from public;
