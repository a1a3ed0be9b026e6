-- pgvector: there, where our functions name it, and new enough. The figures are those of its changelog.
with installed as (
  select e.extversion as version, string_to_array(split_part(e.extversion, '-', 1), '.')::int[] as parts, n.nspname as schema
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector')
select 'error' as level, 'extension vector' as object, 'it is not installed' as message, 'create extension vector with schema extensions;' as fix
 where not exists (select from installed)
union all
select 'error', 'extension vector', format('it stands in the schema %s, not in extensions', schema), 'alter extension vector set schema extensions;'
  from installed where schema <> 'extensions'
union all
select 'error', 'extension vector', format('it is %s: before 0.8.0 there is no iterative scan, and filtered searches lose rows', version), 'alter extension vector update;'
  from installed where parts < array[0, 8, 0]
union all
select 'warning', 'extension vector',
       format('it is %s: before 0.8.4 a vacuum of an HNSW index can fail, or (before 0.8.3) damage the index; before 0.8.2 a parallel build can overflow a buffer', version),
       'Upgrade the server''s pgvector, then: alter extension vector update;'
  from installed where parts >= array[0, 8, 0] and parts < array[0, 8, 4]
