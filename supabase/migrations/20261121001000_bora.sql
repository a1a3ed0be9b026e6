-- The dictionary of a small language: documents about it, phrases and entries, searched with 384 dimensions and moved to 1536.
-- Makes: public.bora_docs, public.phrases and public.lexicon where they are missing and adopts them where they exist, as 800_course does; the text search
-- configuration public.spanish_unaccent; each table is searched by meaning, by words and by spelling.
-- Risks: on existing tables RLS is switched on (anyone reads, service_role writes), the functions match_bora_docs, match_phrases and match_lexicon with their
-- _v2 are replaced by ones that use the index, and writers wait while the records of existing vectors are written. Of a table of more than 10,000 rows the
-- indexes are left to be built by hand: a notice says how.

create table if not exists public.bora_docs (
  id uuid primary key default gen_random_uuid(),
  title text not null,
  content text not null,
  source text
);
alter table public.bora_docs
  add column if not exists source text,
  add column if not exists embedding extensions.vector(384),
  add column if not exists embedding_1536 extensions.vector(1536);
comment on table public.bora_docs is 'Texts about the language, one passage a row; source says where it stands.';

create table if not exists public.phrases (
  id uuid primary key default gen_random_uuid(),
  bora text not null,
  spanish text not null,
  english text
);
alter table public.phrases
  add column if not exists english text,
  add column if not exists embedding extensions.vector(384),
  add column if not exists embedding_1536 extensions.vector(1536);
comment on table public.phrases is 'A phrase in Bora, Spanish and English.';

create table if not exists public.lexicon (
  id uuid primary key default gen_random_uuid(),
  headword text not null,
  part_of_speech text,
  gloss text not null,
  variants text
);
alter table public.lexicon
  add column if not exists part_of_speech text,
  add column if not exists variants text,
  add column if not exists homograph int not null default 1,
  add column if not exists embedding extensions.vector(384),
  add column if not exists embedding_1536 extensions.vector(1536);
comment on table public.lexicon is 'An entry of the dictionary a row.';
comment on column public.lexicon.variants is 'Other spellings and forms by which the entry is looked up, one a line.';
comment on column public.lexicon.homograph is 'Tells entries of the same headword and part of speech apart, as dictionaries number them.';

-- What stands there must fit what follows: a refusal leaves the tables as they were.
do $$
declare
  misfit text;
  keyless text;
begin
  select format('public.%s cannot be adopted: %s is %s', e.tbl, e.name, case
           when a.attname is null then 'missing'
           when e.fits ~ 'vector' then format('%s, not a vector of a known width', format_type(a.atttypid, a.atttypmod))
           else format('%s, not %s', format_type(a.atttypid, a.atttypmod), e.fits) end)
    into misfit
    from (values ('bora_docs', 'title', 'text'), ('bora_docs', 'content', 'text'), ('bora_docs', 'source', 'text'), ('bora_docs', 'embedding', 'a vector'),
                 ('phrases', 'bora', 'text'), ('phrases', 'spanish', 'text'), ('phrases', 'english', 'text'), ('phrases', 'embedding', 'a vector'),
                 ('lexicon', 'headword', 'text'), ('lexicon', 'part_of_speech', 'text'), ('lexicon', 'gloss', 'text'), ('lexicon', 'variants', 'text'),
                 ('lexicon', 'homograph', 'integer'), ('lexicon', 'embedding', 'a vector')) e(tbl, name, fits)
    left join pg_catalog.pg_attribute a on a.attrelid = format('public.%I', e.tbl)::regclass and a.attname = e.name and not a.attisdropped
   where a.attname is null
      or case when e.fits ~ 'vector' then a.atttypid <> 'extensions.vector'::regtype or a.atttypmod < 1
              when e.fits = 'text' then a.atttypid not in ('text'::regtype, 'varchar'::regtype)
              else a.atttypid <> e.fits::regtype end
   limit 1;
  if misfit is not null then
    raise exception using errcode = 'RE008', message = misfit,
      hint = 'bora_docs needs title, content and source text, phrases bora, spanish and english text, lexicon headword, part_of_speech, gloss and variants text, each embedding vector(n): see alter table ... alter column ... type.';
  end if;
  select t.name into keyless from unnest(array['bora_docs', 'phrases', 'lexicon']) t(name)
   where not exists (select from pg_catalog.pg_index i where i.indrelid = format('public.%I', t.name)::regclass and i.indisprimary) limit 1;
  if keyless is not null then
    raise exception using errcode = 'RE008', message = format('public.%s cannot be adopted: it has no primary key', keyless),
      hint = format('Run: alter table public.%s add primary key (id); then apply this migration again.', keyless);
  end if;
end
$$;

-- By what a row of a file is known again. Where rows of an adopted table share one, nothing is ingested by it until they are told apart.
do $$
declare
  natural_key record;
begin
  for natural_key in
    select * from (values ('bora_docs', 'title, source'), ('phrases', 'bora'), ('lexicon', 'headword, part_of_speech, homograph')) k(tbl, columns)
  loop
    begin
      execute format('create unique index if not exists %I on public.%I (%s) nulls not distinct', natural_key.tbl || '_natural_key', natural_key.tbl, natural_key.columns);
    exception when unique_violation or program_limit_exceeded then
      raise notice 'rows of % share (%), or hold more of it than an index takes: reembed ingest knows them by their id alone', natural_key.tbl, natural_key.columns;
    end;
  end loop;
end
$$;

alter table public.bora_docs enable row level security;
alter table public.phrases enable row level security;
alter table public.lexicon enable row level security;
revoke all on public.bora_docs, public.phrases, public.lexicon from public, anon, authenticated, service_role;
grant select on public.bora_docs, public.phrases, public.lexicon to anon, authenticated;
grant select, insert, update, delete, truncate on public.bora_docs, public.phrases, public.lexicon to service_role;
drop policy if exists "anyone reads the documents" on public.bora_docs;
create policy "anyone reads the documents" on public.bora_docs for select to anon, authenticated using (true);
drop policy if exists "anyone reads the phrases" on public.phrases;
create policy "anyone reads the phrases" on public.phrases for select to anon, authenticated using (true);
drop policy if exists "anyone reads the dictionary" on public.lexicon;
create policy "anyone reads the dictionary" on public.lexicon for select to anon, authenticated using (true);

-- Spanish without diacritics, for rows and queries alike. Bora is written in it too: a word that no Spanish ending fits stays as it is.
do $$
begin
  if not exists (select from pg_catalog.pg_ts_config t where t.cfgnamespace = 'public'::regnamespace and t.cfgname = 'spanish_unaccent') then
    create text search configuration public.spanish_unaccent (copy = pg_catalog.spanish);
    execute format('alter text search configuration public.spanish_unaccent alter mapping for hword, hword_part, word with %I.unaccent, pg_catalog.spanish_stem',
                   reembed.extension_schema('unaccent'));
  end if;
end
$$;

create or replace function reembed.bora_docs_input(doc public.bora_docs) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(doc.title, '') || E'\n\n' || coalesce(doc.content, '')
$$;
comment on function reembed.bora_docs_input(public.bora_docs) is 'The text of a document that is embedded: its title, an empty line, its content.';

create or replace function reembed.phrases_input(phrase public.phrases) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(phrase.bora, '') || E'\n' || coalesce(phrase.spanish, '') || coalesce(E'\n' || phrase.english, '')
$$;
comment on function reembed.phrases_input(public.phrases) is 'The text of a phrase that is embedded: its languages, one a line.';

create or replace function reembed.lexicon_input(entry public.lexicon) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(entry.headword, '') || coalesce(' (' || entry.part_of_speech || ')', '') || E'\n' || coalesce(entry.gloss, '') || coalesce(E'\n' || entry.variants, '')
$$;
comment on function reembed.lexicon_input(public.lexicon) is 'The text of an entry that is embedded: headword and part of speech, the gloss, the variants.';

do $$
declare
  source record;
  old_width int;
  old_space text;
  new_space text;
  row_total bigint;
  has_vectors boolean;
  is_adopted boolean;
  statement text;
begin
  new_space := reembed.add_space('openai', 'text-embedding-3-small', 1536, 0.02, 0.25);
  for source in
    select *
      from (values
        ('bora_docs', array['id', 'title', 'content', 'source'], array['source'],
         $words$setweight(to_tsvector('public.spanish_unaccent', left(coalesce(title, ''), 1000)), 'A') || setweight(to_tsvector('public.spanish_unaccent', left(coalesce(content, ''), 200000)), 'B')$words$,
         $spelling$left(title, 1000)$spelling$),
        ('phrases', array['id', 'bora', 'spanish', 'english'], array[]::name[],
         $words$to_tsvector('public.spanish_unaccent', left(coalesce(bora, '') || ' ' || coalesce(spanish, '') || ' ' || coalesce(english, ''), 200000))$words$,
         $spelling$left(coalesce(bora, '') || E'\n' || coalesce(spanish, '') || E'\n' || coalesce(english, ''), 2000)$spelling$),
        ('lexicon', array['id', 'headword', 'homograph', 'part_of_speech', 'gloss', 'variants'], array['part_of_speech'],
         $words$setweight(to_tsvector('public.spanish_unaccent', left(coalesce(headword, '') || ' ' || coalesce(variants, ''), 1000)), 'A') || setweight(to_tsvector('public.spanish_unaccent', left(coalesce(gloss, ''), 200000)), 'B')$words$,
         $spelling$left(coalesce(headword, '') || E'\n' || coalesce(variants, ''), 2000)$spelling$)) s(name, public_columns, filter_columns, words, spelling)
  loop
    select a.atttypmod into old_width from pg_catalog.pg_attribute a where a.attrelid = format('public.%I', source.name)::regclass and a.attname = 'embedding';
    execute format('select count(*), coalesce(bool_or(embedding is not null), false) from public.%I', source.name) into row_total, has_vectors;
    is_adopted := exists (select from pg_catalog.pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = 'match_' || source.name);
    old_space := case
      -- Vectors that somebody else's program made: they are searched as they are, and nothing here can make more of them.
      when has_vectors or old_width <> 384 then reembed.add_space('external', 'sentence-transformers', old_width, 0, 0.5)
      else reembed.add_space('supabase', 'gte-small', 384, 0, 0.75, 512) end;
    perform reembed.add_collection(source.name, format('public.%I', source.name)::regclass, source.public_columns::name[], source.filter_columns::name[]);
    perform reembed.add_version(source.name, old_space, 'embedding', format('reembed.%s_input', source.name), match_threshold => 0.5, takes_unnamed => is_adopted);
    perform reembed.add_version(source.name, new_space, 'embedding_1536', format('reembed.%s_input', source.name));
    if old_space like 'external/%' then
      perform reembed.pause_space(old_space, 'these vectors were brought from elsewhere: no provider here can make more of them');
    end if;

    if row_total <= reembed.rows_at_once() then
      perform reembed.index_at_once(source.name);
      execute format('create index if not exists %I on public.%I using gin ((%s))', source.name || '_words_idx', source.name, source.words);
      execute format('create index if not exists %I on public.%I using gin (public.fold_spelling((%s)) %I.gin_trgm_ops)',
                     source.name || '_spelling_idx', source.name, source.spelling, reembed.extension_schema('pg_trgm'));
      perform reembed.set_lexical_search(source.name, source.words, 'public.spanish_unaccent');
      perform reembed.set_spelling_search(source.name, source.spelling);
    else
      raise notice '% has % rows: build its index with: reembed index --collection %', source.name, row_total, source.name;
      foreach statement in array array[
        format('create index concurrently %I on public.%I using gin ((%s));', source.name || '_words_idx', source.name, source.words),
        format('create index concurrently %I on public.%I using gin (public.fold_spelling((%s)) %I.gin_trgm_ops);',
               source.name || '_spelling_idx', source.name, source.spelling, reembed.extension_schema('pg_trgm')),
        format('select reembed.set_lexical_search(%L, %L, ''public.spanish_unaccent''), reembed.set_spelling_search(%1$L, %3$L);', source.name, source.words, source.spelling)]
      loop
        raise notice 'for hybrid search run: %', statement;
      end loop;
    end if;

    perform reembed.load_at_once(source.name);
    perform reembed.advance(source.name, 1);
  end loop;
end
$$;

revoke execute on all functions in schema reembed from public;
notify pgrst, 'reload schema';
