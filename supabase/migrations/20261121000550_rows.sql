-- Rows from files into a collection's table: which fields a row has, and how rows are written so that the same file again changes nothing.
-- Makes: reembed.natural_key, reembed.row_fields, reembed.ingest_rows.
-- Risks: none for existing data. ingest_rows writes the table as whoever calls it; a row that stands there as it is given is not touched, so that its
-- vectors stay and nothing is paid.

create function reembed.natural_key(c reembed.collections) returns name[]
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(
    (select min(k.columns)
       from (select i.indexrelid, array_agg(a.attname order by u.n) as columns
               from pg_catalog.pg_index i
               cross join lateral unnest(i.indkey::int2[]) with ordinality u(attnum, n)
               join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum
              where i.indrelid = c.source_table and i.indisunique and not i.indisprimary and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
                and u.n <= i.indnkeyatts
              group by i.indexrelid) k
     having count(*) = 1),
    c.key_columns)
$$;
comment on function reembed.natural_key(reembed.collections) is
  'The columns by which a row of a file is known again: those of the one unique index beside the primary key, else the collection''s key.';

create function reembed.row_fields(collection text) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_agg(jsonb_build_object(
           'name', a.attname, 'type', format_type(declared.oid, null), 'key', a.attname = any (reembed.natural_key(c)),
           'required', a.attnotnull and not a.atthasdef and a.attidentity = '') order by a.attnum)
    from reembed.collection_named(collection) c
    join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    cross join lateral (select case t.typtype when 'd' then t.typbasetype else t.oid end as oid from pg_catalog.pg_type t where t.oid = a.atttypid) declared
   where not exists (select from reembed.versions v where v.collection_id = c.id and v.vector_table = c.source_table and v.vector_column = a.attname)
$$;
comment on function reembed.row_fields(text) is
  'The columns that a row of a file may give: [{ name, type, key: part of its natural key, required: neither null nor a default will do }]. Vectors and generated columns are not among them. RE005: unknown.';

create function reembed.ingest_rows(collection text, fields name[], rows jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c constant reembed.collections := reembed.collection_named(collection);
  known constant jsonb := reembed.row_fields(collection);
  keys constant name[] := reembed.natural_key(c);
  columns name[];
  unknown_field name;
  inserted int;
  updated int;
begin
  select u.f into unknown_field from unnest(fields) u(f) where not exists (select from jsonb_array_elements(known) k where k ->> 'name' = u.f) limit 1;
  if found then
    raise exception using errcode = 'RE004', message = format('fields: %s takes no %I', c.name, left(unknown_field, 63)),
      hint = format('Its fields: %s.', (select string_agg(k ->> 'name', ', ') from jsonb_array_elements(known) k));
  end if;
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception using errcode = 'RE004', message = 'rows must be an array of objects', hint = 'Pass a JSON array.';
  end if;
  select array_agg(distinct f) into columns from unnest(fields || keys) f;
  execute format(
    'with written as (
       insert into %1$s as t (%2$s) select %3$s from jsonb_populate_recordset(null::%1$s, $1) r
       on conflict (%4$s) do update set %5$s where (%6$s) is distinct from (%7$s)
       returning t.xmax = 0 as is_new)
     select count(*) filter (where is_new), count(*) filter (where not is_new) from written',
    c.source_table,
    (select string_agg(quote_ident(f), ', ' order by f) from unnest(columns) f),
    -- A field that a row leaves out is null, or its column's default where that must not be null.
    (select string_agg(case when a.attnotnull and d.adbin is not null then format('coalesce(r.%I, %s)', f, pg_get_expr(d.adbin, d.adrelid)) else format('r.%I', f) end, ', ' order by f)
       from unnest(columns) f
       join pg_catalog.pg_attribute a on a.attrelid = c.source_table and a.attname = f
       left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum),
    (select string_agg(quote_ident(k), ', ' order by n) from unnest(keys) with ordinality u(k, n)),
    (select string_agg(format('%1$I = excluded.%1$I', f), ', ' order by f) from unnest(columns) f),
    (select string_agg(format('t.%I', f), ', ' order by f) from unnest(columns) f),
    (select string_agg(format('excluded.%I', f), ', ' order by f) from unnest(columns) f))
    into inserted, updated using rows;
  return jsonb_build_object('inserted', inserted, 'updated', updated, 'unchanged', jsonb_array_length(rows) - inserted - updated);
exception when cardinality_violation then
  raise exception using errcode = 'RE004', message = format('rows: two of them have the same key (%s)', array_to_string(keys, ', ')), hint = 'Give each key once.';
end
$$;
comment on function reembed.ingest_rows(text, name[], jsonb) is
  'Writes rows, objects of these fields, into a collection''s table: new ones by their natural key are inserted, changed ones updated, the others not touched. All or none. Returns { inserted, updated, unchanged }. RE004: a field that the table has not, or a key given twice; RE005: unknown.';

revoke execute on all functions in schema reembed from public;
