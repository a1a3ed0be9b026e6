-- The course chatbot: sections of course pages, searched with 384 dimensions and moved to 1536.
-- Makes: public.course_content where it is missing and adopts it where it exists: rows, ids, vectors and the calls of
-- match_course_content(query_embedding, match_threshold, match_count) stay as they are; the function is replaced by one that uses the index.
-- Risks: on an existing table RLS is switched on (anyone reads, service_role writes), writers wait while the records of existing vectors
-- are written, and an ivfflat index gives way to HNSW when the table is small enough to build it here (10,000 rows); so is the index of its words.

create table if not exists public.course_content (
  id uuid primary key default gen_random_uuid(),
  title text not null,
  content text not null,
  url text,
  content_type text,
  part_id text,
  module_id text,
  parent_id uuid,
  importance real default 0.7,
  embedding extensions.vector(384)
);
comment on table public.course_content is 'One section of a course page a row; url carries a fragment only where a browser lands on the section.';
alter table public.course_content
  add column if not exists url text,
  add column if not exists content_type text,
  add column if not exists part_id text,
  add column if not exists module_id text,
  add column if not exists parent_id uuid,
  add column if not exists importance real default 0.7,
  add column if not exists embedding extensions.vector(384),
  add column if not exists embedding_1536 extensions.vector(1536);

-- What stands there must fit what follows: a refusal leaves the table as it was.
do $$
declare
  misfit text;
begin
  select format('%s is %s', e.name, case
           when a.attname is null then 'missing'
           when e.fits ~ 'vector' then format('%s, not a vector of a known width', format_type(a.atttypid, a.atttypmod))
           else format('%s, not %s', format_type(a.atttypid, a.atttypmod), e.fits) end)
    into misfit
    from (values ('id', 'uuid'), ('title', 'text'), ('content', 'text'), ('url', 'text'), ('content_type', 'text'), ('part_id', 'text'),
                 ('module_id', 'text'), ('parent_id', 'uuid'), ('embedding', 'a vector')) e(name, fits)
    left join pg_catalog.pg_attribute a on a.attrelid = 'public.course_content'::regclass and a.attname = e.name and not a.attisdropped
   where a.attname is null
      or case when e.fits ~ 'vector' then a.atttypid <> 'extensions.vector'::regtype or a.atttypmod < 1
              when e.fits = 'text' then a.atttypid not in ('text'::regtype, 'varchar'::regtype)
              else a.atttypid <> e.fits::regtype end
   limit 1;
  if misfit is not null then
    raise exception using errcode = 'RE008', message = format('public.course_content cannot be adopted: %s', misfit),
      hint = 'It needs id uuid, title, content, url, content_type, part_id and module_id text, parent_id uuid and embedding vector(n): see alter table ... alter column embedding type extensions.vector(384).';
  end if;
  if (select array_agg(a.attname order by a.attnum) from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
       where i.indrelid = 'public.course_content'::regclass and i.indisprimary) is distinct from array['id']::name[] then
    raise exception using errcode = 'RE008', message = 'public.course_content cannot be adopted: id is not its primary key',
      hint = 'Run: alter table public.course_content add primary key (id); then apply this migration again.';
  end if;
end
$$;

create index if not exists course_content_page_idx on public.course_content (split_part(url, '#', 1));
create index if not exists course_content_parent_id_idx on public.course_content (parent_id);

alter table public.course_content enable row level security;
revoke all on public.course_content from public, anon, authenticated, service_role;
grant select on public.course_content to anon, authenticated;
grant select, insert, update, delete, truncate on public.course_content to service_role;
drop policy if exists "anyone reads course content" on public.course_content;
create policy "anyone reads course content" on public.course_content for select to anon, authenticated using (true);

create or replace function reembed.course_content_input(content public.course_content) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(content.title, '') || E'\n\n' || coalesce(content.content, '')
$$;
comment on function reembed.course_content_input(public.course_content) is 'The text of a section that is embedded: its title, an empty line, its content.';
revoke execute on function reembed.course_content_input(public.course_content) from public;

do $$
declare
  -- Cut, because a tsvector holds at most 1 MB: a longer text must not fail the app's own write.
  words constant text := $words$setweight(to_tsvector('english', left(coalesce(title, ''), 1000)), 'A') || setweight(to_tsvector('english', left(coalesce(content, ''), 200000)), 'B')$words$;
  old_width int;
  old_space text;
  new_space text;
  row_total bigint;
  has_vectors boolean;
  is_adopted boolean;
begin
  select a.atttypmod into old_width from pg_catalog.pg_attribute a
   where a.attrelid = 'public.course_content'::regclass and a.attname = 'embedding';
  select count(*), coalesce(bool_or(c.embedding is not null), false) into row_total, has_vectors from public.course_content c;
  is_adopted := exists (select from pg_catalog.pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = 'match_course_content');

  new_space := reembed.add_space('openai', 'text-embedding-3-small', 1536, 0.02, 0.25);
  old_space := case
    when old_width = 1536 then reembed.add_space('openai', 'text-embedding-ada-002', 1536, 0.10, 0.75)
    -- Vectors that somebody else's program made: they are searched as they are, and nothing here can make more of them.
    when has_vectors or old_width <> 384 then reembed.add_space('external', 'sentence-transformers', old_width, 0, 0.5)
    else reembed.add_space('supabase', 'gte-small', 384, 0, 0.75, 512)
  end;
  perform reembed.add_collection('course_content', 'public.course_content',
    public_columns => array['id', 'title', 'content', 'url', 'content_type'],
    filter_columns => array['content_type', 'part_id', 'module_id']);
  perform reembed.add_version('course_content', old_space, 'embedding', 'reembed.course_content_input', match_threshold => 0.5, takes_unnamed => is_adopted);
  perform reembed.add_version('course_content', new_space, 'embedding_1536', 'reembed.course_content_input');
  if old_space like 'external/%' then
    perform reembed.pause_space(old_space, 'these vectors were brought from elsewhere: no provider here can make more of them');
  end if;

  if row_total <= reembed.rows_at_once() then
    perform reembed.index_at_once('course_content');
    execute format('create index if not exists course_content_words_idx on public.course_content using gin ((%s))', words);
    perform reembed.set_lexical_search('course_content', words, 'english');
  else
    raise notice 'course_content has % rows: build its index with: reembed index --collection course_content', row_total;
    raise notice 'for hybrid search run: create index concurrently course_content_words_idx on public.course_content using gin ((%)); then: select reembed.set_lexical_search(''course_content'', %, ''english'');',
      words, quote_literal(words);
  end if;

  perform reembed.load_at_once('course_content');
  perform reembed.advance('course_content', 1);
end
$$;

create function reembed.course_page(page text) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'title', c.title, 'content', c.content, 'url', c.url, 'content_type', c.content_type,
                                               'part_id', c.part_id, 'module_id', c.module_id, 'parent_id', c.parent_id)), '[]'::jsonb)
    from public.course_content c where split_part(c.url, '#', 1) = course_page.page
$$;
comment on function reembed.course_page(text) is 'All stored sections of one page, by its url without fragment, as one JSON array.';

create function public.reembed_course_page(page text) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp as $$ select reembed.course_page(page) $$;
comment on function public.reembed_course_page(text) is 'For service_role: reembed.course_page, which documents it.';
revoke execute on function public.reembed_course_page(text) from public, anon, authenticated;
grant execute on function public.reembed_course_page(text) to service_role;

create function reembed.apply_course_page(upserts jsonb, deletes uuid[]) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  written int;
  deleted int;
begin
  delete from public.course_content c where c.id = any (deletes);
  get diagnostics deleted = row_count;
  insert into public.course_content as c (id, title, content, url, content_type, part_id, module_id, parent_id, importance)
  select r.id, r.title, r.content, r.url, r.content_type, r.part_id, r.module_id, r.parent_id, coalesce(r.importance, 0.7)
    from jsonb_to_recordset(upserts) r(id uuid, title text, content text, url text, content_type text, part_id text, module_id text, parent_id uuid, importance real)
   order by r.id
  on conflict (id) do update set title = excluded.title, content = excluded.content, url = excluded.url, content_type = excluded.content_type,
    part_id = excluded.part_id, module_id = excluded.module_id, parent_id = excluded.parent_id;
  get diagnostics written = row_count;
  return jsonb_build_object('written', written, 'deleted', deleted);
end
$$;
comment on function reembed.apply_course_page(jsonb, uuid[]) is
  'Writes the changed sections of one page and removes the vanished ones in one transaction; importance is kept where a row exists. Returns { written, deleted }.';

create function public.reembed_apply_course_page(upserts jsonb, deletes uuid[]) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.apply_course_page(upserts, deletes) $$;
comment on function public.reembed_apply_course_page(jsonb, uuid[]) is 'For service_role: reembed.apply_course_page, which documents it.';
revoke execute on function public.reembed_apply_course_page(jsonb, uuid[]) from public, anon, authenticated;
grant execute on function public.reembed_apply_course_page(jsonb, uuid[]) to service_role;

revoke execute on all functions in schema reembed from public;
notify pgrst, 'reload schema';
