-- What the registry names is still there, and of the same type: somebody renamed, retyped or dropped it under a version.
select 'error' as level, c.name as object, 'its table is gone' as message, format('Restore the table, or give the collection up: select reembed.remove_collection(%L);', c.name) as fix
  from reembed.collections c where not exists (select from pg_class x where x.oid = c.source_table)
union all
select 'error', c.name, format('%s has no column %I any more: it is one of the collection''s %s', c.source_table, u.name, u.list),
       format('update reembed.collections set %1$s = array_replace(%1$s, %2$L, ''<its new name>'') where id = %3$s; then renew functions and triggers: docs/doctor.md, registry.', u.list, u.name, c.id)
  from reembed.collections c
  cross join lateral (select 'key_columns', k from unnest(c.key_columns) k union all select 'public_columns', k from unnest(c.public_columns) k
                      union all select 'filter_columns', k from unnest(c.filter_columns) k union all select 'list_filter_columns', k from unnest(c.list_filter_columns) k) u(list, name)
 where exists (select from pg_class x where x.oid = c.source_table)
   and not exists (select from pg_attribute a where a.attrelid = c.source_table and a.attname = u.name and not a.attisdropped)
union all
select 'error', c.name, format('(%s) is no longer a key of %s that is unique and not null', array_to_string(c.key_columns, ', '), c.source_table),
       format('alter table %s add primary key (%s);', c.source_table, (select string_agg(quote_ident(k), ', ') from unnest(c.key_columns) k))
  from reembed.collections c
 where exists (select from pg_class x where x.oid = c.source_table)
   and not exists (select from unnest(c.key_columns) k where not exists (select from pg_attribute a where a.attrelid = c.source_table and a.attname = k and not a.attisdropped))
   and not reembed.is_unique_key(c.source_table, c.key_columns, true)
union all
select 'error', format('%s v%s', c.name, v.number),
       case when a.attname is null then format('its column %I is gone', v.vector_column)
            else format('its column %I is %s, and its space %s has %s dimensions', v.vector_column, format_type(a.atttypid, a.atttypmod), s.id, s.dimensions) end,
       case when a.attname is null then format('update reembed.versions set vector_column = ''<its new name>'' where id = %s; then renew functions and triggers: docs/doctor.md, registry.', v.id)
            else 'Give the column its type again, or add a version in the space that it has now.' end
  from reembed.versions v join reembed.collections c on c.id = v.collection_id join reembed.spaces s on s.id = v.space_id
  left join pg_attribute a on a.attrelid = v.vector_table and a.attname = v.vector_column and not a.attisdropped
 where v.state <> 'retired' and exists (select from pg_class x where x.oid = c.source_table)
   and (a.attname is null or a.atttypmod <> s.dimensions or format_type(a.atttypid, null) !~ '(^|\.)(vector|halfvec)$')
union all
select 'error', format('%s v%s', c.name, v.number),
       case when p.oid is null then format('its input function %s is gone', v.input_function) else format('its input function %s is not immutable, or returns no text', v.input_function) end,
       case when p.oid is null then 'Create it again, or name another: update reembed.versions set input_function = ... ; then run reembed reconcile.'
            else format('Make it depend on its row alone, then: alter function %s immutable;', p.oid::regprocedure) end
  from reembed.versions v join reembed.collections c on c.id = v.collection_id
  left join pg_proc p on p.oid = to_regprocedure(case when exists (select from pg_class x where x.oid = c.source_table) then format('%s(%s)', v.input_function, c.source_table) end)
 where v.state <> 'retired' and exists (select from pg_class x where x.oid = c.source_table) and (p.oid is null or p.provolatile <> 'i' or p.prorettype <> 'text'::regtype)
union all
select 'error', 'public.' || p.proname, format('it returns %I as %s, and the column is %s', r.name, r.type::regtype, format_type(a.atttypid, null)),
       format('select reembed.create_match_function(%s);', v.id)
  from reembed.versions v join reembed.collections c on c.id = v.collection_id
  join pg_proc p on p.pronamespace = 'public'::regnamespace and p.proname = v.match_function
  cross join lateral unnest(p.proargnames, p.proallargtypes, p.proargmodes) r(name, type, mode)
  join pg_attribute a on a.attrelid = c.source_table and a.attname = r.name and not a.attisdropped
 where v.state <> 'retired' and r.mode = 't' and r.name = any (c.public_columns) and a.atttypid <> r.type
 order by 2, 3
