-- What spelling a text is searched by: as it is written, without what typing leaves out.
-- Makes: the extensions unaccent and pg_trgm in the schema `extensions` (where they stand elsewhere they stay there), public.fold_spelling,
-- reembed.extension_schema and the bounds of a search by spelling. 520_hybrid makes the searches.
-- Risks: none for existing data.
--
-- unaccent is not immutable in itself: which dictionary it takes hangs on the search path. Here the dictionary is named with its schema, so that the same text
-- gives the same spelling in every session, and an index may stand on it. Whoever changes that dictionary's rules reindexes.

create extension if not exists unaccent with schema extensions;
create extension if not exists pg_trgm with schema extensions;

create function reembed.extension_schema(extension name) returns name
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select n.nspname from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = extension
$$;
comment on function reembed.extension_schema(name) is 'The schema in which an extension stands; null where it is not installed.';

do $$
begin
  execute format($sql$
create function public.fold_spelling(spelling text) returns text
language plpgsql immutable strict parallel safe security invoker set search_path = pg_catalog, pg_temp as $body$
begin
  return E'\n' || lower(%1$I.unaccent(%2$L::regdictionary, normalize(btrim(spelling)))) || E'\n';
end
$body$
$sql$, reembed.extension_schema('unaccent'), format('%I.unaccent', reembed.extension_schema('unaccent')));
end
$$;
comment on function public.fold_spelling(text) is
  'A text as searches by spelling compare it: in lower case, without diacritics and the blanks at its ends, between line feeds. Several spellings of one row stand one a line.';
revoke execute on function public.fold_spelling(text) from public;
grant execute on function public.fold_spelling(text) to anon, authenticated, service_role;

create function reembed.spelling_likeness() returns real language sql immutable set search_path = pg_catalog, pg_temp as 'select 0.3';
comment on function reembed.spelling_likeness() is
  'The least likeness (0 to 1: pg_trgm''s strict word similarity) of a spelling that is found. One wrong letter of seven leaves about 0.45.';

create function reembed.spelling_length() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 60';
comment on function reembed.spelling_length() is 'How many characters a query has at most that is taken for a spelling: a longer one is a sentence, and its pieces stand everywhere.';

create function reembed.spelling_candidates() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 1000';
comment on function reembed.spelling_candidates() is 'How many rows of a like spelling are ranked at most.';

revoke execute on all functions in schema reembed from public;
