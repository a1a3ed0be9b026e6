-- Row level security of course_content: anyone reads, the service writes; and a search sees what its caller sees.
begin;
select plan(21);

insert into public.course_content (id, title, content, part_id, embedding) values
  ('00000000-0000-4000-8000-000000000001', 'Commits', 'A commit is a snapshot.', 'open', (array_fill(0.1::real, array[384]))::extensions.vector),
  ('00000000-0000-4000-8000-000000000002', 'Branches', 'A branch is a pointer.', 'closed', (array_fill(0.1::real, array[384]))::extensions.vector);

select ok((select relrowsecurity from pg_class where oid = 'public.course_content'::regclass), 'row level security is on');
select policies_are('public', 'course_content', array['anyone reads course content'], 'with one policy');
select policy_cmd_is('public', 'course_content', 'anyone reads course content'::name, 'select', 'for reading');
select policy_roles_are('public', 'course_content', 'anyone reads course content'::name, array['anon', 'authenticated'], 'by the API''s callers');

set local role anon;
select is((select count(*)::int from public.course_content), 2, 'anon reads all rows');
select is((select count(*)::int from public.match_course_content((array_fill(1::real, array[384]))::extensions.vector)), 2, 'and finds them');
select throws_ok($$ insert into public.course_content (title, content) values ('x', 'y') $$, '42501', null, 'anon inserts nothing');
select throws_ok($$ update public.course_content set title = 'x' where true $$, '42501', null, 'and updates nothing');
select throws_ok($$ delete from public.course_content where true $$, '42501', null, 'and deletes nothing');
select throws_ok('truncate public.course_content', '42501', null, 'and truncates nothing');

set local role authenticated;
select is((select count(*)::int from public.course_content), 2, 'authenticated reads all rows');
select throws_ok($$ insert into public.course_content (title, content) values ('x', 'y') $$, '42501', null, 'authenticated inserts nothing');
select throws_ok($$ update public.course_content set embedding = null where true $$, '42501', null, 'and takes no vector away');
select throws_ok($$ delete from public.course_content where true $$, '42501', null, 'and deletes nothing');

set local role service_role;
select lives_ok($$ insert into public.course_content (id, title, content) values ('00000000-0000-4000-8000-000000000003', 'Remotes', 'Elsewhere.') $$, 'service_role inserts');
select lives_ok($$ update public.course_content set content = 'Another copy.' where id = '00000000-0000-4000-8000-000000000003' $$, 'and updates');
reset role;
select is((select count(*)::int from reembed.jobs where row_id = '00000000-0000-4000-8000-000000000003'), 1, 'which makes the job that it may not write itself');
set local role service_role;
select lives_ok($$ delete from public.course_content where id = '00000000-0000-4000-8000-000000000003' $$, 'and deletes');
reset role;
select is((select count(*)::int from reembed.jobs where row_id = '00000000-0000-4000-8000-000000000003'), 0, 'which takes the job away');

-- A project may close its course: the search follows.
drop policy "anyone reads course content" on public.course_content;
create policy "only open parts" on public.course_content for select to anon using (part_id = 'open');
set local role anon;
select results_eq($$ select title from public.match_course_content((array_fill(1::real, array[384]))::extensions.vector) $$, $$ values ('Commits') $$,
                  'a search returns the rows that its caller may see');
set local role authenticated;
select is_empty($$ select title from public.match_course_content((array_fill(1::real, array[384]))::extensions.vector) $$, 'and none where there is no policy');
reset role;

select * from finish();
rollback;
