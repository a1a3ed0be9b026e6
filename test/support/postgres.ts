/**
 * Databases for tests, each a clone of its own on a real PostgreSQL. Wrap what needs one in `describePostgres`.
 */
import { Client, type ClientBase } from "pg";
import { afterAll, afterEach, describe, inject, test } from "vitest";
import { MIGRATIONS_DIRECTORY } from "../../scripts/lib/migrations.ts";
import {
  claimCronDatabase,
  cloneDatabase,
  type Defaults,
  databaseUrl,
  dropDatabase,
} from "../../scripts/lib/test-server.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The server's superuser URL; null when there is none. Set by `global-setup.ts`. */
    readonly postgresAdminUrl: string | null;
  }
  interface TaskMeta {
    /** Set on suites that were skipped because there is no server, so that the reporter can count their tests. */
    leftOutForPostgres?: boolean;
  }
}

export interface TestDatabase {
  readonly name: string;
  /** As `postgres`, the role that owns what migrations make and is no superuser. */
  readonly url: string;
  /** As a superuser, in the same database. */
  readonly adminUrl: string;
  /** Drops it; after a failed test in this file it stays, and its URL is printed. Safe to call twice. */
  drop(): Promise<void>;
}

export type ApiRole = "anon" | "authenticated" | "service_role";

const open = new Set<TestDatabase>();
let someTestFailed = false;

/** The superuser URL of the server's maintenance database. Throws where there is no server. */
export function adminUrl(): string {
  const url = inject("postgresAdminUrl");
  if (url === null) throw new Error('no PostgreSQL for tests: "npm run postgres" starts one');
  return url;
}

/**
 * Makes a database as a Supabase project has it, by default with all migrations applied by `postgres` under the old default
 * privileges. Inside `describePostgres` it is dropped at the end by itself. With `cron` it is the one database that has pg_cron: tests that
 * ask for it wait for each other.
 */
export async function createDatabase(
  options: { defaults?: Defaults; migrated?: boolean; cron?: boolean } = {},
): Promise<TestDatabase> {
  const server = adminUrl();
  const cloneOptions = {
    defaults: options.defaults ?? "old",
    migrations: (options.migrated ?? true) ? MIGRATIONS_DIRECTORY : null,
  };
  const { name, release } = options.cron
    ? await claimCronDatabase(server, cloneOptions)
    : { name: await cloneDatabase(server, cloneOptions), release: undefined };
  const database: TestDatabase = {
    name,
    url: databaseUrl(server, name, "postgres"),
    adminUrl: databaseUrl(server, name),
    async drop() {
      if (!open.delete(database)) return;
      if (someTestFailed) console.error(`kept for you to look into: psql ${database.adminUrl}`);
      if (release !== undefined) await release();
      else if (!someTestFailed) await dropDatabase(server, name);
    },
  };
  open.add(database);
  return database;
}

/** A connected client; end it yourself. */
export async function connect(url: string): Promise<Client> {
  const client = new Client({ connectionString: url });
  // When a test kills this connection its next query rejects; without a listener the whole worker would end.
  client.on("error", () => {});
  await client.connect();
  return client;
}

/**
 * Runs `work` in one transaction as PostgREST would for this caller: the role, its time-outs (those of the authenticator where it has
 * none of its own) and `request.jwt.claims`. Commits, or rolls back and rethrows.
 * @param client a connection as `postgres` or as a superuser, outside any transaction
 * @param claims added to `{ role }`: `{ sub: userId }` makes `auth.uid()` answer
 */
export async function asRole<T>(
  client: ClientBase,
  role: ApiRole,
  work: (client: ClientBase) => Promise<T>,
  claims: Readonly<Record<string, unknown>> = {},
): Promise<T> {
  await client.query("begin");
  try {
    await client.query(
      `select set_config(split_part(setting, '=', 1), split_part(setting, '=', 2), true)
       from (
         select setting
         from pg_roles, unnest(rolconfig) with ordinality as configured (setting, position)
         where rolname in ('authenticator', $1) and setting ~ '^(statement|lock)_timeout='
         order by rolname = $1, position
       ) as settings`,
      [role],
    );
    await client.query(`select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, [
      role,
      JSON.stringify({ role, ...claims }),
    ]);
    const result = await work(client);
    await client.query("commit");
    return result;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

/**
 * `describe` for tests that need the server. Without one they are skipped and counted as left out; with REQUIRE_POSTGRES=1 that is a
 * failure.
 */
export function describePostgres(name: string, define: () => void): void {
  if (inject("postgresAdminUrl") !== null) {
    describe(name, () => {
      afterEach(({ task }) => {
        if (task.result?.state === "fail") someTestFailed = true;
      });
      afterAll(async () => {
        for (const database of open) await database.drop();
      });
      define();
    });
  } else if (process.env.REQUIRE_POSTGRES === "1") {
    test(`${name}: needs PostgreSQL`, () => {
      adminUrl();
    });
  } else {
    describe.skip(name, { meta: { leftOutForPostgres: true } }, define);
  }
}
