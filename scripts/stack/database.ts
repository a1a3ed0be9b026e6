/** The stack's database: PGlite behind a socket, or a PostgreSQL. Both are a connection string to everyone else. */
import { mkdir } from "node:fs/promises";
import { PGlite } from "@electric-sql/pglite";
import { pg_trgm } from "@electric-sql/pglite/contrib/pg_trgm";
import { pgcrypto } from "@electric-sql/pglite/contrib/pgcrypto";
import { unaccent } from "@electric-sql/pglite/contrib/unaccent";
import { uuid_ossp } from "@electric-sql/pglite/contrib/uuid_ossp";
import { vector } from "@electric-sql/pglite/vector";
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { Client } from "pg";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { requireLoopback } from "./loopback.ts";
import { wholeExchanges } from "./whole-exchanges.ts";

export interface StackDatabase {
  /** Where everybody connects. */
  readonly url: string;
  readonly kind: "pglite" | "postgres";
  /** Set where one session serves all clients and a NOTIFY reaches only the one who holds the session: listens in process. */
  readonly listen: ((channel: string, listener: () => void) => Promise<void>) | undefined;
  stop(): Promise<void>;
}

/** What a Supabase project offers of what migrations ask for. */
export const PGLITE_EXTENSIONS = { vector, pg_trgm, pgcrypto, unaccent, uuid_ossp };

/**
 * Opens PGlite and serves it on a free loopback port.
 * All its clients share one session: `set` without `local` is seen by every other client, and one client's open transaction makes the
 * others wait. The caller holds the folder's lock.
 * @param folder where the data stands, or undefined for memory
 */
export async function openPglite(folder: string | undefined): Promise<StackDatabase> {
  if (folder !== undefined) await mkdir(folder, { recursive: true, mode: 0o700 });
  const db = await PGlite.create(folder ?? "memory://", { extensions: PGLITE_EXTENSIONS });
  const server = new PGLiteSocketServer({
    db: wholeExchanges(db),
    host: "127.0.0.1",
    port: 0,
    maxConnections: 50,
  });
  try {
    // As a Supabase project has it for its postgres role.
    await db.exec('set search_path to "$user", public, extensions');
    await server.start();
  } catch (error) {
    await db.close();
    throw error;
  }
  return {
    url: `postgresql://postgres@${server.getServerConn()}/postgres`,
    kind: "pglite",
    listen: async (channel, listener) => {
      await db.listen(channel, () => listener());
    },
    async stop() {
      await server.stop();
      await db.close();
    },
  };
}

/**
 * Checks that a PostgreSQL answers.
 * @throws ReembedError `forbidden` for another machine without leave, `database_unavailable` when nobody answers there
 */
export async function usePostgres(url: string, allowRemote: boolean): Promise<StackDatabase> {
  requireLoopback(url, allowRemote);
  const client = new Client({ connectionString: url });
  try {
    await client.connect();
    await client.query("select 1");
  } catch (error) {
    throw new ReembedError(
      "database_unavailable",
      `the database at ${new URL(url).host} cannot be used: ${error instanceof Error ? error.message : "no answer"}`,
      "check that it runs, and the user, password and database of the connection string",
    );
  } finally {
    await client.end().catch(() => undefined);
  }
  return { url, kind: "postgres", listen: undefined, stop: async () => {} };
}

/** Runs `work` on a connection of its own. */
export async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
