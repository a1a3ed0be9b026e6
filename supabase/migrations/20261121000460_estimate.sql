-- What a version would have to buy, before anything is bought.
-- Makes: reembed.texts_to_embed(), which the estimate pages through.
-- Risks: none; it reads. Each page is a statement of its own, so that no snapshot stays open over a large table.

create function reembed.texts_to_embed(
  version_id int, anew boolean, after_row text default null, max_rows int default 500, share double precision default 1, max_chars int default 40000
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v reembed.versions;
  c reembed.collections;
  chunk text[];
  chunk_end text;
  page jsonb;
begin
  select * into strict v from reembed.versions x where x.id = texts_to_embed.version_id;
  select * into strict c from reembed.collections x where x.id = v.collection_id;
  -- The page's end first: the scan below then reads one range of the key.
  execute format('select coalesce(array_agg(k), ''{}'') from (select %1$s as k from %3$s t where %4$s order by %2$s limit $2) x',
      reembed.key_of(c.key_columns, 't'), reembed.key_list(c, 't'), c.source_table,
      case when after_row is null then 'true' else reembed.key_after(c, 't', '$1', '>') end)
    into chunk using after_row, max_rows;
  chunk_end := chunk[cardinality(chunk)];
  if chunk_end is null then
    return jsonb_build_object('rows', 0, 'current', 0, 'copies', 0, 'texts', '[]'::jsonb, 'last', null);
  end if;
  -- Each record by its own look into the index (`limit 1`): a join, or `exists`, may be planned as one hash of all records, on every page.
  execute format(
      'with page as materialized (
         select coalesce(%1$s(t.*), '''') as text, %2$s as hash, %3$s as is_current
           from %4$s left join lateral (select x.* from reembed.records x where x.version_id = $1 and x.row_id = %5$s limit 1) r on true
          where %6$s and %7$s),
       missing as materialized (
         select p.text, p.hash, not $4 and coalesce((
                  select true from reembed.records d
                   where d.version_id = $1 and d.content_hash = p.hash and d.space_id = $8 and d.skipped is null limit 1), false) as is_copy
           from page p where not p.is_current)
       select jsonb_build_object(
         ''rows'', (select count(*) from page),
         ''current'', (select count(*) from page where is_current),
         ''copies'', (select count(*) from missing where is_copy),
         ''texts'', (select coalesce(jsonb_agg(jsonb_build_object(''hash'', encode(m.hash, ''hex''), ''bytes'', octet_length(m.text), ''text'',
                       -- A share of the texts, not of the rows: equal ones are all in it or all out. What may be blank always comes along.
                       case when get_byte(m.hash, 0) * 65536 + get_byte(m.hash, 1) * 256 + get_byte(m.hash, 2) < $6 * 16777216 or m.text !~ ''\S''
                            then left(m.text, $7) end)), ''[]'')
                     from missing m where not m.is_copy))',
      v.input_function, reembed.input_hash(v, 't'),
      case when anew then 'false' else reembed.current_condition(v, reembed.input_hash(v, 't')) end,
      reembed.rows_of(v), reembed.key_of(c.key_columns, 't'),
      case when after_row is null then 'true' else reembed.key_after(c, 't', '$2', '>') end, reembed.key_after(c, 't', '$3', '<='))
    into page using v.id, after_row, chunk_end, anew, max_rows, share, max_chars, v.space_id;
  return page || jsonb_build_object('last', case when cardinality(chunk) < max_rows then null else chunk_end end);
end
$$;
comment on function reembed.texts_to_embed(int, boolean, text, int, double precision, int) is
  'One page of what a version would have to buy: of the next max_rows rows after after_row { rows, current, copies: rows whose text has a stored vector, texts: [{ hash, bytes, text }] of the rest, last: where to go on, null at the end }. With anew, of every row, as for a new version with the same input function. A share (0 to 1) of the texts comes along, cut to max_chars characters; of the others text is null.';

revoke execute on all functions in schema reembed from public;
