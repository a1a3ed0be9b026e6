-- pg_cron as a Supabase project has it once it is switched on. It can be made only in the database that `cron.database_name` names.

create extension if not exists pg_cron with schema pg_catalog;

grant usage on schema cron to postgres with grant option;
grant all on all tables in schema cron to postgres with grant option;
grant all on all functions in schema cron to postgres with grant option;
-- Jobs are changed through the extension's functions alone.
revoke all on cron.job from postgres;
grant select on cron.job to postgres with grant option;
