-- The surface of what hosted Supabase has and this server has not, or not in every database: pg_cron, pg_net and vault, as far as SQL can
-- name it, with no life behind it. `supabase db lint` then checks the statements that our functions run only where these exist.
-- Applied after the migrations, whose guards must not find it.

create schema cron;
create table cron.job (
  jobid bigint primary key, schedule text, command text, nodename text, nodeport int, database text, username text,
  active boolean, jobname text
);
create table cron.job_run_details (
  jobid bigint, runid bigint primary key, job_pid int, database text, username text, command text, status text,
  return_message text, start_time timestamptz, end_time timestamptz
);
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as 'select 0::bigint';
create function cron.unschedule(job_name text) returns boolean language sql as 'select true';
create function cron.alter_job(
  job_id bigint, schedule text default null, command text default null, database text default null, username text default null, active boolean default null
) returns void language sql as '';

create schema net;
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 5000
) returns bigint language sql as 'select 0::bigint';

create schema vault;
create table vault.secrets (id uuid primary key, name text, description text, secret text);
create view vault.decrypted_secrets as select *, secret as decrypted_secret from vault.secrets;
create function vault.create_secret(new_secret text, new_name text default null, new_description text default '')
returns uuid language sql as 'select gen_random_uuid()';
create function vault.update_secret(secret_id uuid, new_secret text default null, new_name text default null)
returns void language sql as '';

grant usage on schema cron, net, vault to postgres;
grant all on all tables in schema cron, vault to postgres;
