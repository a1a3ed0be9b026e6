-- The roles of a Supabase project, as its own start-up scripts leave them: what passes under these fails or passes there alike.
-- Run by a superuser; running it again changes nothing. `supabase_admin` is the superuser the server was made with.

set client_min_messages = warning;

do $$
declare
  role_name text;
begin
  -- Roles belong to the cluster: one session at a time makes them.
  perform pg_advisory_xact_lock(hashtext('reembed: supabase-like roles'));
  foreach role_name in array array['supabase_admin', 'postgres', 'anon', 'authenticated', 'service_role',
                                   'authenticator', 'supabase_auth_admin'] loop
    if not exists (select from pg_roles where rolname = role_name) then
      execute format('create role %I', role_name);
    end if;
  end loop;
  if (select rolsuper from pg_roles where rolname = 'supabase_admin') is not true then
    alter role supabase_admin superuser createdb createrole replication bypassrls login;
  end if;
  if (select oid from pg_roles where rolname = 'postgres') = 10 then
    raise exception 'the role postgres is this server''s first superuser and cannot be made an ordinary role'
      using hint = 'Make the server with "initdb --username=supabase_admin", or let "npm run postgres" start one.';
  end if;
end
$$;

-- The owner of what migrations make: much may, but no superuser.
alter role postgres nosuperuser createdb createrole replication bypassrls login;
alter role postgres set search_path = "$user", public, extensions;

alter role anon nologin noinherit;
alter role authenticated nologin noinherit;
alter role service_role nologin noinherit bypassrls;
alter role authenticator login noinherit;
alter role supabase_auth_admin noinherit createrole login;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, authenticator to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- service_role has no limit of its own: over the API it lives under the authenticator's.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
