/**
 * Databases on the PostgreSQL that tests and checks run on: each is cloned in milliseconds from a template that looks like a
 * Supabase project (`scripts/postgres/*.sql`), with or without this project's migrations. A template's name holds the hash of
 * all that it was made from, so it is made once, is never stale, and several checkouts may share one server.
 */
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Client, DatabaseError, escapeIdentifier } from "pg";
import { applyMigrations, readMigrations } from "./migrations.ts";

/** The server that `npm run postgres` starts. Its name and password are no secret: it listens on loopback and trusts it. */
const LOCAL_SERVER_URL = "postgresql://supabase_admin:postgres@127.0.0.1:54329/postgres";

/** `old`: Supabase's first default privileges, all that is new in public is open to the API's roles. `new`: nothing is granted. */
export type Defaults = "old" | "new";

export interface CloneOptions {
  readonly defaults: Defaults;
  /** A folder of migrations to apply as `postgres`; null for a database as a new project has it. */
  readonly migrations: string | null;
}

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
const DATABASE_MISSING = "3D000";
const CONNECT_TIMEOUT_MS = 3_000;

/**
 * The superuser URL of the server for tests: TEST_DATABASE_URL, else the local one when it answers, else null.
 * DATABASE_URL is never looked at: on many machines it names a database that somebody needs.
 * @throws Error when TEST_DATABASE_URL is no URL of a superuser on loopback, or does not answer: what was asked for is not skipped.
 */
export async function findServer(env: Readonly<Record<string, string | undefined>>): Promise<string | null> {
  const asked = env.TEST_DATABASE_URL;
  if (!asked) return (await isSuperuser(LOCAL_SERVER_URL).catch(() => false)) ? LOCAL_SERVER_URL : null;
  if (!URL.canParse(asked) || !LOOPBACK.has(new URL(asked).hostname)) {
    throw new Error(
      "TEST_DATABASE_URL must be a postgresql:// URL whose host is 127.0.0.1, ::1 or localhost",
    );
  }
  const superuser = await isSuperuser(asked).catch((error: unknown) => {
    throw new Error("TEST_DATABASE_URL is set, and the server does not let us in", { cause: error });
  });
  if (!superuser) throw new Error("TEST_DATABASE_URL must name a superuser: tests make databases and roles");
  return asked;
}

/** The same server and password, another database and role. */
export function databaseUrl(adminUrl: string, database: string, role?: string): string {
  const url = new URL(adminUrl);
  url.pathname = `/${database}`;
  if (role !== undefined) url.username = role;
  return url.href;
}

/** Runs `work` on a connection of its own and closes it, whatever happens. */
export async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  // A connection that the server ends between two statements reports it here; without a listener it ends the process.
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Makes a database, owned by `postgres`, and returns its name, which begins with `reembed_test_`. */
export async function cloneDatabase(adminUrl: string, options: CloneOptions): Promise<string> {
  const name = `reembed_test_${randomBytes(6).toString("hex")}`;
  await withClient(adminUrl, async (admin) => {
    const template = await ensureTemplate(admin, adminUrl, options);
    try {
      await createDatabase(admin, name, template);
    } catch (error) {
      // Another checkout may have swept the template away since we looked.
      if (!(error instanceof DatabaseError && error.code === DATABASE_MISSING)) throw error;
      await createDatabase(admin, name, await ensureTemplate(admin, adminUrl, options));
    }
  });
  return name;
}

/**
 * Makes the server's one database with pg_cron anew and keeps everybody else from it until `release`, which ends its jobs and leaves the
 * rest to look into.
 * @throws Error when the server does not run pg_cron.
 */
export async function claimCronDatabase(
  adminUrl: string,
  options: CloneOptions,
): Promise<{ readonly name: string; release(): Promise<void> }> {
  const admin = new Client({ connectionString: adminUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  admin.on("error", () => {});
  await admin.connect();
  try {
    // Held by this session, and so given back even by a worker that is killed.
    await admin.query(`select pg_advisory_lock(hashtext('reembed: cron database'))`);
    const { rows } = await admin.query<{ name: string | null }>(
      `select current_setting('cron.database_name', true) as name`,
    );
    const name = rows[0]?.name;
    if (!name)
      throw new Error("this PostgreSQL does not preload pg_cron: npm run postgres starts one that does");
    const ownUrl = databaseUrl(adminUrl, name);
    await admin.query(`drop database if exists ${escapeIdentifier(name)} with (force)`);
    await createDatabase(
      admin,
      name,
      await ensureTemplate(admin, adminUrl, { ...options, migrations: null }),
    );
    const cron = await readFile(new URL("../postgres/cron.sql", import.meta.url), "utf8");
    await withClient(ownUrl, (client) => client.query(cron));
    const { migrations } = options;
    if (migrations !== null) {
      await withClient(databaseUrl(adminUrl, name, "postgres"), (client) =>
        applyMigrations(client, migrations),
      );
    }
    return {
      name,
      async release() {
        await withClient(ownUrl, (client) => client.query("delete from cron.job"));
        await admin.end();
      },
    };
  } catch (error) {
    await admin.end();
    throw error;
  }
}

/** Drops a database and ends the connections to it. One that is gone is no error. */
export async function dropDatabase(adminUrl: string, name: string): Promise<void> {
  await withClient(adminUrl, (admin) =>
    admin.query(`drop database if exists ${escapeIdentifier(name)} with (force)`),
  );
}

/** Drops the templates and the kept databases of failed tests that are more than a day old. */
export async function sweepOldDatabases(adminUrl: string): Promise<void> {
  await withClient(adminUrl, async (admin) => {
    const { rows } = await admin.query<{ datname: string; datistemplate: boolean }>(`
      select datname, datistemplate from pg_database
      where datname ~ '^reembed_(test|template|building)_'
        and (pg_stat_file('base/' || oid || '/PG_VERSION', true)).modification < now() - interval '1 day'`);
    for (const { datname, datistemplate } of rows) {
      const name = escapeIdentifier(datname);
      if (datistemplate) await admin.query(`alter database ${name} is_template false`);
      await admin.query(`drop database if exists ${name} with (force)`);
    }
  });
}

async function isSuperuser(url: string): Promise<boolean> {
  return withClient(url, async (client) => {
    const { rows } = await client.query<{ super: boolean }>(
      `select current_setting('is_superuser')::boolean as super`,
    );
    return rows[0]?.super === true;
  });
}

async function createDatabase(admin: Client, name: string, template: string): Promise<void> {
  await admin.query(
    `create database ${escapeIdentifier(name)} template ${escapeIdentifier(template)} owner postgres`,
  );
}

/** The template's name; made first when it is missing, by one session of the server at a time. */
async function ensureTemplate(admin: Client, adminUrl: string, options: CloneOptions): Promise<string> {
  const sql = await readSupabaseLikeSql(options.defaults);
  const migrations = options.migrations === null ? [] : await readMigrations(options.migrations);
  const hash = createHash("sha256").update(JSON.stringify([sql, migrations]));
  const template = `reembed_template_${hash.digest("hex").slice(0, 16)}`;
  if (await isTemplate(admin, template)) return template;

  await admin.query(`select pg_advisory_lock(hashtext('reembed: templates'))`);
  try {
    if (await isTemplate(admin, template)) return template;
    const building = template.replace("template", "building");
    await admin.query(`drop database if exists ${building} with (force)`);
    if (options.migrations === null) {
      await admin.query(sql.roles);
      await admin.query(`create database ${building} template template0`);
      await withClient(databaseUrl(adminUrl, building), (client) => client.query(sql.database));
    } else {
      const { migrations: directory } = options;
      await createDatabase(
        admin,
        building,
        await ensureTemplate(admin, adminUrl, { ...options, migrations: null }),
      );
      await withClient(databaseUrl(adminUrl, building, "postgres"), (client) =>
        applyMigrations(client, directory),
      );
    }
    // A template that takes no connection can be cloned at any time: a clone fails while somebody is connected.
    await admin.query(`alter database ${building} allow_connections false`);
    await admin.query(`alter database ${building} rename to ${template}`);
    await admin.query(`alter database ${template} is_template true`);
    return template;
  } finally {
    await admin.query(`select pg_advisory_unlock(hashtext('reembed: templates'))`);
  }
}

async function isTemplate(admin: Client, name: string): Promise<boolean> {
  const { rowCount } = await admin.query("select from pg_database where datname = $1 and datistemplate", [
    name,
  ]);
  return rowCount === 1;
}

async function readSupabaseLikeSql(defaults: Defaults): Promise<{ roles: string; database: string }> {
  const read = (file: string) => readFile(new URL(`../postgres/${file}.sql`, import.meta.url), "utf8");
  const [roles, database, privileges] = await Promise.all([
    read("roles"),
    read("database"),
    defaults === "old" ? read("default-privileges") : "",
  ]);
  return { roles, database: `${database}\n${privileges}` };
}
