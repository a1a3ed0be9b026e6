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
      if not exists (select from pg_catalog.pg_roles where rolname = 'anon') then
        create role anon nologin noinherit;
        create role authenticated nologin noinherit;
        create role service_role nologin noinherit bypassrls;
        create role authenticator nologin noinherit;
        grant anon, authenticated, service_role to authenticator;
        grant usage on schema public to anon, authenticated, service_role;
        alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
        alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
        alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
      end if;
      if not exists (select from pg_catalog.pg_namespace where nspname = 'extensions') then
        create schema extensions;
        grant usage on schema extensions to anon, authenticated, service_role;
      end if;
    end
    $$;`);
}

/**
 * Whether the schema `auth` is ours to make: false where it belongs to another role, as on a Supabase, whose own auth server made it.
 */
export async function mayMakeAuthSchema(client: ClientBase): Promise<boolean> {
  const { rows } = await client.query<{ ours: boolean }>(
    `select pg_catalog.pg_get_userbyid(nspowner) = current_user as ours from pg_catalog.pg_namespace where nspname = 'auth'`,
  );
  return rows[0]?.ours ?? true;
}

/** Lets policies call `auth.uid()` and its like as the caller; the tables of the schema stay closed. Run it once the schema exists. */
export async function openAuthFunctions(client: ClientBase): Promise<void> {
  await client.query("grant usage on schema auth to anon, authenticated, service_role");
}
