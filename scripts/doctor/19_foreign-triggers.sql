-- The app's own triggers that fire for every vector that is stored in its table.
select case when f.proname in ('http_request', 'moddatetime') then 'warning' else 'info' end as level, format('trigger %I on %s', g.tgname, g.tgrelid::regclass) as object,
       case f.proname when 'http_request' then 'it sends a webhook for every vector that is stored'
                      when 'moddatetime' then 'it sets the time of change for every vector that is stored'
                      else 'it fires for every vector that is stored' end as message,
       case when g.tgoldtable is not null or g.tgnewtable is not null
            then 'It cannot be limited to columns: let its function do nothing where only vectors changed, or keep the vectors in a table of their own.'
            else format('drop trigger %I on %s; %s;', g.tgname, g.tgrelid::regclass,
                 regexp_replace(pg_get_triggerdef(g.oid), '^(CREATE (?:CONSTRAINT )?TRIGGER (?:[^"]\S*|"(?:[^"]|"")*") .*?UPDATE)( (?:OR|ON) )',
                   '\1 OF ' || (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a join pg_type t on t.oid = a.atttypid
                                 where a.attrelid = g.tgrelid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and t.typname not in ('vector', 'halfvec')) || '\2')) end as fix
  from pg_trigger g join pg_proc f on f.oid = g.tgfoid
 where g.tgrelid in (select v.vector_table from reembed.versions v where v.state <> 'retired')
   and not g.tgisinternal and g.tgtype & 16 > 0 and g.tgenabled <> 'D' and g.tgname !~ '^reembed_\d+_' and g.tgattr = ''
 order by 2
