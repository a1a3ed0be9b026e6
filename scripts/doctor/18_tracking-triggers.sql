-- The triggers that keep a maintained version's jobs true: there, switched on, and written for the columns as they are called now.
with expected as (
  select v.id, c.name, v.number, c.source_table, t.suffix,
         case when t.suffix ~ '^vectors' then v.vector_table else c.source_table end as on_table,
         format('begin; lock table %s in share row exclusive mode; %sselect reembed.create_triggers(v) from reembed.versions v where v.id = %s; commit;',
                c.source_table, case when v.vector_table = c.source_table then '' else format('lock table %s in share row exclusive mode; ', v.vector_table) end, v.id) as renew
    from reembed.versions v join reembed.collections c on c.id = v.collection_id
    cross join unnest(array['insert', 'update', 'delete', 'truncate', 'vectors', 'vectors_truncate']) t(suffix)
   where v.maintained and reembed.is_intact(v) and (t.suffix !~ '^vectors' or not reembed.stands_in_source(v)))
select 'error' as level, format('%s v%s', e.name, e.number) as object,
       format('the trigger reembed_%s_%s is missing on %s: edits are forgotten', e.id, e.suffix, e.on_table) as message, e.renew as fix
  from expected e where not exists (select from pg_trigger g where g.tgrelid = e.on_table and g.tgname = format('reembed_%s_%s', e.id, e.suffix))
union all
select 'error', format('%s v%s', e.name, e.number), format('the trigger %s on %s is switched off: edits are forgotten', g.tgname, e.on_table),
       format('alter table %s enable trigger %I;', e.on_table, g.tgname)
  from expected e join pg_trigger g on g.tgrelid = e.on_table and g.tgname = format('reembed_%s_%s', e.id, e.suffix) where g.tgenabled in ('D', 'R')
union all
-- The lines about siblings' columns are left out: those are written anew only when a version begins to load.
select 'error', format('%s v%s', e.name, e.number), format('reembed.%s is not what the registry gives now: a table or a column was renamed under it', p.proname), e.renew
  from expected e join reembed.versions v on v.id = e.id
  cross join lateral (select 'track_version_' || e.id, reembed.trigger_function_sql(v) where e.suffix = 'insert'
                      union all select 'track_vectors_' || e.id, reembed.vector_trigger_function_sql(v) where e.suffix = 'vectors') f(name, sql)
  join pg_proc p on p.pronamespace = 'reembed'::regnamespace and p.proname = f.name
 where regexp_replace(p.prosrc, ' *unchanged\.[^\n]*\n', '', 'g') <> regexp_replace(split_part(f.sql, '$body$', 2), ' *unchanged\.[^\n]*\n', '', 'g')
