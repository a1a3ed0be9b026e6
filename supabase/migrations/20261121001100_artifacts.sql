-- The CV builder: what a user has done (artifacts), found by meaning, ranked against a job description, seen by its owner and by those who share its workspace.
-- Makes: public.artifacts where it is missing and adopts it where it fits; artifact_chunks, which follow the content by a trigger; artifact_workspaces and
-- their members; three collections of one input each (artifacts: the whole, artifact_summaries, artifact_chunks), each with a version of 1536 dimensions and a
-- prepared one of 3072, in tables of their own; the views artifact_embeddings, chunk_embeddings and job_embeddings; the functions of the API's four routes.
-- Risks: on an existing table artifacts, row level security is switched on and the API's roles lose what this file does not grant.
--
-- Who sees what is one rule, on artifacts and, copied with them, on their chunks: the owner, and the members of the workspace. It is written so that an index
-- serves it (a list that is computed once, not `in (select ...)`, which reads the table). A vector is seen by who sees its row; it is asked row by row, as a
-- scalar: `in` and `exists` would list all that the caller may see before each search.

create table public.artifact_workspaces (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  created_at timestamptz not null default now()
);
comment on table public.artifact_workspaces is 'A group of users who see the artifacts that one of them has put into it. Written by service_role: invitations are the app''s own.';

create table public.artifact_workspace_members (
  workspace_id uuid not null references public.artifact_workspaces (id) on delete cascade,
  user_id uuid not null,
  primary key (user_id, workspace_id)
);
comment on table public.artifact_workspace_members is 'Who belongs to a workspace. Written by service_role.';
create index artifact_workspace_members_workspace_idx on public.artifact_workspace_members (workspace_id);

create table if not exists public.artifacts (
  id bigint generated always as identity primary key,
  owner_id uuid not null,
  workspace_id uuid references public.artifact_workspaces (id) on delete set null,
  title text not null,
  type text not null default 'document',
  description text,
  content text,
  summary text,
  skills text[] not null default '{}',
  created_at timestamptz not null default now()
);
alter table public.artifacts
  add column if not exists workspace_id uuid references public.artifact_workspaces (id) on delete set null,
  add column if not exists type text not null default 'document',
  add column if not exists description text,
  add column if not exists content text,
  add column if not exists summary text,
  add column if not exists skills text[] not null default '{}',
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists words tsvector;
comment on table public.artifacts is 'One piece of a user''s work a row: a project, a position, a publication.';
comment on column public.artifacts.skills is 'What it shows, as the user names it: a job description that names the same is matched by it.';
comment on column public.artifacts.words is 'The words of title, description, content and skills; a trigger keeps it.';

do $$
declare
  misfit text;
begin
  select format('%s is %s', e.name, coalesce(format_type(a.atttypid, a.atttypmod) || ', not ' || e.fits, 'missing')) into misfit
    from (values ('id', 'bigint'), ('owner_id', 'uuid'), ('workspace_id', 'uuid'), ('title', 'text'), ('type', 'text'), ('description', 'text'), ('content', 'text'),
                 ('summary', 'text'), ('skills', 'text[]'), ('words', 'tsvector')) e(name, fits)
    left join pg_catalog.pg_attribute a on a.attrelid = 'public.artifacts'::regclass and a.attname = e.name and not a.attisdropped
   where a.attname is null or format_type(a.atttypid, null) not in (e.fits, case e.fits when 'bigint' then 'integer' when 'text' then 'character varying' end)
   limit 1;
  if misfit is not null then
    raise exception using errcode = 'RE008', message = format('public.artifacts cannot be adopted: %s', misfit),
      hint = 'It needs id bigint as its primary key, owner_id uuid (the id of auth.users) and title; the other columns are added. Rename the table if it is another application''s.';
  end if;
  if not reembed.is_unique_key('public.artifacts', array['id']::name[], false) then
    raise exception using errcode = 'RE008', message = 'public.artifacts cannot be adopted: id is not its primary key',
      hint = 'Run: alter table public.artifacts add primary key (id); then apply this migration again.';
  end if;
end
$$;
create index if not exists artifacts_owner_idx on public.artifacts (owner_id);
create index if not exists artifacts_workspace_idx on public.artifacts (workspace_id) where workspace_id is not null;
create index if not exists artifacts_words_idx on public.artifacts using gin (words);

create table public.artifact_chunks (
  id uuid primary key default gen_random_uuid(),
  artifact_id bigint not null references public.artifacts (id) on delete cascade,
  position int not null,
  content text not null,
  owner_id uuid not null,
  workspace_id uuid,
  type text not null,
  unique (artifact_id, position)
);
comment on table public.artifact_chunks is
  'A long content in parts of at most chunk_size() characters, in order. Written by a trigger of artifacts alone; owner, workspace and type are the artifact''s, so that searches filter without a join.';
create index artifact_chunks_owner_idx on public.artifact_chunks (owner_id);
create index artifact_chunks_workspace_idx on public.artifact_chunks (workspace_id) where workspace_id is not null;

-- What follows from an artifact --------------------------------------------------------------------------------------------------------

create function reembed.artifact_input(artifact public.artifacts) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select concat_ws(E'\n\n', nullif(artifact.title, ''), nullif(artifact.description, ''), nullif(artifact.content, ''), nullif(array_to_string(artifact.skills, ', '), ''))
$$;
comment on function reembed.artifact_input(public.artifacts) is 'The text of a whole artifact that is embedded: title, description, content and skills, each after an empty line.';

create function reembed.artifact_summary_input(artifact public.artifacts) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as 'select coalesce(artifact.summary, '''')';
comment on function reembed.artifact_summary_input(public.artifacts) is 'An artifact''s summary: empty where it has none, which is not embedded.';

create function reembed.artifact_chunk_input(chunk public.artifact_chunks) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as 'select chunk.content';
comment on function reembed.artifact_chunk_input(public.artifact_chunks) is 'A chunk''s content.';

create function reembed.chunk_size() returns int language sql immutable set search_path = pg_catalog, pg_temp as 'select 2000';
comment on function reembed.chunk_size() is 'How many characters a chunk of an artifact has at most. A content that is no longer has no chunks: the whole artifact says the same.';

create function reembed.split_text(content text, size int) returns text[]
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  rest text := btrim(content, E' \t\r\n');
  parts text[] := array[]::text[];
  piece text;
  part_length int;
begin
  while length(rest) > size loop
    piece := left(rest, size);
    -- Where a reader would cut: after the last empty line, else the last sentence, else the last word; never a part of less than half the size.
    part_length := coalesce(
      nullif(greatest(coalesce(length(substring(piece from '^(.*\n[ \t\r]*\n)')), 0), size / 2), size / 2),
      nullif(greatest(coalesce(length(substring(piece from '^(.*[.!?]\s)')), 0), size / 2), size / 2),
      nullif(greatest(coalesce(length(substring(piece from '^(.*\s)')), 0), size / 2), size / 2),
      size);
    parts := parts || btrim(left(piece, part_length), E' \t\r\n');
    rest := ltrim(substr(rest, part_length + 1), E' \t\r\n');
  end loop;
  return case when rest = '' then parts else parts || rest end;
end
$$;
comment on function reembed.split_text(text, int) is 'A text in parts of at most `size` characters, cut after an empty line, a sentence or a word, where one ends in the second half of the part.';

create function reembed.write_artifact_words() returns trigger
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- Cut, because a tsvector holds at most 1 MB: a longer text must not fail the user's own write.
  new.words := setweight(to_tsvector('english', left(concat_ws(' ', new.title, array_to_string(new.skills, ', ')), 10000)), 'A')
            || setweight(to_tsvector('english', left(concat_ws(' ', new.description, new.content), 200000)), 'B');
  return new;
end
$$;
comment on function reembed.write_artifact_words() is 'Trigger: keeps an artifact''s words.';
create trigger artifacts_words before insert or update of title, description, content, skills, words on public.artifacts
  for each row execute function reembed.write_artifact_words();

create function reembed.chunk_artifact(artifact public.artifacts) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  parts constant text[] := case when length(coalesce(artifact.content, '')) > reembed.chunk_size() then reembed.split_text(artifact.content, reembed.chunk_size()) else '{}' end;
begin
  delete from public.artifact_chunks c where c.artifact_id = artifact.id and c.position > cardinality(parts);
  -- Only what changed is written: a chunk whose text stays keeps its vector.
  insert into public.artifact_chunks as c (artifact_id, position, content, owner_id, workspace_id, type)
  select artifact.id, p.position, p.content, artifact.owner_id, artifact.workspace_id, artifact.type from unnest(parts) with ordinality p(content, position)
  on conflict (artifact_id, position) do update
     set content = excluded.content, owner_id = excluded.owner_id, workspace_id = excluded.workspace_id, type = excluded.type
   where (c.content, c.owner_id, c.workspace_id, c.type) is distinct from (excluded.content, excluded.owner_id, excluded.workspace_id, excluded.type);
end
$$;
comment on function reembed.chunk_artifact(public.artifacts) is 'Writes the chunks of an artifact: those that are new or differ, and removes those behind its end.';

create function reembed.write_artifact_chunks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform reembed.chunk_artifact(new);
  return null;
end
$$;
comment on function reembed.write_artifact_chunks() is 'Trigger: writes an artifact''s chunks. With its owner''s rights: nobody else writes them.';
create trigger artifacts_chunks_insert after insert on public.artifacts for each row execute function reembed.write_artifact_chunks();
create trigger artifacts_chunks_update after update on public.artifacts for each row
  when ((old.content, old.owner_id, old.workspace_id, old.type) is distinct from (new.content, new.owner_id, new.workspace_id, new.type))
  execute function reembed.write_artifact_chunks();

update public.artifacts set words = null where true;
select reembed.chunk_artifact(a) from public.artifacts a;

-- Who sees and writes what -------------------------------------------------------------------------------------------------------------

do $$
declare
  -- A database without Supabase's auth: what auth.uid() would read there.
  has_auth constant boolean := to_regprocedure('auth.uid()') is not null;
  caller constant text := case when has_auth then '(select auth.uid())'
    else '(select (nullif(current_setting(''request.jwt.claims'', true), '''')::jsonb ->> ''sub'')::uuid)' end;
  workspaces constant text := format('array(select m.workspace_id from public.artifact_workspace_members m where m.user_id = %s)', caller);
  sees constant text := format('owner_id = %s or workspace_id = any (%s)', caller, workspaces);
  writes constant text := format('owner_id = %s and (workspace_id is null or workspace_id = any (%s))', caller, workspaces);
  here record;
begin
  execute format('alter table public.artifacts alter column owner_id set default %s', case when has_auth then 'auth.uid()'
    else '(nullif(current_setting(''request.jwt.claims'', true), '''')::jsonb ->> ''sub'')::uuid' end);
  if to_regclass('auth.users') is not null then
    if not exists (select from pg_catalog.pg_constraint k where k.conrelid = 'public.artifacts'::regclass and k.contype = 'f' and k.confrelid = 'auth.users'::regclass) then
      alter table public.artifacts add constraint artifacts_owner_fkey foreign key (owner_id) references auth.users (id) on delete cascade;
    end if;
    alter table public.artifact_workspace_members add constraint artifact_workspace_members_user_fkey foreign key (user_id) references auth.users (id) on delete cascade;
  end if;
  for here in select u.name from unnest(array['artifact_workspaces', 'artifact_workspace_members', 'artifacts', 'artifact_chunks']) u(name) loop
    execute format('alter table public.%I enable row level security', here.name);
    execute format('revoke all on public.%I from public, anon, authenticated, service_role', here.name);
    execute format('grant select on public.%I to authenticated', here.name);
    execute format('grant select, insert, update, delete on public.%I to service_role', here.name);
  end loop;
  grant insert, update, delete on public.artifacts to authenticated;
  execute format('create policy "users read their workspaces" on public.artifact_workspaces for select to authenticated using (id = any (%s))', workspaces);
  execute format('create policy "users read their memberships" on public.artifact_workspace_members for select to authenticated using (user_id = %s)', caller);
  execute format('create policy "owners and members read artifacts" on public.artifacts for select to authenticated using (%s)', sees);
  execute format('create policy "users insert artifacts of their own" on public.artifacts for insert to authenticated with check (%s)', writes);
  execute format('create policy "users update their artifacts" on public.artifacts for update to authenticated using (owner_id = %s) with check (%s)', caller, writes);
  execute format('create policy "users delete their artifacts" on public.artifacts for delete to authenticated using (owner_id = %s)', caller);
  execute format('create policy "owners and members read chunks" on public.artifact_chunks for select to authenticated using (%s)', sees);
end
$$;

-- Collections and versions -------------------------------------------------------------------------------------------------------------

do $$
declare
  small_space constant text := reembed.add_space('openai', 'text-embedding-3-small', 1536, 0.02, 0.25);
  large_space constant text := reembed.add_space('openai', 'text-embedding-3-large', 3072, 0.13, 0.25);
  kind record;
  wide record;
  row_total bigint;
begin
  select count(*) into row_total from public.artifacts;
  for kind in
    select * from (values
      ('artifacts', 'public.artifacts', 'reembed.artifact_input', 'artifact_full', 'artifact_id', 'bigint', '{id,owner_id,title,type,description}'::name[], '{owner_id}'::name[], '{id,type}'::name[]),
      ('artifact_summaries', 'public.artifacts', 'reembed.artifact_summary_input', 'artifact_summary', 'artifact_id', 'bigint', '{id,owner_id,title,type,description}', '{owner_id}', '{id,type}'),
      ('artifact_chunks', 'public.artifact_chunks', 'reembed.artifact_chunk_input', 'artifact_chunk', 'artifact_chunk_id', 'uuid', '{id,artifact_id,position,content}', '{owner_id}', '{artifact_id,type}'))
      k(collection, source, input, vectors, key, key_type, public_columns, filters, list_filters) loop
    perform reembed.add_collection(kind.collection, kind.source::regclass, kind.public_columns, kind.filters, array['id']::name[], kind.list_filters);
    for wide in select * from (values (1536, 'vector', small_space), (3072, 'halfvec', large_space)) w(dimensions, vector_type, space_id) loop
      execute format('create table public.%1$I (%2$I %3$s primary key references %4$s (id) on delete cascade, id uuid not null default gen_random_uuid(), embedding extensions.%5$s(%6$s) not null%7$s)',
        kind.vectors || '_' || wide.dimensions, kind.key, kind.key_type, kind.source, wide.vector_type, wide.dimensions,
        (select string_agg(format(', %I %s', p.name, p.type), '') from reembed.provenance_columns() p));
      -- In the row: a search that compares many vectors one by one need not fetch each from TOAST.
      execute format('alter table public.%I alter column embedding set storage plain', kind.vectors || '_' || wide.dimensions);
      execute format('comment on table public.%I is %L', kind.vectors || '_' || wide.dimensions,
        format('The vectors of the collection %s in %s, one a row; written by the worker. artifact_embeddings shows them with what they were made from.', kind.collection, wide.space_id));
      execute format('alter table public.%I enable row level security', kind.vectors || '_' || wide.dimensions);
      execute format('revoke all on public.%I from public, anon, authenticated, service_role', kind.vectors || '_' || wide.dimensions);
      execute format('grant select on public.%I to authenticated', kind.vectors || '_' || wide.dimensions);
      execute format('grant select, insert, update, delete on public.%I to service_role', kind.vectors || '_' || wide.dimensions);
      execute format('create policy "who sees the row sees its vector" on public.%1$I for select to authenticated using ((select true from %2$s s where s.id = %3$I))',
        kind.vectors || '_' || wide.dimensions, kind.source, kind.key);
      perform reembed.add_version(kind.collection, wide.space_id, 'embedding', kind.input,
        vector_table => format('public.%I', kind.vectors || '_' || wide.dimensions)::regclass, vector_key => array[kind.key]::name[]);
      update reembed.versions x set keeps_provenance = true where x.vector_table = format('public.%I', kind.vectors || '_' || wide.dimensions)::regclass;
      -- Nothing stands in it yet: built now, it grows with the rows. A table that is adopted with many gets its own after the load.
      if row_total <= reembed.rows_at_once() then
        execute reembed.index_sql(kind.collection, case wide.dimensions when 1536 then 1 else 2 end, build_concurrently => false);
      end if;
    end loop;
    perform reembed.load_at_once(kind.collection);
    perform reembed.advance(kind.collection, 1);
  end loop;
end
$$;
select reembed.set_lexical_search('artifacts', 'words', 'english');

-- What the contract calls embeddings ---------------------------------------------------------------------------------------------------

create function reembed.create_artifact_views() returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  provenance constant text := 'e.embedding::extensions.vector as embedding_vector, e.content_hash, substring(e.space_id from ''/(.*)@'') as model_version, '
    || 'extensions.vector_dims(e.embedding) as model_dimensions, round(e.cost_usd, 10) as processing_cost_usd, e.embedded_at as generated_at, '
    || 'jsonb_build_object(''space'', e.space_id, ''version'', %1$s, ''tokens'', e.tokens, ''truncated'', e.truncated) as metadata, %1$s as version';
  branches text;
  chunks text;
begin
  select string_agg(format('select e.id, %s as artifact_id, %s as artifact_chunk_id, %L::text as content_type, %s from %s e%s',
           case c.name when 'artifact_chunks' then 't.artifact_id' else 'e.artifact_id' end,
           case c.name when 'artifact_chunks' then 't.id' else 'null::uuid' end,
           case c.name when 'artifacts' then 'full' when 'artifact_summaries' then 'summary' else 'chunk' end,
           format(provenance, v.number), v.vector_table,
           case c.name when 'artifact_chunks' then ' join public.artifact_chunks t on t.id = e.artifact_chunk_id' else '' end), E'\nunion all\n' order by v.id),
         string_agg(format('select e.id, e.artifact_chunk_id, %s from %s e', format(provenance, v.number), v.vector_table), E'\nunion all\n' order by v.id)
           filter (where c.name = 'artifact_chunks')
    into branches, chunks
    from reembed.versions v join reembed.collections c on c.id = v.collection_id
   where c.name in ('artifacts', 'artifact_summaries', 'artifact_chunks') and v.state <> 'retired' and reembed.is_intact(v);
  execute format('create or replace view public.artifact_embeddings with (security_invoker = true) as %s', branches);
  execute format('create or replace view public.chunk_embeddings with (security_invoker = true) as %s', chunks);
end
$$;
comment on function reembed.create_artifact_views() is 'Makes or renews artifact_embeddings and chunk_embeddings over the vectors of all versions that are not finalized.';
select reembed.create_artifact_views();
update reembed.collections set renew_function = 'reembed.create_artifact_views' where name in ('artifacts', 'artifact_summaries', 'artifact_chunks');
comment on view public.artifact_embeddings is
  'Every stored vector of an artifact, its summary and its chunks in each version, with what it was made from. The reader sees those of the artifacts that they see. processing_cost_usd: the tokens it was bought for at the space''s price; 0 where it was copied from an equal text.';
comment on view public.chunk_embeddings is 'Every stored vector of a chunk. The reader sees those of the artifacts that they see.';
revoke all on public.artifact_embeddings, public.chunk_embeddings from public, anon, authenticated, service_role;
grant select on public.artifact_embeddings, public.chunk_embeddings to authenticated, service_role;

-- For the service alone: a query belongs to no user, and whether somebody has asked it before is nobody else's to know.
create view public.job_embeddings as
  select encode(q.query_hash, 'hex') as job_description_hash, q.embedding as embedding_vector, q.space_id, q.created_at as generated_at, q.used_at, q.hits + 1 as access_count
    from reembed.query_cache q
   where q.space_id in (select v.space_id from reembed.versions v join reembed.collections c on c.id = v.collection_id where c.name = 'artifacts');
comment on view public.job_embeddings is 'The cache of queries and job descriptions in the spaces of artifacts: a description is embedded once; access_count says how often it was asked for.';
revoke all on public.job_embeddings from public, anon, authenticated, service_role;
grant select on public.job_embeddings to service_role;

-- The routes of the API, with the caller's rights --------------------------------------------------------------------------------------

create function public.artifact_embedding_list(artifact_id bigint) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('artifact_id', a.id,
           'chunks', (select coalesce(jsonb_agg(c.id order by c.position), '[]'::jsonb) from public.artifact_chunks c where c.artifact_id = a.id),
           'embeddings', (select coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'content_type', e.content_type, 'artifact_chunk_id', e.artifact_chunk_id, 'dimensions', e.model_dimensions,
                            'model_version', e.model_version, 'content_hash', e.content_hash, 'created_at', e.generated_at, 'processing_cost_usd', e.processing_cost_usd, 'metadata', e.metadata)
                            order by e.content_type <> 'full', e.content_type <> 'summary', c.position, e.version), '[]'::jsonb)
                            from public.artifact_embeddings e left join public.artifact_chunks c on c.id = e.artifact_chunk_id where e.artifact_id = a.id))
    from public.artifacts a where a.id = artifact_embedding_list.artifact_id
$$;
comment on function public.artifact_embedding_list(bigint) is 'An artifact''s chunks and stored embeddings, of all versions: { artifact_id, chunks, embeddings }; null where the caller sees no such artifact.';

create function public.similar_artifacts(
  query_embeddings text[], content_type text default 'full', version int default null, query_space text default null, match_count int default 10,
  match_threshold double precision default null, artifact_types text[] default null, user_only boolean default true, method text default 'cosine'
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  route jsonb;
  caller constant uuid := (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;
  query extensions.vector;
  vectors extensions.vector[];
  candidates bigint;
  found jsonb;
  answers jsonb := '[]'::jsonb;
begin
  if query_embeddings is null or cardinality(query_embeddings) not between 1 and 100 then
    raise exception using errcode = 'RE004', message = 'query_embeddings must hold 1 to 100 vectors', hint = 'Pass each as text in the form [...].';
  end if;
  if content_type is null or content_type not in ('full', 'summary', 'chunk') then
    raise exception using errcode = 'RE004', message = format('content_type is %L: it must be full, summary or chunk', left(content_type, 60)), hint = 'full searches whole artifacts.';
  end if;
  if method is null or method not in ('cosine', 'l2', 'inner_product') then
    raise exception using errcode = 'RE004', message = format('method is %L: it must be cosine, l2 or inner_product', left(method, 60)), hint = 'Between vectors of length 1, as OpenAI''s are, all three give the same order.';
  end if;
  if match_count is null or match_count not between 1 and 1000 then
    raise exception using errcode = 'RE004', message = format('match_count is %s: it must be between 1 and 1000', coalesce(match_count::text, 'null')), hint = 'Pass how many artifacts you want at most.';
  end if;
  if user_only and caller is null then
    raise exception using errcode = 'RE004', message = 'user_only is true, and the caller is no user', hint = 'Send a user''s token, or user_only: false.';
  end if;
  begin
    vectors := query_embeddings::extensions.vector[];
  exception when data_exception or program_limit_exceeded then
    -- Not the server's own message: it shows the vector.
    raise exception using errcode = 'RE004', message = 'query_embeddings: one is not a vector of finite numbers', hint = 'Pass each as text in the form [...].';
  end;
  route := public.embedding_route(case content_type when 'full' then 'artifacts' when 'summary' then 'artifact_summaries' else 'artifact_chunks' end, version);

  execute format('select count(*) from public.%I t where ($1 is null or t.owner_id = $1) and ($2 is null or t.type = any ($2))
                     and (select true from public.artifact_embeddings e where e.%I = t.id and e.content_type = $3 and e.version = $4)',
      case content_type when 'chunk' then 'artifact_chunks' else 'artifacts' end, case content_type when 'chunk' then 'artifact_chunk_id' else 'artifact_id' end)
    into candidates using case when user_only then caller end, artifact_types, content_type, (route ->> 'version')::int;

  foreach query in array vectors loop
    -- The version's own search, with its space, its policies and its promise of rows; by another distance the nearest of its candidates.
    execute format($sql$
      select coalesce(jsonb_agg(jsonb_build_object('artifact_id', a.id, 'similarity_score', m.similarity, 'distance', m.distance,
                        'artifact', jsonb_build_object('title', a.title, 'type', a.type, 'description', a.description)) || %4$s order by m.distance, m.id), '[]'::jsonb)
        from (select * from (select m.*, case $7 when 'cosine' then 1 - m.similarity
                                                 when 'l2' then (select e.embedding_vector operator(extensions.<->) $1 from public.artifact_embeddings e where e.%2$I = m.id and e.content_type = $8 and e.version = $9)
                                                 else (select e.embedding_vector operator(extensions.<#>) $1 from public.artifact_embeddings e where e.%2$I = m.id and e.content_type = $8 and e.version = $9) end as distance
                               from public.%1$I($1, $2, case $7 when 'cosine' then $3 else least(1000, greatest(100, 4 * $3)) end,
                                                filter_owner_id => $4, filter_type_any => $5, query_space => $6) m) x
               order by x.distance, x.id limit $3) m
        join public.artifacts a on a.id = m.%3$I$sql$,
        route ->> 'function', case content_type when 'chunk' then 'artifact_chunk_id' else 'artifact_id' end, case content_type when 'chunk' then 'artifact_id' else 'id' end,
        case content_type when 'chunk' then $sql$jsonb_build_object('chunk', jsonb_build_object('id', m.id, 'position', m.position, 'content', m.content))$sql$ else $sql$'{}'::jsonb$sql$ end)
      into found using query, match_threshold, match_count, case when user_only then caller end, artifact_types, query_space, method, content_type, (route ->> 'version')::int;
    answers := answers || jsonb_build_object('results', found, 'total_candidates', candidates);
  end loop;
  return answers;
end
$$;
comment on function public.similar_artifacts(text[], text, int, text, int, double precision, text[], boolean, text) is
  'For each query vector ([...] texts, 1 to 100) the nearest artifacts that the caller sees: an array of { results: [{ artifact_id, similarity_score: 1 - cosine distance, distance, artifact, chunk }], total_candidates: how many were to be compared }. method: cosine; l2 or inner_product (negative, as <#> is) order the candidates that are nearest by cosine. Errors as those of the match RPCs.';

create function public.rank_artifacts(
  job_description text, query_embedding text default null, version int default null, query_space text default null, artifact_ids bigint[] default null,
  ranking_method text default 'semantic', top_k int default 5
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  route constant jsonb := public.embedding_route('artifacts', version);
  query extensions.vector;
  job_words text[];
  any_word tsquery;
  plain_job text;
  ids bigint[] := artifact_ids;
  similarities jsonb := '{}'::jsonb;
begin
  if job_description is null or length(job_description) not between 1 and 20000 then
    raise exception using errcode = 'RE004', message = 'job_description must have 1 to 20000 characters', hint = 'Pass the text of the job.';
  end if;
  if ranking_method is null or ranking_method not in ('semantic', 'hybrid', 'keyword') then
    raise exception using errcode = 'RE004', message = format('ranking_method is %L: it must be semantic, hybrid or keyword', left(ranking_method, 60)), hint = 'hybrid weighs both.';
  end if;
  if top_k is null or top_k not between 1 and 100 then
    raise exception using errcode = 'RE004', message = format('top_k is %s: it must be between 1 and 100', coalesce(top_k::text, 'null')), hint = 'Pass how many artifacts you want at most.';
  end if;
  if cardinality(artifact_ids) > 1000 or array_ndims(artifact_ids) > 1 or array_position(artifact_ids, null) is not null then
    raise exception using errcode = 'RE004', message = 'artifact_ids must be a list of at most 1000 ids without null', hint = 'Leave it out to rank all artifacts that the caller sees.';
  end if;
  if (query_embedding is null) <> (ranking_method = 'keyword') then
    raise exception using errcode = 'RE004', message = format('query_embedding is %s, and ranking_method %s', case when query_embedding is null then 'null' else 'given' end, ranking_method),
      hint = 'keyword takes no vector; semantic and hybrid need one.';
  end if;
  begin
    query := query_embedding::extensions.vector;
  exception when data_exception or program_limit_exceeded then
    -- Not the server's own message: it shows the vector.
    raise exception using errcode = 'RE004', message = 'query_embedding is not a vector of finite numbers', hint = 'Pass it as text in the form [...].';
  end;
  job_words := tsvector_to_array(to_tsvector('english', job_description));
  plain_job := ' ' || btrim(regexp_replace(regexp_replace(lower(job_description), '[^[:alnum:]+#.]+', ' ', 'g'), '\.(?![[:alnum:]])', ' ', 'g')) || ' ';
  any_word := (select string_agg(quote_literal(w), ' | ')::tsquery from unnest(job_words) w);

  if ids is null then
    -- Candidates: those nearest by meaning, and those with most of the words.
    if query_embedding is not null then
      execute format('select array_agg(m.id) from public.%I($1, null, 200, query_space => $2) m', route ->> 'function') into ids using query, query_space;
    end if;
    ids := coalesce(ids, '{}') || array(
      select w.id from (select a.id, ts_rank(a.words, any_word) as rank from public.artifacts a where a.words @@ any_word order by rank desc, a.id limit 200) w);
  end if;
  if query_embedding is not null then
    execute format('select coalesce(jsonb_object_agg(m.id, m.similarity), ''{}'') from public.%I($1, null, 1000, filter_id_any => $2, query_space => $3) m', route ->> 'function')
      into similarities using query, ids, query_space;
  end if;

  return (
    with scored as (
      select a.id, a.title, a.type, (similarities ->> a.id::text)::double precision as similarity, s.matched, cardinality(a.skills) as listed,
             case when cardinality(a.skills) > 0 then 0.5 * w.overlap + 0.5 * cardinality(s.matched)::double precision / cardinality(a.skills) else w.overlap end as keywords
        from public.artifacts a
       cross join lateral (select coalesce(array_agg(k order by n), '{}') as matched from unnest(a.skills) with ordinality u(k, n)
                            where position(' ' || btrim(regexp_replace(regexp_replace(lower(k), '[^[:alnum:]+#.]+', ' ', 'g'), '\.(?![[:alnum:]])', ' ', 'g')) || ' ' in plain_job) > 0
                              and k ~ '[[:alnum:]]') s
       cross join lateral (select case when length(a.words) > 0 and cardinality(job_words) > 0 then count(*) / sqrt(length(a.words) * cardinality(job_words)) else 0 end as overlap
                             from unnest(tsvector_to_array(a.words)) x(word) where x.word = any (job_words)) w
       where a.id = any (ids)),
    ranked as (
      select r.*, case ranking_method when 'semantic' then r.similarity when 'keyword' then r.keywords
                       else 0.7 * greatest(coalesce(r.similarity, 0), 0) + 0.3 * r.keywords end as relevance
        from scored r where ranking_method <> 'semantic' or r.similarity is not null)
    select jsonb_build_object(
      'ranked_artifacts', (select coalesce(jsonb_agg(jsonb_build_object('artifact_id', r.id, 'title', r.title, 'type', r.type, 'relevance_score', r.relevance,
                                     'semantic_similarity', r.similarity, 'keyword_match_score', r.keywords, 'matched_skills', to_jsonb(r.matched)) order by r.relevance desc, r.id), '[]'::jsonb)
                             from (select * from ranked o order by o.relevance desc, o.id limit top_k) r),
      'total_candidates', (select count(*) from ranked)));
end
$$;
comment on function public.rank_artifacts(text, text, int, text, bigint[], text, int) is
  'Artifacts that the caller sees, best first for a job description: { ranked_artifacts: [{ artifact_id, title, type, relevance_score, semantic_similarity, keyword_match_score, matched_skills }], total_candidates }. keyword_match_score (0 to 1): the share of the artifact''s skills that the job names, and the cosine of the two sets of words (Ochiai: those in common over the root of the product of the numbers), half each; the words alone where no skill is listed. relevance_score: the similarity (semantic), that score (keyword), or 0.7 and 0.3 of them (hybrid). Without artifact_ids of the 200 nearest by meaning and the 200 with most of the words. RE004 and the errors of the match RPCs.';

revoke execute on function public.artifact_embedding_list(bigint), public.similar_artifacts(text[], text, int, text, int, double precision, text[], boolean, text),
  public.rank_artifacts(text, text, int, text, bigint[], text, int) from public, anon, authenticated;
grant execute on function public.artifact_embedding_list(bigint), public.similar_artifacts(text[], text, int, text, int, double precision, text[], boolean, text),
  public.rank_artifacts(text, text, int, text, bigint[], text, int) to authenticated, service_role;

revoke execute on all functions in schema reembed from public;
notify pgrst, 'reload schema';
