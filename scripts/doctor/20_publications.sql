-- Publications, Realtime's above all, that send the vectors of every row that is stored.
select 'warning' as level, format('publication %I', p.pubname) as object, format('it sends the vectors in %s.%s with every change of a row', p.schemaname, p.tablename) as message,
       case when b.puballtables or exists (select from pg_publication_namespace n where n.pnpubid = b.oid and n.pnnspid = to_regnamespace(quote_ident(p.schemaname)))
            then 'It publishes whole schemas: name its tables one by one, this one with a list of columns, or keep the vectors in a table of their own.'
            else format('alter publication %1$I drop table %2$s; alter publication %1$I add table %2$s (%3$s)%4$s;', p.pubname, v.vector_table,
                 (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a join pg_type t on t.oid = a.atttypid
                   where a.attrelid = v.vector_table and a.attname = any (p.attnames) and t.typname not in ('vector', 'halfvec')),
                 coalesce(format(' where (%s)', p.rowfilter), '')) end as fix
  from (select distinct vector_table, vector_column from reembed.versions where state <> 'retired') v
  join pg_class x on x.oid = v.vector_table join pg_namespace s on s.oid = x.relnamespace
  join pg_publication_tables p on p.schemaname = s.nspname and p.tablename = x.relname and v.vector_column = any (p.attnames)
  join pg_publication b on b.pubname = p.pubname
 group by p.pubname, p.schemaname, p.tablename, p.attnames, p.rowfilter, b.oid, b.puballtables, v.vector_table
