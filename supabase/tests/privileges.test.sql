-- What the API's roles meet, and that what is made after the migrations is as closed as they are: who may do what with each object is
-- docs/privileges.md, which test/db/privileges.test.ts compares. Runs under the old default privileges, which open all that is new in public, and under the new ones, which open nothing.
begin;
select plan(22);

create function pg_temp.executable(role text, in_schema text) returns setof text language sql as $$
  select p.proname::text collate "default" from pg_proc p where p.pronamespace = in_schema::regnamespace and has_function_privilege(role, p.oid, 'execute') order by 1
$$;

-- As the roles meet it -------------------------------------------------------------------------------------------------------------------

set local role anon;
select throws_ok('select * from reembed.spaces', '42501', null, 'anon reads no space');
select throws_ok('select * from reembed.secrets', '42501', null, 'and no secret');
select throws_ok('select reembed.claim()', '42501', null, 'and claims nothing inside');
select throws_ok('select public.reembed_claim()', '42501', null, 'nor through the door');
select throws_ok($$ select public.reembed_pause_space('openai/text-embedding-3-small@1536', 'no') $$, '42501', null, 'and pauses nobody');
select throws_ok($$ select reembed.cutover('course_content', 2) $$, '42501', null, 'and switches nothing');
select throws_ok($$ select reembed.set_traffic('course_content', 2, 50) $$, '42501', null, 'nor shares out callers');
select throws_ok($$ select public.reembed_count_search('course_content', 2, true, 1) $$, '42501', null, 'and counts no search, which might call off a canary');
select throws_ok($$ select public.reembed_begin_completion('openai/gpt-4.1-mini', 'answer', 1, 1) $$, '42501', null, 'and reserves no answer of a language model');
select throws_ok('select * from reembed.completions', '42501', null, 'whose ledger it does not read');
select lives_ok($$ select public.embedding_route('course_content') $$, 'anon asks for the route');
set local role authenticated;
select throws_ok('select public.reembed_claim()', '42501', null, 'authenticated claims nothing');
select lives_ok($$ select public.embedding_route('course_content') $$, 'authenticated asks for the route');
set local role service_role;
select lives_ok('select public.reembed_claim()', 'service_role claims through the door');
select throws_ok('select reembed.claim()', '42501', null, 'and not past it');
select throws_ok('select * from reembed.jobs', '42501', null, 'and reads no job');
select lives_ok($$ select public.reembed_count_search('course_content', 1, false, 1) $$, 'it counts searches');
select throws_ok($$ select reembed.set_secret('backfill_key', 'x') $$, '42501', null, 'and sets no secret');
reset role;

-- What is made later is as closed ----------------------------------------------------------------------------------------------------------

create temp table open_before as select role, pg_temp.executable(role, 'public') as name from unnest(array['anon', 'authenticated']) role;
create table public.tale (id int primary key, body text, embedding extensions.vector(3), embedding_2 extensions.vector(4));
create function reembed.tale_input(t public.tale) returns text language sql immutable set search_path = '' as 'select t.body';
revoke execute on function reembed.tale_input(public.tale) from public;
select reembed.add_space('test', 'three', 3), reembed.add_space('test', 'four', 4),
       reembed.add_collection('tale', 'public.tale', array['id', 'body']);
select reembed.add_version('tale', 'test/three@3', 'embedding', 'reembed.tale_input'), reembed.add_version('tale', 'test/four@4', 'embedding_2', 'reembed.tale_input');
select reembed.start_loading('tale', 1), reembed.start_loading('course_content', 2);

select set_eq($$ select role, pg_temp.executable(role, 'public') from unnest(array['anon', 'authenticated']) role $$,
              $$ select role, name from open_before union all select role, name from unnest(array['anon', 'authenticated']) role, unnest(array['match_tale', 'match_tale_v2']) name $$,
              'a new version opens its search, and nothing else');
select is_empty($$ select pg_temp.executable(role, 'reembed') from unnest(array['anon', 'authenticated', 'service_role']) role $$,
                'and the triggers of a loading version are as closed as the rest');
select is_empty($$ select p.proname from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    where p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace) and a.grantee = 0 $$,
                'still nothing is open to PUBLIC');
select reembed.set_space('course_content', 2, reembed.add_space('openai', 'another', 1536));
select set_eq($$ select role, pg_temp.executable(role, 'public') from unnest(array['anon', 'authenticated']) role $$,
              $$ select role, name from open_before union all select role, name from unnest(array['anon', 'authenticated']) role, unnest(array['match_tale', 'match_tale_v2']) name $$,
              'nor does a search made anew lose or gain a caller');

select * from finish();
rollback;
