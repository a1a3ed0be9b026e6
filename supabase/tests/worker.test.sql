-- The worker's protocol in one session: claim, complete, fail, release, settle, and what they say to wrong arguments.
-- What needs two sessions stands in test/db and test/fault.
begin;
select plan(63);

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
create function pg_temp.vectors(how_many int) returns text[] language sql as $$
  select array_agg((array_fill(n::real, array[384]))::extensions.vector::text) from generate_series(1, how_many) n
$$;
create function pg_temp.of(claim jsonb, field text) returns text[] language sql as $$ select array_agg(j ->> field order by n) from jsonb_array_elements(claim -> 'jobs') with ordinality e(j, n) $$;
-- Completes all jobs of a claim, as a worker does.
create function pg_temp.complete(claim jsonb) returns jsonb language sql as $$
  select reembed.complete((claim ->> 'version_id')::int, claim #>> '{space,id}', (claim ->> 'lease_token')::uuid, pg_temp.of(claim, 'row_id'), pg_temp.of(claim, 'hash'),
                          pg_temp.vectors(jsonb_array_length(claim -> 'jobs')), array_fill(7, array[jsonb_array_length(claim -> 'jobs')]))
$$;
create temp table step (name text primary key, value jsonb);

-- Claim ----------------------------------------------------------------------------------------------------------------------------------

select is(reembed.claim() ->> 'reason', 'idle', 'an empty queue is idle');
select is(reembed.claim() -> 'jobs', '[]'::jsonb, 'and gives no jobs');

insert into public.course_content (id, title, content)
select ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'Section ' || n, 'Text ' || n from generate_series(1, 6) n;
insert into step values ('first', reembed.claim('course_content', 1, max_rows => 4));
select is(value ->> 'reason', 'work', 'due jobs are work') from step where name = 'first';
select is(jsonb_array_length(value -> 'jobs'), 4, 'as many as asked') from step where name = 'first';
select is(value ->> 'collection' || (value ->> 'version'), 'course_content1', 'of the version asked for') from step where name = 'first';
select is(value #>> '{space,model}', 'gte-small', 'with the space to embed them in') from step where name = 'first';
select is(j ->> 'input', format(E'Section %s\n\nText %s', right(j ->> 'row_id', 1), right(j ->> 'row_id', 1)), 'the text stands in the job')
  from step, jsonb_array_elements(value -> 'jobs') j where name = 'first' limit 1;
select is(j ->> 'hash', encode(sha256(convert_to(j ->> 'input', 'UTF8')), 'hex'), 'with its hash') from step, jsonb_array_elements(value -> 'jobs') j where name = 'first' limit 1;
select is(jsonb_array_length(reembed.claim() -> 'jobs'), 2, 'the next claim gets the rest');
select is(reembed.claim() ->> 'reason', 'idle', 'and then there is nothing left: a leased job is not due');
select is((select count(*)::int from reembed.usage where state = 'reserved'), 2, 'each claim has reserved what it will cost');

select is(pg_temp.error_of(format('select reembed.claim(max_rows => %s)', given)), format('RE004: max_rows is %s: it must be between 1 and 2048', given), 'max_rows ' || given)
  from unnest(array['0', '2049', 'null']) given;
select is(pg_temp.error_of(format('select reembed.claim(max_tokens => %s)', given)), format('RE004: max_tokens is %s: it must be between 1 and 300000', given), 'max_tokens ' || given)
  from unnest(array['0', '300001', 'null']) given;
select is(pg_temp.error_of(format('select reembed.claim(lease_seconds => %s)', given)), format('RE004: lease_seconds is %s: it must be between 1 and 3600', given), 'lease_seconds ' || given)
  from unnest(array['0', '3601', 'null']) given;
select matches(pg_temp.error_of($$ select reembed.claim('nowhere') $$), '^RE005: collection .nowhere. is unknown', 'an unknown collection');
select matches(pg_temp.error_of($$ select reembed.claim('course_content', 9) $$), '^RE006: collection course_content has no version 9', 'an unknown version');
select matches(pg_temp.error_of($$ select reembed.claim(version => 1) $$), '^RE004: version is given without collection', 'a version of no collection');

-- Complete -------------------------------------------------------------------------------------------------------------------------------

insert into step select 'done', pg_temp.complete(value) from step where name = 'first';
select is(value, '{"done": 4, "stale": [], "lost_lease": [], "gone": [], "busy": [], "refused": []}'::jsonb, 'a complete stores what still fits') from step where name = 'done';
select is((select count(*)::int from public.course_content where embedding is not null), 4, 'the vectors stand in their rows');
select is((select count(*)::int from reembed.records where tokens = 7 and space_id = 'supabase/gte-small@384'), 4, 'with a record each');
select is((select count(*)::int from reembed.jobs), 2, 'and their jobs are gone');
select is_empty('select * from reembed.violations()', 'the law holds');
select is(jsonb_array_length(pg_temp.complete(value) -> 'lost_lease'), 4, 'what is completed again has lost its lease') from step where name = 'first';

-- Each outcome once: an edit, a deletion, a lease that another has taken.
update reembed.jobs set run_at = now() + interval '1 day';
update public.course_content set content = content || '!' where id::text ~ '[123]$';
insert into step values ('second', reembed.claim('course_content', 1));
update public.course_content set content = 'Edited meanwhile' where id::text ~ '1$';
delete from public.course_content where id::text ~ '2$';
insert into step select 'outcomes', pg_temp.complete(value) from step where name = 'second';
select is(value ->> 'done', '1', 'one of three is stored') from step where name = 'outcomes';
select is(value -> 'stale', '["00000000-0000-4000-8000-000000000001"]'::jsonb, 'the edited one is stale') from step where name = 'outcomes';
select is(value -> 'gone', '["00000000-0000-4000-8000-000000000002"]'::jsonb, 'the deleted one is gone') from step where name = 'outcomes';
select is((select count(*)::int from reembed.jobs where row_id ~ '1$' and lease_token is null), 1, 'and the edit waits for the next worker');
select is(reembed.complete(1, 'openai/text-embedding-3-small@1536', gen_random_uuid(), array['00000000-0000-4000-8000-000000000001'], array['ab'], array['[1]'], array[1]) -> 'stale',
          '["00000000-0000-4000-8000-000000000001"]'::jsonb, 'a vector of another space is stale, whatever it holds');

select matches(pg_temp.error_of($$ select reembed.complete(1, 'supabase/gte-small@384', gen_random_uuid(), array['a', 'b'], array['ab'], array['[1]'], array[1]) $$),
               '^RE004: row_ids, hashes, vectors, tokens, skipped and truncated must have the same length', 'arrays of different lengths');
select matches(pg_temp.error_of($$ select reembed.complete(1, 'supabase/gte-small@384', gen_random_uuid(), array['a', 'b'], array['ab', 'ab'], array['[1]', '[1]'], array[1, 1], wait => true) $$),
               '^RE004: row_ids has more than one element while wait is true', 'waiting for two rows');
select matches(pg_temp.error_of($$ select reembed.complete(1, 'supabase/gte-small@384', gen_random_uuid(), array['a'], array['ab'], array[null], array[1]) $$),
               '^RE004: vectors and skipped', 'neither a vector nor a reason');
select matches(pg_temp.error_of($$ select reembed.complete(1, 'supabase/gte-small@384', gen_random_uuid(), array['a'], array['ab'], array['[1]'], array[1], array['empty']) $$),
               '^RE004: vectors and skipped', 'both a vector and a reason');
select matches(pg_temp.error_of($$ select reembed.complete(99, 'supabase/gte-small@384', gen_random_uuid(), array['a'], array['ab'], array['[1]'], array[1]) $$),
               '^RE006: version_id 99 is unknown', 'an unknown version');

insert into step values ('wrong', reembed.claim('course_content', 1));
select matches(pg_temp.error_of(format($$ select reembed.complete(1, 'supabase/gte-small@384', %L, array[%L], array[%L], array['[1,2]'], array[1]) $$,
                 value ->> 'lease_token', value #>> '{jobs,0,row_id}', value #>> '{jobs,0,hash}')), '^RE004: vectors: one is not a vector of the finite numbers that supabase/gte-small@384 has', 'a vector of the wrong width is not stored')
  from step where name = 'wrong';

-- A row without a text worth embedding is skipped, with its reason.
select is(reembed.complete(1, 'supabase/gte-small@384', (value ->> 'lease_token')::uuid, array[value #>> '{jobs,0,row_id}'], array[value #>> '{jobs,0,hash}'],
                           array[null], array[0], array['empty']) ->> 'done', '1', 'a row may be skipped') from step where name = 'wrong';
select is((select skipped from reembed.records r, step where name = 'wrong' and r.row_id = value #>> '{jobs,0,row_id}'), 'empty', 'its record says why');
select is_empty('select * from reembed.violations()', 'which keeps the law');

-- Fail and release -----------------------------------------------------------------------------------------------------------------------

update reembed.jobs set run_at = now() + interval '1 day';
update public.course_content set content = content || '?' where id::text ~ '[3456]$';
insert into step values ('third', reembed.claim('course_content', 1));
select is(reembed.fail(1, (value ->> 'lease_token')::uuid, array['00000000-0000-4000-8000-000000000003'], 'a 500', 60), '{"failed": 0, "retried": 1}'::jsonb, 'a failure is tried again')
  from step where name = 'third';
select ok((select run_at > clock_timestamp() + interval '50 seconds' and error = 'a 500' and failed_at is null from reembed.jobs where row_id ~ '3$'), 'after its time, with its error');
select is(reembed.fail(1, (value ->> 'lease_token')::uuid, array['00000000-0000-4000-8000-000000000004'], repeat('x', 9000)), '{"failed": 1, "retried": 0}'::jsonb, 'or for good')
  from step where name = 'third';
select ok((select failed_at is not null and length(error) = 500 from reembed.jobs where row_id ~ '4$'), 'with the beginning of a long error');
select is(reembed.fail(1, gen_random_uuid(), array['00000000-0000-4000-8000-000000000005'], 'not mine'), '{"failed": 0, "retried": 0}'::jsonb, 'who holds no lease fails nothing');
select is(reembed.release(1, (value ->> 'lease_token')::uuid, array['00000000-0000-4000-8000-000000000005'], 30), 1, 'a released job goes back') from step where name = 'third';
select ok((select attempts = 0 and lease_token is null and run_at > clock_timestamp() + interval '20 seconds' from reembed.jobs where row_id ~ '5$'), 'without an attempt spent, after its delay');
select is(reembed.release(1, (value ->> 'lease_token')::uuid), 1, 'naming no row, all that are left are released') from step where name = 'third';
select is(reembed.claim() #>> '{jobs,0,row_id}', '00000000-0000-4000-8000-000000000006', 'and due at once');
update reembed.jobs set lease_token = null, lease_until = null, lease_hash = null, run_at = now(), failed_at = null, attempts = reembed.max_attempts() where row_id ~ '3$';
select is(reembed.claim() #>> '{resolved,failed}', '1', 'a job that was claimed too often is given up');
update public.course_content set content = 'Another text' where id::text ~ '3$';
select ok((select failed_at is null and attempts = 0 and error is null from reembed.jobs where row_id ~ '3$'), 'until its row is edited');
select matches(pg_temp.error_of($$ select reembed.fail(1, gen_random_uuid(), array['a'], 'x', -1) $$), '^RE004: retry_seconds is -1', 'retry_seconds below zero');
select matches(pg_temp.error_of($$ select reembed.release(1, gen_random_uuid(), null, 86401) $$), '^RE004: delay_seconds is 86401', 'delay_seconds beyond a day');

-- The ledger -----------------------------------------------------------------------------------------------------------------------------

update reembed.spaces set price_per_mtok = 10 where id = 'supabase/gte-small@384';
select lives_ok(format($$ select reembed.settle(%s, '[{"state": "settled", "outcome": "ok", "inputs": 3, "stale": 1, "tokens": 100000, "latency_ms": 12},
                                                   {"state": "lost", "outcome": "cut connection", "inputs": 1, "stale": 0, "tokens": 5, "latency_ms": 9}]') $$, value ->> 'usage_id'),
                'a claim is settled by its requests') from step where name = 'third';
select results_eq($$ select state, outcome, inputs, stale, tokens, cost_usd from reembed.usage where state <> 'reserved' order by tokens desc $$,
                  $$ values ('settled', 'ok', 3, 1, 100000::bigint, 1::numeric), ('lost', 'cut connection', 1, 0, 5::bigint, 0.00005) $$,
                  'which stand in the ledger with their cost');
select is(pg_temp.error_of(format($$ select reembed.settle(%s, '[]') $$, value ->> 'usage_id')), format('RE004: usage_id %s is not an open reservation', value ->> 'usage_id'), 'once')
  from step where name = 'third';
select matches(pg_temp.error_of($$ select reembed.settle(null, '[]') $$), '^RE004: usage_id null', 'a claim must be named');

-- A paused space ---------------------------------------------------------------------------------------------------------------------------

select reembed.pause_space('supabase/gte-small@384', 'no quota');
select is(reembed.claim() ->> 'reason' || ': ' || (reembed.claim() ->> 'pause_reason'), 'paused: no quota', 'a paused space gives nothing and says why');
select reembed.resume_space('supabase/gte-small@384');
select is(reembed.claim() ->> 'reason', 'work', 'until it is resumed');
select matches(pg_temp.error_of($$ select reembed.pause_space('nothing', 'x') $$), '^RE004: space_id .nothing. is unknown', 'an unknown space');

select * from finish();
rollback;
