-- A collection that is taken out again: what was made for it goes, what was there stays.
begin;
select plan(11);

create table public.tale (id int primary key, body text, embedding extensions.vector(3));
create table public.tale_vectors (id int primary key references public.tale on delete cascade, embedding extensions.vector(4));
insert into public.tale values (1, 'one', '[1,2,3]'), (2, 'two', null);
insert into public.tale_vectors values (1, '[1,2,3,4]');
create function reembed.tale_input(public.tale) returns text language sql immutable set search_path = pg_catalog, pg_temp as 'select ($1).body';
revoke execute on function reembed.tale_input(public.tale) from public;
select reembed.add_space('test', 'three', 3), reembed.add_space('test', 'four', 4),
       reembed.add_collection('tale', 'public.tale', array['id', 'body']);
select reembed.add_version('tale', 'test/three@3', 'embedding', 'reembed.tale_input'),
       reembed.add_version('tale', 'test/four@4', 'embedding', 'reembed.tale_input', vector_table => 'public.tale_vectors', vector_key => array['id']);
select reembed.start_loading('tale', 1), reembed.start_loading('tale', 2);
select reembed.adopt_vectors((reembed.version_numbered('tale', 1)).id), reembed.enqueue_missing((reembed.version_numbered('tale', 2)).id);

create temp table versions_of_tale as select v.id from reembed.versions v join reembed.collections c on c.id = v.collection_id where c.name = 'tale';
select isnt_empty('select from reembed.jobs j join versions_of_tale v on v.id = j.version_id', 'it has jobs');
select isnt_empty('select from reembed.records r join versions_of_tale v on v.id = r.version_id', 'and records');

select lives_ok($$ select reembed.remove_collection('tale') $$, 'it is taken out');
select is_empty($$ select from reembed.collections where name = 'tale' $$, 'of the registry');
select is_empty('select from reembed.jobs j join versions_of_tale v on v.id = j.version_id union all select from reembed.records r join versions_of_tale v on v.id = r.version_id',
                'with its jobs and records');
select is_empty($$ select tgname from pg_trigger where tgrelid in ('public.tale'::regclass, 'public.tale_vectors'::regclass) and not tgisinternal $$, 'with its triggers');
select is_empty($$ select proname from pg_proc where proname ~ '_tale(_v2)?$' or proname in (select 'track_version_' || id from versions_of_tale union select 'track_vectors_' || id from versions_of_tale) $$,
                'with its functions');
select results_eq('select id, embedding::text from public.tale order by id', $$ values (1, '[1,2,3]'), (2, null) $$, 'its rows and vectors stay');
select is((select count(*)::int from public.tale_vectors), 1, 'in the vectors'' own table, too');
select is((select kind from reembed.events where collection = 'tale' order by id desc limit 1), 'remove', 'and the events say so');
select throws_ok($$ select reembed.remove_collection('tale') $$, 'RE005', null, 'there is nothing left to take out');

select * from finish();
rollback;
