-- Each version's RPCs are what the registry would make now: space and width stand in their bodies as literals, because anon cannot read the registry.
with made as (
  select v.id, v.space_id, v.match_threshold, s.dimensions, f.name, f.is_match, split_part(f.sql, '$body$', 2) as body
    from reembed.versions v join reembed.spaces s on s.id = v.space_id
    cross join lateral (select r, r = v.match_function, reembed.rpc_sql(v, r) from unnest(reembed.rpcs_of(v)) r) f(name, is_match, sql)
   where v.state <> 'retired' and reembed.is_intact(v)),
compared as (
  select m.*, (select count(*) from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = m.name) as found,
         (select min(p.prosrc) from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = m.name) as there,
         (select min((regexp_match(pg_get_function_arguments(p.oid), 'match_threshold double precision DEFAULT ''?(-?[0-9.eE+-]+)'))[1])::double precision
            from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = m.name) as threshold,
         (select bool_and('plan_cache_mode=force_custom_plan' = any (p.proconfig))
            from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = m.name) as is_set
    from made m)
select x.level, 'public.' || c.name as object, x.message, format('select reembed.create_match_function(%s);', c.id) as fix
  from compared c
  cross join lateral (
    select 'error' as level, 'it is missing: nobody can search this version' as message where c.found = 0
    union all select 'error', 'it is there more than once: the API cannot choose' where c.found > 1
    union all select 'error', format('it does not check for vectors of %s, %s dimensions', c.space_id, c.dimensions)
     where c.found = 1 and (position(format('query_space <> %L', c.space_id) in c.there) = 0 or position(format('vector_dims(query_embedding) <> %s then', c.dimensions) in c.there) = 0)
    union all select 'warning', 'its body is not what the registry gives now'
     where c.found = 1 and c.there <> c.body
       and position(format('query_space <> %L', c.space_id) in c.there) > 0 and position(format('vector_dims(query_embedding) <> %s then', c.dimensions) in c.there) > 0
    union all select 'warning', format('its match_threshold is %s, the registry says %s', coalesce(c.threshold::text, 'another'), c.match_threshold)
     where c.found = 1 and c.is_match and c.threshold is distinct from c.match_threshold
    union all select 'warning', 'its plan_cache_mode is not force_custom_plan: a generic plan reads the whole table'
     where c.found = 1 and c.is_set is not true) x
