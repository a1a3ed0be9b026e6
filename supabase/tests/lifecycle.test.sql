-- The life of a version: added, given a space, loaded, indexed, made active, left and returned to; and what refuses each step.
begin;
select plan(106);

create function pg_temp.error_of(statement text) returns text language plpgsql as $$
declare
  said text; code text;
begin
  execute statement;
  return 'no error';
exception when others then
  get stacked diagnostics code = returned_sqlstate, said = message_text;
  return code || ': ' || said;
end
$$;
create function pg_temp.kinds() returns text language sql as $$ select string_agg(kind || coalesce(' ' || version, ''), ', ' order by id) from reembed.events where collection = 'course_content' $$;
-- Embeds all that is due in one version.
create function pg_temp.work(number int) returns int language plpgsql as $$
declare
  claim jsonb; width int; done int := 0;
begin
  loop
    claim := reembed.claim('course_content', number);
    exit when claim ->> 'reason' <> 'work';
    width := (claim #>> '{space,dimensions}')::int;
    perform reembed.complete((claim ->> 'version_id')::int, claim #>> '{space,id}', (claim ->> 'lease_token')::uuid,
      (select array_agg(j ->> 'row_id' order by n) from jsonb_array_elements(claim -> 'jobs') with ordinality e(j, n)),
      (select array_agg(j ->> 'hash' order by n) from jsonb_array_elements(claim -> 'jobs') with ordinality e(j, n)),
      (select array_agg((array_fill(n::real, array[width]))::extensions.vector::text order by n) from jsonb_array_elements(claim -> 'jobs') with ordinality e(j, n)),
      (select array_agg(1) from jsonb_array_elements(claim -> 'jobs')));
    done := done + jsonb_array_length(claim -> 'jobs');
  end loop;
  return done;
end
$$;

insert into public.course_content (id, title, content)
select ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'Section ' || n, 'Text ' || n from generate_series(1, 3) n;
select pg_temp.work(1);

-- Before -----------------------------------------------------------------------------------------------------------------------------------

select is(embedding_route('course_content') - 'coverage',
          '{"collection": "course_content", "version": 1, "active": true, "space": "supabase/gte-small@384", "provider": "supabase", "model": "gte-small", "dimensions": 384,
            "distance": "cosine", "query_prefix": "", "document_prefix": "", "max_input_tokens": 512, "function": "match_course_content", "hybrid": "hybrid_course_content",
            "filters": ["content_type", "part_id", "module_id"], "threshold": 0.5}'::jsonb, 'the route tells a client all that it needs to embed a query');
select is(embedding_route('course_content', 2) ->> 'function', 'match_course_content_v2', 'of any version');
select is(embedding_route('course_content', 2) ->> 'active', 'false', 'and whether it is the active one');
select is(embedding_route('course_content', 2) ->> 'coverage', '0', 'a version that was never loaded covers nothing');
select is(pg_temp.error_of($$ select embedding_route('nowhere') $$), 'RE005: collection ''nowhere'' is unknown', 'an unknown collection');
select is(pg_temp.error_of($$ select embedding_route(null) $$), 'RE005: collection NULL is unknown', 'no collection');
select is(pg_temp.error_of($$ select embedding_route('course_content', 9) $$), 'RE006: collection course_content has no version 9', 'an unknown version');
select matches(pg_temp.error_of(format('select reembed.%s', call)), '^RE005: collection .nowhere. is unknown', call)
  from unnest(array['add_version(''nowhere'', ''x'', ''y'', ''z'')', 'set_space(''nowhere'', 1, ''x'')', 'start_loading(''nowhere'', 1)', 'finish_enqueueing(''nowhere'', 1)',
                    'advance(''nowhere'', 1)', 'abandon(''nowhere'', 1)', 'gates(''nowhere'', 1)', 'set_gates(''nowhere'')', 'set_ef_search(''nowhere'', 1, 100)', 'upkeep(''nowhere'', 1)', 'finalize(''nowhere'', 1)', 'finalize_sql(''nowhere'', 1)', 'cutover(''nowhere'', 1)', 'rollback(''nowhere'')', 'index_sql(''nowhere'', 1)', 'reconcile(''nowhere'')']) call;
select matches(pg_temp.error_of(format('select reembed.%s', call)), '^RE006: collection course_content has no version', call)
  from unnest(array['set_space(''course_content'', 7, ''x'')', 'start_loading(''course_content'', 7)', 'finish_enqueueing(''course_content'', 0)', 'advance(''course_content'', null)',
                    'abandon(''course_content'', 7)', 'gates(''course_content'', 7)', 'upkeep(''course_content'', 7)', 'finalize(''course_content'', 7)', 'finalize_sql(''course_content'', 7)', 'cutover(''course_content'', 7)', 'index_sql(''course_content'', 7)']) call;

-- A space, before there is a record ------------------------------------------------------------------------------------------------------

select matches(pg_temp.error_of($$ select reembed.set_space('course_content', 2, 'openai/unheard-of@1536') $$), '^RE008: space_id: space .openai/unheard-of@1536. is unknown', 'an unknown space');
select matches(pg_temp.error_of($$ select reembed.set_space('course_content', 2, 'supabase/gte-small@384') $$), '^RE008: vector_column: embedding_1536 is 1536 wide', 'a space of another width');
select reembed.set_space('course_content', 2, reembed.add_space('openai', 'text-embedding-ada-002', 1536, 0.10, 0.75));
select is(embedding_route('course_content', 2) ->> 'space', 'openai/text-embedding-ada-002@1536', 'a version without records takes another space');
select is(embedding_route('course_content', 2) ->> 'threshold', '0.75', 'with the threshold of that space');
select matches(pg_temp.error_of($$ select match_course_content_v2('[1]') $$), 'searches vectors of 1536', 'its search stands');
select is(pg_temp.error_of($$ select match_course_content_v2((array_fill(1::real, array[1536]))::vector, query_space => 'openai/text-embedding-3-small@1536') $$),
          'RE002: query_space is openai/text-embedding-3-small@1536: match_course_content_v2 searches vectors of openai/text-embedding-ada-002@1536', 'and refuses the space it had');
select reembed.set_space('course_content', 2, 'openai/text-embedding-3-small@1536');
select matches(pg_temp.error_of($$ select reembed.set_space('course_content', 1, reembed.add_space('test', 'other', 384)) $$),
               '^RE007: version 1 of collection course_content has records in supabase/gte-small@384', 'a version with records keeps its space');
select lives_ok($$ select reembed.set_space('course_content', 1, 'supabase/gte-small@384') $$, 'asking for the space that it has changes nothing');

-- Loading ------------------------------------------------------------------------------------------------------------------------------------

select is(pg_temp.error_of($$ select reembed.cutover('course_content', 2) $$), 'RE007: version 2 of course_content cannot be made active: it is not maintained: start loading it first',
          'what is not maintained cannot be made active');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 2, 'now', true) $$), 'RE007: version 2 of course_content cannot be made active: it is not maintained: start loading it first',
          'not by force either');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 1) $$), 'RE007: version 1 of course_content cannot be made active: it is active already', 'nor what is active');
select matches(pg_temp.error_of($$ select reembed.rollback('course_content') $$), '^RE007: version 1 of course_content was not cut over to', 'there is nothing to roll back yet');
select is(reembed.advance('course_content', 2), 'prepared', 'a prepared version does not advance by itself');
select reembed.start_loading('course_content', 2);
select ok((select maintained and state = 'loading' and enqueued_at is null from reembed.versions where id = 2), 'a loading version is maintained');
select lives_ok($$ select reembed.start_loading('course_content', 2) $$, 'starting again changes nothing');
select is((select count(*)::int from pg_trigger where tgrelid = 'public.course_content'::regclass and tgname ~ '^reembed_2_'), 4, 'it has its triggers');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 2, 'now', true) $$), 'RE007: version 2 of course_content cannot be made active: its existing rows are not all enqueued yet',
          'before its rows are enqueued nothing makes it active');
select is(reembed.enqueue_missing(2) ->> 'enqueued', '3', 'its rows are enqueued');
select reembed.finish_enqueueing('course_content', 2);
select is(reembed.advance('course_content', 2), 'loading', 'it loads while there are jobs');
select is(embedding_route('course_content', 2) ->> 'coverage', '0', 'and covers nothing yet');
select matches(pg_temp.error_of($$ select reembed.cutover('course_content', 2) $$), '^RE007: version 2 of course_content cannot be made active: its state is loading, not ready; 3 of its backfill jobs are not done; no evaluation compares v2 with v1', 'a cutover waits for the jobs');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 2, force => true) $$), 'RE004: reason is empty: a forced cutover says why', 'force asks for a reason');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 2, '', true) $$), 'RE004: reason is empty: a forced cutover says why', 'that is not empty');
select is(reembed.cutover('course_content', 2, 'a drill', true, 'tester') - 'gates' - 'left' - 'oldest_seconds', '{"collection": "course_content", "from": 1, "to": 2, "stale": 3, "forced": true}'::jsonb, 'with a reason it may be made active early');
select is((select detail - 'gates' from reembed.events where kind = 'cutover'), '{"from": 1, "forced": true}'::jsonb, 'which is written down');
select is((select string_agg(g ->> 'gate', ', ' order by n) from reembed.events, jsonb_array_elements(detail -> 'gates') with ordinality x(g, n) where kind = 'cutover' and not (g ->> 'passes')::boolean),
          'state, backfill, evaluation, index_recall, index_used, ndcg_drop', 'with the gates that it overruled');
select is((select state from reembed.versions where id = 2), 'loading', 'though it is loading still');
select is(reembed.rollback('course_content', 'the drill is over') ->> 'to', '1', 'and left again');

select is(pg_temp.work(2), 3, 'a worker loads it');
drop index course_content_embedding_1536_hnsw;
select is(reembed.advance('course_content', 2), 'indexing', 'then it needs its index');
select matches(pg_temp.error_of($$ select reembed.cutover('course_content', 2) $$), '^RE007: version 2 of course_content cannot be made active: its state is indexing, not ready; ', 'for which a cutover waits');
select matches(reembed.index_sql('course_content', 2), '^create index concurrently if not exists course_content_embedding_1536_hnsw on .*using hnsw', 'whose statement is told');
do $$ begin execute reembed.index_sql('course_content', 2, build_concurrently => false); end $$;
select is(reembed.advance('course_content', 2), 'ready', 'with it the version is ready');
select ok(not embedding_route('course_content', 2) ? 'coverage', 'and wholly covered');

-- Cutover and rollback -------------------------------------------------------------------------------------------------------------------

select matches(pg_temp.error_of($$ select reembed.cutover('course_content', 2) $$), '^RE007: version 2 of course_content cannot be made active: no evaluation compares v2 with v1', 'a cutover asks for an evaluation');
select reembed.store_evaluation('course_content', 1, 2, queries => 5, judged => false, source => 'file', metrics => '{}');
select is((select string_agg(g ->> 'gate', ', ') from jsonb_array_elements(reembed.gates('course_content', 2)) g where not (g ->> 'passes')::boolean), null, 'with one all gates let it pass');
select is(reembed.cutover('course_content', 2, 'better answers', actor => 'tester') - 'gates' - 'left', '{"collection": "course_content", "from": 1, "to": 2, "stale": 0, "oldest_seconds": null, "forced": false}'::jsonb, 'a cutover says from where to where');
select is(reembed.state_of(reembed.version_numbered('course_content', 1)), 'standby', 'what was left stands by');
select is(embedding_route('course_content') ->> 'function', 'match_course_content_v2', 'the route follows at once');
select is(embedding_route('course_content', 1) ->> 'active', 'false', 'the old version is not active');
select ok((select maintained from reembed.versions where id = 1), 'but maintained');
update public.course_content set content = 'Edited after the cutover' where title = 'Section 1';
select is((select count(*)::int from reembed.jobs where row_id ~ '1$'), 2, 'an edit reaches both versions');
select is(reembed.rollback('course_content', 'worse answers') - 'left' - 'oldest_seconds', '{"collection": "course_content", "from": 2, "to": 1, "stale": 1}'::jsonb, 'a rollback says what is stale where it goes');
select is(reembed.state_of(reembed.version_numbered('course_content', 2)), 'standby', 'and now the other stands by');
select is(embedding_route('course_content') ->> 'function', 'match_course_content', 'the route is back');
select matches(pg_temp.error_of($$ select reembed.rollback('course_content') $$), '^RE007: version 1 of course_content was not cut over to', 'from there is no further way back');
select lives_ok($$ select reembed.cutover('course_content', 2) $$, 'another cutover is one statement');
select matches(pg_temp.error_of($$ select reembed.finalize('course_content', 2) $$), '^RE007: version 2 of course_content: finalize is not possible, it is the active version', 'the active version is not finalized');
select matches(pg_temp.error_of($$ select reembed.finalize_sql('course_content', 2) $$), '^RE007: version 2 of course_content: finalize is not possible, it is the active version', 'nor is that written down');
select matches(pg_temp.error_of($$ select reembed.abandon('course_content', 2) $$), '^RE007: version 2 of course_content: abandon is not possible, it is the active version', 'nor is it given up');
select is(pg_temp.error_of($$ select reembed.abandon('course_content', 1) $$), 'RE007: version 1 of course_content: abandon is not possible, its state is standby', 'nor is the way back, but by finalize');
select reembed.finalize('course_content', 1, 'moved', 'tester');
select ok((select state = 'retired' and not maintained from reembed.versions where id = 1), 'a finalized version is retired');
select is((select count(*)::int from pg_trigger where tgrelid = 'public.course_content'::regclass and tgname ~ '^reembed_1_'), 0, 'without triggers');
select is((select count(*)::int from reembed.jobs where version_id = 1) + (select count(*)::int from reembed.records where version_id = 1), 0, 'jobs and records');
select is_empty($$ select * from reembed.violations() $$, 'and the other is whole');
select is(pg_temp.error_of($$ select reembed.finalize('course_content', 1) $$), 'RE010: version 1 of collection course_content was finalized', 'finalizing is done once');
select is(pg_temp.error_of($$ select reembed.abandon('course_content', 1) $$), 'RE010: version 1 of collection course_content was finalized', 'and nothing is to be given up any more');
select is(pg_temp.error_of($$ select reembed.transition(1, 'start_loading', 'loading') $$), 'RE010: version 1 of collection course_content was finalized', 'no step leads out of it');
select is(pg_temp.error_of($$ select reembed.transition(2, 'start_loading', 'loading') $$), 'RE007: version 2 of course_content: start_loading is not possible, its state is ready', 'and none leads where the table has none');
select is(pg_temp.error_of($$ select reembed.rollback('course_content') $$), 'RE007: version 1 of course_content was finalized: there is no way back to it', 'no way leads back to a finalized version');
select is(pg_temp.error_of($$ select embedding_route('course_content', 1) $$), 'RE010: version 1 of collection course_content was finalized', 'and no route to it');
select is(pg_temp.error_of($$ select reembed.start_loading('course_content', 1) $$), 'RE010: version 1 of collection course_content was finalized', 'nor is it loaded again');
select is(pg_temp.error_of($$ select reembed.cutover('course_content', 1) $$), 'RE007: version 1 of course_content cannot be made active: it was finalized', 'nor made active');

select is(pg_temp.kinds(),
          'add 1, add 2, lexical, load 1, adopt 1, indexing 1, ready 1, set_space 2, set_space 2, load 2, cutover 2, rollback 1, indexing 2, ready 2, cutover 2, rollback 1, cutover 2, finalize 1',
          'the events tell the whole story');
select results_eq($$ select actor, reason from reembed.events where kind in ('cutover', 'rollback') order by id $$,
                  $$ values ('tester', 'a drill'), ('postgres', 'the drill is over'), ('tester', 'better answers'), ('postgres', 'worse answers'), ('postgres', null) $$, 'with who and why');

-- Another version ------------------------------------------------------------------------------------------------------------------------

select matches(pg_temp.error_of($$ select reembed.add_version('course_content', 'openai/unheard-of@1', 'embedding_3', 'reembed.course_content_input') $$), '^RE008: space_id: space', 'in no unknown space');
select matches(pg_temp.error_of($$ select reembed.add_version('course_content', 'openai/text-embedding-ada-002@1536', 'embedding_3', 'reembed.course_content_input') $$), '^RE008: vector_column: public.course_content has no column embedding_3', 'nor in a column that is not there');
select matches(pg_temp.error_of($$ select reembed.add_version('course_content', 'openai/text-embedding-ada-002@1536', 'embedding_1536', 'reembed.nothing') $$), '^RE008: input_function: there is no function reembed.nothing', 'nor of a text that nobody makes');
alter table public.course_content add column embedding_3 vector(1536);
select reembed.add_version('course_content', 'openai/text-embedding-ada-002@1536', 'embedding_3', 'reembed.course_content_input');
select is(embedding_route('course_content', 3) ->> 'function', 'match_course_content_v3', 'the third version');
select matches(pg_temp.error_of($$ select match_course_content_v3((array_fill(1::real, array[1536]))::vector) $$), '^RE002: query_space is null: course_content has two versions of 1536 dimensions', 'of equal width asks for the space');
select matches(pg_temp.error_of($$ select match_course_content_v2((array_fill(1::real, array[1536]))::vector) $$), '^RE002: query_space is null: course_content has two versions of 1536 dimensions', 'and so does its elder from now on');
select is_empty($$ select proname from pg_proc where pronamespace = 'public'::regnamespace group by proname having count(*) > 1 $$, 'no search was overloaded on the way');

select * from finish();
rollback;
