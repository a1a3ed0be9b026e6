-- What wakes the backfill function: pg_cron pokes it over pg_net, or over the extension http where there is no pg_net.
-- Makes: reembed.secrets (only where there is no vault), reembed.worker_slots, poke(), schedule(), unschedule(), purge_cron_details().
-- Risks: none until schedule() is called. A poke carries no instruction: the body is empty, and a lost one costs one tick.
-- Where pg_cron is missing (the local stack on PGlite), the stack's own ticker calls the function instead.

do $$
begin
  -- pg_cron is "available" in every database of a server and can be created in one only.
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_cron')
     and current_setting('cron.database_name', true) = current_database() then
    create extension if not exists pg_cron;
  end if;
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_net') then
    create extension if not exists pg_net;
  end if;
exception when insufficient_privilege then
  raise notice 'reembed: pg_cron or pg_net could not be created by %; enable them in the dashboard', current_user;
end
$$;

create table reembed.secrets (
  name text primary key,
  value text not null
);
comment on table reembed.secrets is 'functions_url and backfill_key where there is no vault. Readable by the owner alone.';
alter table reembed.secrets enable row level security;

create function reembed.set_secret(name text, value text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  known uuid;
begin
  if set_secret.name not in ('functions_url', 'backfill_key') then
    raise exception using errcode = 'RE004', message = format('name is %L: the secrets are functions_url and backfill_key', left(set_secret.name, 60)), hint = 'Set one of these two.';
  end if;
  if coalesce(set_secret.value, '') = '' then
    raise exception using errcode = 'RE004', message = format('value of %s is empty', set_secret.name), hint = 'Pass the value.';
  end if;
  if to_regclass('vault.secrets') is null then
    insert into reembed.secrets as s (name, value) values (set_secret.name, set_secret.value)
    on conflict on constraint secrets_pkey do update set value = excluded.value;
  else
    execute 'select id from vault.secrets where name = $1' into known using 'reembed_' || set_secret.name;
    if known is null then
      execute 'select vault.create_secret($1, $2)' using set_secret.value, 'reembed_' || set_secret.name;
    else
      execute 'select vault.update_secret($1, $2)' using known, set_secret.value;
    end if;
  end if;
end
$$;
comment on function reembed.set_secret(text, text) is
  'Stores functions_url (https://<ref>.supabase.co/functions/v1) or backfill_key (the secret key that the backfill function expects) in vault, else in a table that only the owner reads. RE004: another name, or empty.';

create function reembed.secret(name text) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  found_value text;
begin
  if to_regclass('vault.decrypted_secrets') is null then
    select s.value into found_value from reembed.secrets s where s.name = secret.name;
  else
    execute 'select decrypted_secret from vault.decrypted_secrets where name = $1' into found_value using 'reembed_' || secret.name;
  end if;
  return found_value;
end
$$;
comment on function reembed.secret(text) is 'A secret that set_secret stored, or null.';

create table reembed.worker_slots (
  slot int primary key check (slot between 1 and 8),
  token uuid,
  until timestamptz not null default '-infinity'
);
comment on table reembed.worker_slots is 'At most so many backfill functions run at once, however often they are poked: one slot each, given back at the end or when its time is over.';
insert into reembed.worker_slots (slot) select generate_series(1, 8);
alter table reembed.worker_slots enable row level security;

create function reembed.enter_slot(slots int default 1, seconds int default 90) returns uuid
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  taken constant uuid := gen_random_uuid();
begin
  perform reembed.check_range('slots', slots, 1, 8);
  perform reembed.check_range('seconds', seconds, 1, 600);
  update reembed.worker_slots w set token = taken, until = clock_timestamp() + make_interval(secs => seconds)
   where w.slot = (select f.slot from reembed.worker_slots f where f.slot <= slots and f.until < clock_timestamp() order by f.slot limit 1 for update skip locked);
  return case when found then taken end;
end
$$;
comment on function reembed.enter_slot(int, int) is 'A token for one of so many worker slots, or null when all are taken: overlapping ticks do not pile up workers.';

create function reembed.leave_slot(token uuid) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  update reembed.worker_slots w set token = null, until = '-infinity' where w.token = leave_slot.token
$$;
comment on function reembed.leave_slot(uuid) is 'Gives a worker slot back.';

create function public.reembed_enter_slot(slots int default 1, seconds int default 90) returns uuid
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.enter_slot(slots, seconds) $$;
create function public.reembed_leave_slot(token uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.leave_slot(token) $$;
revoke execute on function public.reembed_enter_slot(int, int), public.reembed_leave_slot(uuid) from public, anon, authenticated;
grant execute on function public.reembed_enter_slot(int, int), public.reembed_leave_slot(uuid) to service_role;
comment on function public.reembed_enter_slot(int, int) is 'For service_role: reembed.enter_slot, which documents it.';
comment on function public.reembed_leave_slot(uuid) is 'For service_role: reembed.leave_slot, which documents it.';

create function reembed.work_is_due() returns boolean
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from reembed.versions v join reembed.spaces s on s.id = v.space_id
     where v.maintained and reembed.is_intact(v) and (s.paused_until is null or s.paused_until <= clock_timestamp())
       and reembed.out_of_budget(v) is null
       and exists (select from reembed.jobs j where j.version_id = v.id and j.failed_at is null and j.run_at <= clock_timestamp()))
$$;
comment on function reembed.work_is_due() is 'Whether a claim would find a job now.';

create function reembed.poke() returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  url constant text := reembed.secret('functions_url');
  key constant text := reembed.secret('backfill_key');
begin
  -- What abandoned and finalized versions left, a part at each tick.
  perform reembed.sweep(5000);
  perform reembed.conduct();
  if not reembed.work_is_due() then
    return 'idle';
  end if;
  if url is null or key is null then
    return 'not configured';
  end if;
  if to_regnamespace('net') is not null then
    execute 'select net.http_post(url := $1, body := ''{}''::jsonb, headers := $2, timeout_milliseconds := 2000)'
      using url || '/backfill', jsonb_build_object('Content-Type', 'application/json', 'apikey', key);
    return 'poked';
  end if;
  if to_regprocedure('extensions.http(extensions.http_request)') is not null then
    begin
      -- The answer is not waited for: the function goes on after the caller has hung up.
      perform set_config('http.timeout_msec', '500', true);
      execute 'select extensions.http(row(''POST'', $1, array[extensions.http_header(''apikey'', $2)], ''application/json'', ''{}'')::extensions.http_request)'
        using url || '/backfill', key;
    exception when others then
      null;
    end;
    return 'poked';
  end if;
  return 'no way to send';
end
$$;
comment on function reembed.poke() is
  'Wakes the backfill function when a job is due: over pg_net, else over the extension http. Returns idle, poked, not configured (no functions_url or backfill_key) or no way to send.';

create function reembed.schedule(every text default '10 seconds', invocations int default 1) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  perform reembed.check_range('invocations', invocations, 1, 8);
  if to_regnamespace('cron') is null then
    raise exception using errcode = 'RE007', message = 'pg_cron is not installed in this database', hint = 'Enable pg_cron, or run reembed work, which needs no schedule.';
  end if;
  if reembed.secret('functions_url') is null or reembed.secret('backfill_key') is null then
    raise exception using errcode = 'RE007', message = 'functions_url and backfill_key are not both set', hint = 'Call reembed.set_secret for each first.';
  end if;
  perform reembed.unschedule();
  for n in 1..invocations loop
    execute 'select cron.schedule($1, $2, $3)' using 'reembed-backfill-' || n, every, 'select reembed.poke()';
  end loop;
  execute 'select cron.schedule($1, $2, $3)' using 'reembed-purge', '17 3 * * *', 'select reembed.purge_cron_details()';
end
$$;
comment on function reembed.schedule(text, int) is
  'Lets pg_cron poke the backfill function (every: a pg_cron schedule such as 10 seconds; invocations: how many at a time, 1 to 8) and purge its own log daily. RE004, RE007: bad argument, no pg_cron, no secrets.';

create function reembed.unschedule() returns int
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  removed int;
begin
  if to_regnamespace('cron') is null then
    return 0;
  end if;
  -- The jobs of an index that is being built end by themselves.
  execute 'select count(cron.unschedule(jobname)) from cron.job where jobname like ''reembed-%'' and jobname not like ''reembed-index-%''' into removed;
  return removed;
end
$$;
comment on function reembed.unschedule() is 'Removes what schedule() made; returns how many cron jobs that were.';

create function reembed.purge_cron_details() returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  purged bigint;
begin
  execute 'delete from cron.job_run_details d using cron.job j where j.jobid = d.jobid and j.jobname like ''reembed-%'' and d.end_time < now() - interval ''1 day''';
  get diagnostics purged = row_count;
  return purged;
end
$$;
comment on function reembed.purge_cron_details() is 'Deletes our own rows of cron.job_run_details older than a day: it grows for ever otherwise.';

revoke execute on all functions in schema reembed from public;
