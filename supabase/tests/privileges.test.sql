-- Who may do what: each API role against each object, after the migrations and after a version was added and loaded.
-- Runs under the old default privileges, which open all that is new in public, and under the new ones, which open nothing.
begin;
select plan(35);

create function pg_temp.executable(role text, in_schema text) returns setof text language sql as $$
  select p.proname::text collate "default" from pg_proc p where p.pronamespace = in_schema::regnamespace and has_function_privilege(role, p.oid, 'execute') order by 1
$$;

-- Functions of public --------------------------------------------------------------------------------------------------------------------

select results_eq($$ select pg_temp.executable('anon', 'public') $$,
                  $$ values ('embedding_route'), ('hybrid_course_content'), ('hybrid_course_content_v2'), ('match_course_content'), ('match_course_content_v2') $$,
                  'anon executes the match and hybrid RPCs and embedding_route, and nothing else');
select results_eq($$ select pg_temp.executable('authenticated', 'public') $$,
                  $$ values ('embedding_route'), ('hybrid_course_content'), ('hybrid_course_content_v2'), ('match_course_content'), ('match_course_content_v2') $$,
                  'authenticated executes the same');
select is_empty($$ select proname from pg_proc where pronamespace = 'public'::regnamespace
                    and proname !~ '^(reembed|match|hybrid)_' and proname <> 'embedding_route' $$,
                'public holds searches, the route and the doors for the service');
select is_empty($$ select proname from pg_proc where pronamespace = 'public'::regnamespace and not has_function_privilege('service_role', oid, 'execute') $$,
                'service_role executes all of them');
select is_empty($$ select p.proname, a.grantee::regrole from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    where p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace) and a.grantee = 0 $$,
                'nothing is open to PUBLIC');
select is_empty($$ select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef
                    and p.proname !~ '^reembed_' and p.proname <> 'embedding_route' $$,
                'a search never runs with its owner''s rights');

-- The schema reembed ---------------------------------------------------------------------------------------------------------------------

select is_empty($$ select role, privilege from unnest(array['anon', 'authenticated', 'service_role']) role, unnest(array['usage', 'create']) privilege
                    where has_schema_privilege(role, 'reembed', privilege) $$, 'no API role enters reembed');
select is_empty($$ select pg_temp.executable(role, 'reembed') from unnest(array['anon', 'authenticated', 'service_role']) role $$,
                'or executes any of its functions');
select is_empty(
  $$ select role, c.relname, privilege from pg_class c, unnest(array['anon', 'authenticated', 'service_role']) role,
            unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege
      where c.relnamespace = 'reembed'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and has_table_privilege(role, c.oid, privilege) $$,
  'or has a right on any of its tables');
select is_empty(
  $$ select role, c.relname from pg_class c, unnest(array['anon', 'authenticated', 'service_role']) role
      where c.relnamespace = 'reembed'::regnamespace and c.relkind = 'S' and has_sequence_privilege(role, c.oid, 'usage, select, update') $$,
  'or on any of its sequences');

-- Tables of public -----------------------------------------------------------------------------------------------------------------------

select results_eq(
  $$ select role, privilege from unnest(array['anon', 'authenticated', 'service_role']) role,
            unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege
      where has_table_privilege(role, 'public.course_content', privilege) and role <> 'service_role' order by 1, 2 $$,
  $$ values ('anon', 'select'), ('authenticated', 'select') $$, 'anon and authenticated read course_content, and no more');
select ok(has_table_privilege('service_role', 'public.course_content', 'select')
          and has_table_privilege('service_role', 'public.course_content', 'insert')
          and has_table_privilege('service_role', 'public.course_content', 'update')
          and has_table_privilege('service_role', 'public.course_content', 'delete'), 'service_role writes it');
select is_empty($$ select c.relname from pg_class c cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
                    where c.relnamespace in ('public'::regnamespace, 'reembed'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm') and a.grantee = 0 $$,
                'no table is open to PUBLIC');

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

create table public.tale (id int primary key, body text, embedding extensions.vector(3), embedding_2 extensions.vector(4));
create function reembed.tale_input(t public.tale) returns text language sql immutable set search_path = '' as 'select t.body';
revoke execute on function reembed.tale_input(public.tale) from public;
select reembed.add_space('test', 'three', 3), reembed.add_space('test', 'four', 4),
       reembed.add_collection('tale', 'public.tale', array['id', 'body']);
select reembed.add_version('tale', 'test/three@3', 'embedding', 'reembed.tale_input'), reembed.add_version('tale', 'test/four@4', 'embedding_2', 'reembed.tale_input');
select reembed.start_loading('tale', 1), reembed.start_loading('course_content', 2);

select results_eq($$ select pg_temp.executable('anon', 'public') $$,
                  $$ values ('embedding_route'), ('hybrid_course_content'), ('hybrid_course_content_v2'), ('match_course_content'), ('match_course_content_v2'), ('match_tale'), ('match_tale_v2') $$,
                  'a new version opens its search, and nothing else');
select is_empty($$ select pg_temp.executable(role, 'reembed') from unnest(array['anon', 'authenticated', 'service_role']) role $$,
                'and the triggers of a loading version are as closed as the rest');
select is_empty($$ select p.proname from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    where p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace) and a.grantee = 0 $$,
                'still nothing is open to PUBLIC');
select reembed.set_space('course_content', 2, reembed.add_space('openai', 'another', 1536));
select results_eq($$ select pg_temp.executable('authenticated', 'public') $$,
                  $$ values ('embedding_route'), ('hybrid_course_content'), ('hybrid_course_content_v2'), ('match_course_content'), ('match_course_content_v2'), ('match_tale'), ('match_tale_v2') $$,
                  'nor does a search made anew lose or gain a caller');

select * from finish();
rollback;
