-- The match RPCs as a client calls them: their parameters and columns, what they refuse and how they say so, filters, threshold, order.
begin;
select plan(55);

-- A unit vector on the plane of the first two axes, so that its similarity to the first axis is cos(degrees).
create function pg_temp.at(degrees double precision, width int) returns extensions.vector language sql immutable as $$
  select array_agg(case n when 1 then cosd(degrees) when 2 then sind(degrees) else 0 end order by n)::real[]::extensions.vector from generate_series(1, width) n
$$;

create function pg_temp.error_of(statement text) returns text language plpgsql as $$
declare
  said text; hinted text; code text;
begin
  execute statement;
  return 'no error';
exception when others then
  get stacked diagnostics code = returned_sqlstate, said = message_text, hinted = pg_exception_hint;
  return code || ': ' || said || ' | ' || hinted;
end
$$;

-- Shape --------------------------------------------------------------------------------------------------------------------------------

select is(pg_get_function_identity_arguments('public.match_course_content'::regproc),
          'query_embedding vector, match_threshold double precision, match_count integer, filter_content_type text, filter_part_id text, filter_module_id text, query_space text',
          'the three parameters that apps call stand first');
select is(pg_get_function_identity_arguments('public.match_course_content_v2'::regproc), pg_get_function_identity_arguments('public.match_course_content'::regproc),
          'the second version''s RPC takes the same');
select is(pg_get_function_result('public.match_course_content'::regproc),
          'TABLE(id uuid, title text, content text, url text, content_type text, similarity double precision)', 'the columns that apps read come back, in their order');
select is(pg_get_function_result('public.match_course_content_v2'::regproc), pg_get_function_result('public.match_course_content'::regproc),
          'the second version''s RPC returns the same');
select matches(pg_get_function_arguments('public.match_course_content'::regproc), 'match_threshold double precision DEFAULT 0\.5, match_count integer DEFAULT 5,',
               'the defaults are those that apps rely on');
select matches(pg_get_function_arguments('public.match_course_content_v2'::regproc), 'match_threshold double precision DEFAULT 0\.25, match_count integer DEFAULT 5,',
               'the second version''s threshold is chosen for its space');

-- Refusals: the argument, the rule, the model to use -------------------------------------------------------------------------------------

select is(pg_temp.error_of($$ select * from match_course_content(pg_temp.at(0, 1536)) $$),
          'RE001: query_embedding has 1536 dimensions: match_course_content searches vectors of 384 | Embed the query with gte-small (supabase/gte-small@384, 384 dimensions).',
          'a vector of the new width is refused by the old RPC, over an empty table too');
select is(pg_temp.error_of($$ select * from match_course_content_v2(pg_temp.at(0, 384)) $$),
          'RE001: query_embedding has 384 dimensions: match_course_content_v2 searches vectors of 1536 | Embed the query with text-embedding-3-small (openai/text-embedding-3-small@1536, 1536 dimensions).',
          'a vector of the old width is refused by the new RPC');
select matches(pg_temp.error_of($$ select * from match_course_content('[1,2]') $$), '^RE001: query_embedding has 2 dimensions', 'two numbers are no query');
select is(pg_temp.error_of($$ select * from match_course_content(pg_temp.at(0, 384), query_space => 'openai/text-embedding-3-small@1536') $$),
          'RE002: query_space is openai/text-embedding-3-small@1536: match_course_content searches vectors of supabase/gte-small@384 | Embed the query with gte-small (supabase/gte-small@384, 384 dimensions).',
          'the wrong space is refused though the width is right');
select matches(pg_temp.error_of($$ select * from match_course_content(pg_temp.at(0, 384), query_space => '') $$), '^RE002: query_space is', 'an empty space is no space');
select lives_ok($$ select * from match_course_content(pg_temp.at(0, 384), query_space => 'supabase/gte-small@384') $$, 'the right space is taken');
select ok(length(pg_temp.error_of(format('select * from match_course_content(pg_temp.at(0, 384), query_space => %L)', repeat('x', 70000)))) < 400,
          'a space of 70,000 letters is not repeated');
select is(pg_temp.error_of('select * from match_course_content(null)'),
          'RE003: query_embedding is null | Embed the query with gte-small (supabase/gte-small@384, 384 dimensions).', 'null is no vector');
select is(pg_temp.error_of('select * from match_course_content((array_fill(0::real, array[384]))::vector)'),
          'RE003: query_embedding is a zero vector: it has no direction to compare | Embed the query with gte-small (supabase/gte-small@384, 384 dimensions).',
          'a zero vector has no direction');
select matches(pg_temp.error_of('select * from match_course_content((array_fill(1e30::real, array[384]))::vector)'),
               '^RE003: query_embedding has a length outside 1e-15 to 1e15', 'nor can distances to a huge vector be computed');
select matches(pg_temp.error_of('select * from match_course_content((array_fill(1e-30::real, array[384]))::vector)'),
               '^RE003: query_embedding has a length outside', 'or to a tiny one');
select matches(pg_temp.error_of($$ select * from match_course_content('[NaN,1]') $$), 'NaN', 'pgvector itself refuses what is not finite');
select matches(pg_temp.error_of($$ select * from match_course_content('[1,2') $$), '^22P02', 'and what is no vector');

select is(pg_temp.error_of(format('select * from match_course_content(pg_temp.at(0, 384), match_count => %s)', given)),
          format('RE004: match_count is %s: it must be between 1 and 1000 | Pass how many rows you want at most.', given), 'match_count ' || given)
  from unnest(array['0', '-1', '1001', '2147483647', 'null']) given;
select lives_ok(format('select * from match_course_content(pg_temp.at(0, 384), match_count => %s)', given), 'match_count ' || given)
  from unnest(array[1, 1000]) given;
select is(pg_temp.error_of(format('select * from match_course_content(pg_temp.at(0, 384), match_threshold => %L)', given)),
          format('RE004: match_threshold is %s: it must be between -1 and 1, or null for none | A similarity is 1 - cosine distance.', given), 'match_threshold ' || given)
  from unnest(array['2', '-1.1', 'NaN', 'Infinity', '-Infinity']) given;
select lives_ok(format('select * from match_course_content(pg_temp.at(0, 384), match_threshold => %L)', given), 'match_threshold ' || coalesce(given, 'null'))
  from unnest(array['-1', '1', null]) given;

-- What comes back ------------------------------------------------------------------------------------------------------------------------

insert into course_content (id, title, content, url, content_type, part_id, module_id, embedding, embedding_1536)
select ('00000000-0000-4000-8000-0000000000' || lpad(degrees::text, 2, '0'))::uuid, degrees || ' degrees', 'Text', 'https://course.example/#' || degrees,
       case when degrees % 20 = 0 then 'section' else 'code' end, 'part-' || degrees / 30, case when degrees > 50 then 'late' end,
       pg_temp.at(degrees, 384), pg_temp.at(90 - degrees, 1536)
  from generate_series(0, 80, 10) degrees;

select results_eq($$ select title from match_course_content(pg_temp.at(0, 384), null, 4) $$,
                  $$ values ('0 degrees'), ('10 degrees'), ('20 degrees'), ('30 degrees') $$, 'best first, as many as asked');
select results_eq($$ select title from match_course_content_v2(pg_temp.at(0, 1536), null, 3) $$,
                  $$ values ('80 degrees'), ('70 degrees'), ('60 degrees') $$, 'each version reads its own vectors');
select is((select array_agg(round(similarity::numeric, 4)) from match_course_content(pg_temp.at(0, 384), null, 4)),
          array[1, 0.9848, 0.9397, 0.8660], 'similarity is the cosine');
select results_eq($$ select id, title, content, url, content_type from match_course_content(pg_temp.at(40, 384), 0.99) $$,
                  $$ select id, title, content, url, content_type from course_content where title = '40 degrees' $$, 'a row comes back as it stands');
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384))), 5, 'by default five at most');
select is((select count(*)::int from match_course_content(pg_temp.at(5, 384), match_count => 100)), 7, 'and only above 0.5');
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384), null, 100)), 9, 'without a threshold all that there is');
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384), -1, 100)), 9, 'which is what -1 gives');
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384), 1, 100)), 0, 'a row must lie above the threshold, not at it');
select is((select min(similarity) > 0.7 and count(*) = 5 from match_course_content(pg_temp.at(0, 384), 0.7, 100)), true, 'the threshold cuts the tail');
select is((select count(*)::int from match_course_content((array_fill(-1::real, array[384]))::vector, 0.9, 5)), 0, 'a query far from everything finds nothing');
select results_eq($$ select title from match_course_content((pg_temp.at(0, 384)::real[])::vector(384), null, 1) $$, $$ values ('0 degrees') $$, 'a typed vector is taken');
select results_eq($$ select title from match_course_content((select array_agg(v * 100)::vector from unnest(pg_temp.at(0, 384)::real[]) v), null, 1) $$,
                  $$ values ('0 degrees') $$, 'a query needs no length of 1');

-- Filters ----------------------------------------------------------------------------------------------------------------------------------

select results_eq($$ select title from match_course_content(pg_temp.at(0, 384), null, 3, filter_content_type => 'code') $$,
                  $$ values ('10 degrees'), ('30 degrees'), ('50 degrees') $$, 'filter_content_type');
select results_eq($$ select title from match_course_content(pg_temp.at(0, 384), null, 9, filter_part_id => 'part-1') $$,
                  $$ values ('30 degrees'), ('40 degrees'), ('50 degrees') $$, 'filter_part_id');
select results_eq($$ select title from match_course_content(pg_temp.at(0, 384), null, 9, filter_module_id => 'late') $$,
                  $$ values ('60 degrees'), ('70 degrees'), ('80 degrees') $$, 'filter_module_id leaves out rows that have none');
select results_eq($$ select title from match_course_content_v2(pg_temp.at(0, 1536), null, 9, filter_content_type => 'code', filter_part_id => 'part-1', filter_module_id => null) $$,
                  $$ values ('50 degrees'), ('30 degrees') $$, 'filters add up, null filters nothing');
select is_empty($$ select title from match_course_content(pg_temp.at(0, 384), null, 9, filter_content_type => '''; drop table course_content; --') $$,
                'a filter is a value');

-- Rows without a vector, and ties --------------------------------------------------------------------------------------------------------

insert into course_content (title, content) values ('No vector', 'Yet');
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384), null, 100)), 9, 'a row without a vector is not found');
insert into course_content (id, title, content, embedding)
select ('00000000-0000-4000-8000-00000000010' || n)::uuid, 'twin ' || n, 'Text', pg_temp.at(0, 384) from generate_series(3, 1, -1) n;
select results_eq($$ select title from match_course_content(pg_temp.at(0, 384), 0.999, 5) $$,
                  $$ values ('0 degrees'), ('twin 1'), ('twin 2'), ('twin 3') $$, 'ties come in the order of their keys');
-- Without an index, which would not hold it.
drop index course_content_embedding_hnsw;
insert into course_content (title, content, embedding) values ('Zero', 'No direction', array_fill(0::real, array[384])::vector);
select is((select count(*)::int from match_course_content(pg_temp.at(0, 384), null, 13)), 12, 'a stored zero vector is not found');

select * from finish();
rollback;
