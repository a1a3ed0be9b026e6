-- The CV builder: what follows from an artifact, who sees and writes what, and that a search, a view and a function show no more than the tables.
begin;
select plan(47);

create function pg_temp.become(id text) returns void language sql as $$
  select set_config('role', case when id is null then 'postgres' else 'authenticated' end, true),
         set_config('request.jwt.claims', case when id is null then '' else json_build_object('role', 'authenticated', 'sub', id)::text end, true)
$$;
create function pg_temp.embed(collection text, version int) returns void language plpgsql as $$
declare
  claim jsonb := reembed.claim(collection, version);
begin
  perform reembed.complete((claim ->> 'version_id')::int, claim #>> '{space,id}', (claim ->> 'lease_token')::uuid, array_agg(j ->> 'row_id'), array_agg(j ->> 'hash'),
    array_agg(case when j ->> 'input' <> '' then (array_fill(1::real, array[(claim #>> '{space,dimensions}')::int]))::extensions.vector::text end),
    array_agg((j ->> 'tokens')::int), array_agg(case when j ->> 'input' = '' then 'empty' end)) from jsonb_array_elements(claim -> 'jobs') j;
end
$$;
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a'), ('00000000-0000-4000-8000-00000000000b');
insert into public.artifact_workspaces (id, name) values ('00000000-0000-4000-9000-000000000001', 'Applications');

-- Writing --------------------------------------------------------------------------------------------------------------------------------

select pg_temp.become('00000000-0000-4000-8000-00000000000a');
select lives_ok($$ insert into public.artifacts (title, type, content, summary, skills) values ('Payments', 'project', repeat('A sentence about payments. ', 200), 'Pays', '{Go,C++}') $$, 'a user inserts an artifact');
select is((select owner_id from public.artifacts), '00000000-0000-4000-8000-00000000000a', 'and is its owner without saying so');
select throws_ok($$ insert into public.artifacts (title, owner_id) values ('x', '00000000-0000-4000-8000-00000000000b') $$, '42501', null, 'nobody writes for another');
select throws_ok($$ insert into public.artifacts (title, workspace_id) values ('x', '00000000-0000-4000-9000-000000000001') $$, '42501', null, 'or into a workspace of others');
select throws_ok($$ update public.artifacts set owner_id = '00000000-0000-4000-8000-00000000000b' where true $$, '42501', null, 'or gives an artifact away');
select throws_ok($$ insert into public.artifact_chunks (artifact_id, position, content, owner_id, type) values (1, 9, 'x', '00000000-0000-4000-8000-00000000000a', 'project') $$, '42501', null, 'users write no chunk');
select throws_ok($$ insert into public.artifact_workspace_members values ('00000000-0000-4000-9000-000000000001', '00000000-0000-4000-8000-00000000000a') $$, '42501', null, 'and make themselves no member');
select throws_ok($$ delete from public.artifact_full_1536 where true $$, '42501', null, 'and write no vector');

-- What follows -----------------------------------------------------------------------------------------------------------------------------

select is((select count(*)::int from public.artifact_chunks), 3, 'a long content has chunks');
select is((select max(length(content)) <= 2000 and min(length(content)) > 0 from public.artifact_chunks), true, 'of no more than their size');
select is((select string_agg(content, ' ' order by position) from public.artifact_chunks), rtrim(repeat('A sentence about payments. ', 200)), 'which are the whole of it');
select ok((select words @@ 'payment'::tsquery and words @@ 'go'::tsquery from public.artifacts), 'an artifact has its words');
create temp table before as select id, position, content from public.artifact_chunks;
update public.artifacts set content = 'Another beginning. ' || substr(content, 20) where title = 'Payments';
select is((select count(*)::int from public.artifact_chunks c join before b using (id) where c.content = b.content), 2, 'an edit writes the chunks that it changes, and no other');
update public.artifacts set content = 'Short.' where title = 'Payments';
select is((select count(*)::int from public.artifact_chunks), 0, 'a short content has none');
update public.artifacts set content = repeat('A sentence about payments. ', 200) where title = 'Payments';
select pg_temp.become(null);
select set_eq($$ select c.name::text, count(*)::int from reembed.jobs j join reembed.versions v on v.id = j.version_id join reembed.collections c on c.id = v.collection_id group by 1 $$,
              $$ values ('artifacts', 1), ('artifact_summaries', 1), ('artifact_chunks', 3) $$, 'each text of it waits to be embedded');
select is(reembed.split_text('', 10), '{}', 'nothing has no parts');
select is(reembed.split_text('abc', 10), '{abc}', 'a short text is one');
select is(reembed.split_text(repeat('x', 25), 10), '{xxxxxxxxxx,xxxxxxxxxx,xxxxx}', 'a word without an end is cut');
select is(reembed.split_text(E'one two.\n\nthree four five', 15), array['one two.', 'three four five'], 'a paragraph is where it is cut first');
select is(reembed.split_text('One two. Three four', 14), array['One two.', 'Three four'], 'then a sentence');
select is(reembed.split_text('one two three four', 14), array['one two three', 'four'], 'then a word');

-- Vectors and what they were made from -----------------------------------------------------------------------------------------------------

select pg_temp.embed('artifacts', 1), pg_temp.embed('artifact_summaries', 1), pg_temp.embed('artifact_chunks', 1);
select is_empty($$ select * from reembed.violations() $$, 'all of it is embedded');
select set_eq($$ select content_type, count(*)::int from public.artifact_embeddings group by 1 $$, $$ values ('full', 1), ('summary', 1), ('chunk', 3) $$, 'artifact_embeddings shows each text');
select results_eq($$ select e.model_version, e.model_dimensions, e.content_hash, e.metadata ->> 'space', e.processing_cost_usd > 0 from public.artifact_embeddings e where content_type = 'full' $$,
                  $$ select 'text-embedding-3-small', 1536, encode(sha256(convert_to(reembed.artifact_input(a), 'UTF8')), 'hex'), 'openai/text-embedding-3-small@1536', true from public.artifacts a $$,
                  'with what its vector was made from');
select results_eq($$ select e.content_hash, e.tokens from public.artifact_full_1536 e $$, $$ select encode(r.content_hash, 'hex'), r.tokens from reembed.records r join reembed.versions v on v.id = r.version_id join reembed.collections c on c.id = v.collection_id where c.name = 'artifacts' $$,
                  'as its record says');
select is((select count(*)::int from public.chunk_embeddings), 3, 'chunk_embeddings shows the chunks');

-- Seeing -----------------------------------------------------------------------------------------------------------------------------------

create function pg_temp.seen() returns text language sql as $$
  select concat_ws(' ', (select count(*) from public.artifacts), (select count(*) from public.artifact_chunks), (select count(*) from public.artifact_full_1536), (select count(*) from public.artifact_summary_1536),
                   (select count(*) from public.artifact_chunk_1536), (select count(*) from public.artifact_embeddings), (select count(*) from public.chunk_embeddings),
                   (select count(*) from public.match_artifacts((array_fill(1::real, array[1536]))::extensions.vector, null, 50)),
                   (select count(*) from public.match_artifact_chunks((array_fill(1::real, array[1536]))::extensions.vector, null, 50)),
                   (select count(*) from public.hybrid_artifacts('payments', match_count => 50)),
                   public.similar_artifacts(array[(array_fill(1::real, array[1536]))::extensions.vector::text], user_only => false) #>> '{0,total_candidates}',
                   public.rank_artifacts('payments', ranking_method => 'keyword') ->> 'total_candidates')
$$;
select pg_temp.become('00000000-0000-4000-8000-00000000000a');
select is(pg_temp.seen(), '1 3 1 1 3 5 3 1 3 1 1 1', 'the owner sees all of it, through tables, views, searches and functions');
select pg_temp.become('00000000-0000-4000-8000-00000000000b');
select is(pg_temp.seen(), '0 0 0 0 0 0 0 0 0 0 0 0', 'another user none');
select pg_temp.become(null);
insert into public.artifact_workspace_members values ('00000000-0000-4000-9000-000000000001', '00000000-0000-4000-8000-00000000000a'), ('00000000-0000-4000-9000-000000000001', '00000000-0000-4000-8000-00000000000b');
select pg_temp.become('00000000-0000-4000-8000-00000000000a');
select lives_ok($$ update public.artifacts set workspace_id = '00000000-0000-4000-9000-000000000001' where true $$, 'a member puts an artifact into the workspace');
select pg_temp.become('00000000-0000-4000-8000-00000000000b');
select is(pg_temp.seen(), '1 3 1 1 3 5 3 1 3 1 1 1', 'whose members see all of it');
select is((select count(*)::int from public.artifact_workspace_members), 1, 'a user sees the own memberships alone');
select is(public.similar_artifacts(array[(array_fill(1::real, array[1536]))::extensions.vector::text]) #>> '{0,total_candidates}', '0', 'though it is not theirs');
select is_empty($$ update public.artifacts set title = 'x' where true returning 1 $$, 'or to change');
select is_empty($$ delete from public.artifacts where true returning 1 $$, 'or to delete');
select throws_ok($$ select * from public.job_embeddings $$, '42501', null, 'no user sees what was asked for');
select pg_temp.become(null);
delete from public.artifact_workspace_members where user_id = '00000000-0000-4000-8000-00000000000b';
select pg_temp.become('00000000-0000-4000-8000-00000000000b');
select is(pg_temp.seen(), '0 0 0 0 0 0 0 0 0 0 0 0', 'who leaves the workspace sees none again');
select pg_temp.become(null);
set local role anon;
select throws_ok($$ select * from public.artifacts $$, '42501', null, 'nobody sees nothing');
select throws_ok($$ select * from public.match_artifacts((array_fill(1::real, array[1536]))::extensions.vector) $$, '42501', null, 'and searches nothing');
reset role;

-- Orders -----------------------------------------------------------------------------------------------------------------------------------

create temp table given (id text);
insert into given select id::text from public.artifacts;
select is(reembed.order_rows('artifacts', 1, (select array_agg(id) from given)), '{"waiting": 0}'::jsonb, 'what is current is not ordered');
select is(reembed.order_rows('artifacts', 1, (select array_agg(id) from given), force => true), '{"waiting": 1}'::jsonb, 'unless somebody wants it bought again');
select is(jsonb_array_length(reembed.claim('artifacts', 1, row_ids => '{0}') -> 'jobs'), 0, 'a claim of other rows does not get it');
select is(jsonb_array_length(reembed.claim('artifacts', 1, row_ids => (select array_agg(id) from given)) -> 'jobs'), 1, 'that of its own does, to buy it');
select throws_ok($$ select reembed.claim('artifacts', row_ids => '{1}') $$, 'RE004', null, 'rows are of a version');
select throws_ok($$ select reembed.order_rows('artifacts', 2, '{1}') $$, 'RE007', null, 'a version that is not maintained takes no order');

-- The end of a version ---------------------------------------------------------------------------------------------------------------------

select reembed.finalize('artifacts', 2);
drop table public.artifact_full_3072;
select is((select count(*)::int from public.artifact_embeddings where content_type = 'full'), 1, 'a finalized version leaves the views, and its table can be dropped');

delete from auth.users where id = '00000000-0000-4000-8000-00000000000a';
select is((select count(*)::int from public.artifacts) + (select count(*)::int from public.artifact_full_1536) + (select count(*)::int from public.artifact_chunks), 0, 'with a user goes all that was theirs');
select is_empty($$ select * from reembed.violations() $$, 'and nothing is left to do');

select * from finish();
rollback;
