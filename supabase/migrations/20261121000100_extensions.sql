-- What Reembed stands on: pgvector 0.8 or newer in the schema `extensions`, and a schema of its own that the API does not expose.
-- Makes: extension vector (where it is missing), the schemas extensions and reembed, the API roles where no Supabase made them.
-- Every function of Reembed sets search_path = pg_catalog, pg_temp. An empty one is not safe: pg_temp is then searched for types before
-- pg_catalog, and a caller's domain pg_temp.text, whose check runs a function, would run it with the rights of a security definer.
-- Risks: none for existing data. Refuses, with what to do, a vector extension that is too old or stands in another schema.

create schema if not exists extensions;
create schema if not exists reembed;
comment on schema reembed is 'Reembed: spaces, versions, jobs, records, money. Internal: clients call functions in public.';
revoke all on schema reembed from public;

do $$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      execute pg_catalog.format('create role %I nologin noinherit', role_name);
    end if;
  end loop;
end
$$;
revoke all on schema reembed from anon, authenticated, service_role;

do $$
begin
  -- Supabase has granted it already, as another role; a server of one's own has not.
  if not pg_catalog.has_schema_privilege('anon', 'extensions', 'usage') then
    grant usage on schema extensions to anon, authenticated, service_role;
  end if;
end
$$;


create extension if not exists vector with schema extensions;

do $$
declare
  version_parts int[];
  vector_schema name;
begin
  select pg_catalog.string_to_array(pg_catalog.split_part(e.extversion, '-', 1), '.')::int[], n.nspname
    into version_parts, vector_schema
    from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
   where e.extname = 'vector';
  if vector_schema <> 'extensions' then
    raise exception using errcode = 'RE008',
      message = pg_catalog.format('the extension vector stands in the schema %s, not in extensions', vector_schema),
      hint = 'Run: alter extension vector set schema extensions; then apply this migration again.';
  end if;
  if version_parts < array[0, 8, 0] then
    raise exception using errcode = 'RE008',
      message = 'pgvector is older than 0.8.0: it has no iterative scan, so filtered searches would lose rows',
      hint = 'Upgrade the database, then run: alter extension vector update;';
  end if;
end
$$;
