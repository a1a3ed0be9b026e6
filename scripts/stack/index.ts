/**
 * A whole Supabase on this machine, without Docker: REST, auth and the edge functions on one port over PGlite or a PostgreSQL.
 * `npm run dev`, the main job and the end-to-end tests all start this.
 */
import { once } from "node:events";
import { join, resolve } from "node:path";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Server } from "../../supabase/functions/_shared/servers.ts";
import { applyMigrations } from "../lib/migrations.ts";
import { openPglite, usePostgres, withClient } from "./database.ts";
import { startFunctions } from "./functions.ts";
import { createGateway, type Routes } from "./gateway.ts";
import { generateKeys, projectKeys } from "./keys.ts";
import { lockFolder, type RunningStack } from "./lock.ts";
import { listen } from "./port.ts";
import { DEFAULT_PORT, PROJECT, STATE_DIRECTORY } from "./project.ts";
import { createRestApi } from "./rest.ts";
import { createSupabaseRoles, mayMakeAuthSchema, openAuthFunctions } from "./supabase-roles.ts";
import { startTicker } from "./ticker.ts";

export type { RunningStack } from "./lock.ts";
export { DEFAULT_PORT, readRunningStack, STATE_DIRECTORY } from "./project.ts";

export interface StackOptions {
  /** 0 takes a free port. Default: 54321. */
  readonly port?: number;
  /**
   * `folder` (default): PGlite in the state directory. `memory`: PGlite that is gone at the end, with keys of its own; nothing is
   * written and no folder is locked. `{ url }`: a PostgreSQL, which gets the migrations.
   */
  readonly database?: "folder" | "memory" | { readonly url: string };
  /** Leave to use a PostgreSQL on another machine. */
  readonly allowRemote?: boolean;
  readonly stateDirectory?: string;
  readonly migrationsDirectory?: string;
  readonly functionsDirectory?: string;
  /** For the functions' provider; nothing else of the caller's environment reaches them. */
  readonly openai?: { readonly apiKey?: string | undefined; readonly baseUrl?: string | undefined };
  /** The other servers that speak OpenAI's API, by their providers' names. */
  readonly servers?: Readonly<Record<string, Server>>;
  /** Where files of images stand that are named without a URL. */
  readonly imageFilesUrl?: string | undefined;
  /** The environment's switches for the functions, by name. */
  readonly switches?: Readonly<Record<string, string>>;
  /** How often the backfill function is woken where pg_cron is not installed. Default: 5,000. */
  readonly tickMs?: number;
  /** Receives what functions print, and failures, a line each. Default: dropped. */
  readonly onLog?: (line: string) => void;
}

export interface Stack extends RunningStack {
  /** The migrations that this start applied. */
  readonly migrations: readonly string[];
  /** Ends everything that was started; safe to call twice. */
  stop(): Promise<void>;
}

/**
 * Brings a stack up; when anything fails, what was started already is ended again.
 * @throws ReembedError `busy` when the port or the folder is taken, saying by whom; `forbidden` for a database on another machine;
 *   `database_unavailable`; a migration's own error with the file's name
 */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const onLog = options.onLog ?? (() => {});
  const started = new AsyncDisposableStack();
  try {
    let routes: Routes | undefined;
    const { server, port } = await listen(
      createGateway(() => routes, onLog),
      requirePort(options.port ?? DEFAULT_PORT),
    );
    started.defer(async () => {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    });
    const url = `http://127.0.0.1:${port}`;

    const state =
      options.database === "memory" ? undefined : resolve(options.stateDirectory ?? STATE_DIRECTORY);
    const lock = state === undefined ? undefined : await lockFolder(state);
    if (lock) started.defer(() => lock.release());
    const keys = state === undefined ? generateKeys() : await projectKeys(state);

    // Deno comes up beside the database; a failure is told below, where it is waited for.
    const starting = startFunctions({
      directory: resolve(options.functionsDirectory ?? join(PROJECT, "supabase", "functions")),
      stackUrl: url,
      keys,
      openai: options.openai ?? {},
      servers: options.servers,
      imageFilesUrl: options.imageFilesUrl,
      switches: options.switches,
      onLog,
    });
    const stopFunctions = async () => (await starting.catch(() => undefined))?.stop();
    starting.catch(() => undefined);
    started.defer(stopFunctions);

    const database =
      typeof options.database === "object"
        ? await usePostgres(options.database.url, options.allowRemote ?? false)
        : await openPglite(state === undefined ? undefined : join(state, "db"));
    started.defer(() => database.stop());

    const rest = createRestApi(database, keys);
    started.defer(() => rest.stop());
    const makesAuth = await withClient(database.url, async (client) => {
      await createSupabaseRoles(client);
      return mayMakeAuthSchema(client);
    });
    if (makesAuth) await rest.createAuthSchema();
    else onLog("the schema auth belongs to another role and stays as it is: users sign in at its own server");
    const { migrations, hasCron } = await withClient(database.url, async (client) => {
      if (makesAuth) await openAuthFunctions(client);
      const migrations = await applyMigrations(client, options.migrationsDirectory);
      const cron = await client.query("select from pg_catalog.pg_extension where extname = 'pg_cron'");
      return { migrations, hasCron: cron.rows.length > 0 };
    });
    await rest.open();

    const functions = await starting;
    // Stopping twice is nothing; this one comes before the database ends, the one above is for a start that fails.
    started.defer(stopFunctions);
    routes = { rest: rest.fetch, functions: functions.fetch };

    if (!hasCron) {
      const ticker = startTicker({
        functionsUrl: `${url}/functions/v1`,
        backfillKey: keys.backfillKey,
        intervalMs: options.tickMs ?? 5_000,
        onLog,
      });
      started.defer(() => ticker.stop());
    }

    const running: RunningStack = { url, databaseUrl: database.url, ...keys };
    await lock?.publish(running);
    return { ...running, migrations, stop: () => started.disposeAsync() };
  } catch (error) {
    await started.disposeAsync();
    throw error;
  }
}

function requirePort(port: number): number {
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new ReembedError(
    "invalid_request",
    `port must be a whole number from 0 to 65535`,
    "give --port 0 for any free port",
  );
}
