/** What Supabase has made in a project's database before the first migration runs. */
import type { ClientBase } from "pg";

/**
 * Makes the API roles and the schema `extensions`. Where the roles exist this is a Supabase, or was made to look like one, and its
 * default privileges stay as they are. Where they are made here, everything new in `public` is theirs by default, as older projects
 * have it: the harder case for migrations, which must close what is not for everybody.
 */
export async function createSupabaseRoles(client: ClientBase): Promise<void> {
  await client.query(`
    do $$
    begin
      create schema if not exists extensions;
      if exists (select from pg_catalog.pg_roles where rolname = 'anon') then
        return;
      end if;
      create role anon nologin noinherit;
      create role authenticated nologin noinherit;
      create role service_role nologin noinherit bypassrls;
      create role authenticator nologin noinherit;
      grant anon, authenticated, service_role to authenticator;
      grant usage on schema public, extensions to anon, authenticated, service_role;
      alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
      alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
      alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
    end
    $$;`);
}

/** Lets policies call `auth.uid()` and its like as the caller; the tables of the schema stay closed. Run it once the schema exists. */
export async function openAuthFunctions(client: ClientBase): Promise<void> {
  await client.query("grant usage on schema auth to anon, authenticated, service_role");
}
