/** `/rest/v1` and `/auth/v1`: @supabase/lite in process, adapted where it differs from a hosted project. */
import { AsyncLocalStorage } from "node:async_hooks";
import { App } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import type { StackDatabase } from "./database.ts";
import { postgrestError } from "./database-errors.ts";
import type { StackKeys } from "./keys.ts";
import { reserveSessions } from "./sessions.ts";
import { inSilence, installSilence } from "./silence.ts";
import { JSON_TYPES, typedCatalogue, withTypedValues } from "./typed-arguments.ts";

export interface RestApi {
  /** Makes the `auth` schema; before the migrations, whose policies call `auth.uid()`. */
  createAuthSchema(): Promise<void>;
  /** Reads the schema cache, and from now on again whenever somebody notifies `pgrst`; after the migrations. */
  open(): Promise<void>;
  fetch(request: Request): Promise<Response>;
  stop(): Promise<void>;
}

/** PostgREST's answers to a function, table, column or relationship that its cached catalogue does not know. */
const UNKNOWN_TO_THE_CACHE = new Set(["PGRST200", "PGRST202", "PGRST203", "PGRST204", "PGRST205"]);

/** Prepares the API on a database. Nothing is read or written before one of its methods is called. */
export function createRestApi(database: StackDatabase, keys: StackKeys): RestApi {
  const restoreConsole = installSilence();
  const connection = createPostgresConnection({
    url: database.url,
    postgresOptions: {
      onnotice: () => {},
      types: JSON_TYPES,
      // The pool's default opens one connection per request up to ten; PGlite serves one at a time anyway.
      max: 10,
      connection: {
        search_path: "public, extensions",
        // What Supabase's authenticator has. PGlite's one session would keep it for every other client.
        ...(database.kind === "postgres" && { statement_timeout: 8_000, lock_timeout: 8_000 }),
      },
    },
  });
  const endSessions = reserveSessions(connection.driver);
  // Lite grants ALL on every schema that has a table with RLS, `reembed` among them, to anon the first time it answers, and
  // applies no role at all when no table has RLS. Privileges are the migrations' business, and the role always applies.
  // And it hands each error of the database to normalizeDbError before it answers: the place to see it whole.
  const raised = new AsyncLocalStorage<{ error?: unknown }>();
  Object.assign(connection, {
    ensureRlsContext: async () => true,
    normalizeDbError: (error: unknown) => {
      const request = raised.getStore();
      if (request) request.error = error;
      return error;
    },
  });

  const app = new App({
    connection,
    auth: {
      jwt_secret: keys.jwtSecret,
      publishable_key: keys.publishableKey,
      secret_key: keys.secretKey,
    },
  });

  const catalogueOf = async (schema: string) =>
    typedCatalogue(await inSilence(() => connection.introspect({ useCache: true })), schema);

  /** The request's body with typed values as text, for calls of functions and writes of rows. */
  const adapted = async (path: string, schema: string, body: string): Promise<string> => {
    const rpc = /^\/rest\/v1\/rpc\/([^/]+)$/.exec(path)?.[1];
    if (rpc !== undefined) {
      const name = decodeURIComponent(rpc);
      let catalogue = await catalogueOf(schema);
      if (!catalogue.functions.has(name)) {
        await connection.clearSchemaCache();
        catalogue = await catalogueOf(schema);
      }
      return withTypedValues(body, catalogue.functions.get(name) ?? new Map());
    }
    const table = /^\/rest\/v1\/([^/]+)$/.exec(path)?.[1];
    if (table === undefined) return body;
    return withTypedValues(
      body,
      (await catalogueOf(schema)).tables.get(decodeURIComponent(table)) ?? new Map(),
    );
  };

  const fetchRest = async (request: Request): Promise<Response> => {
    const { pathname } = new URL(request.url);
    const reads = request.method === "GET" || request.method === "HEAD";
    const schema = request.headers.get(reads ? "accept-profile" : "content-profile") ?? "public";
    const json = request.headers.get("content-type")?.includes("json") ?? false;
    const bytes = reads ? null : await request.arrayBuffer();
    const send = async () => {
      const body =
        bytes !== null && json && bytes.byteLength > 0
          ? await adapted(pathname, schema, new TextDecoder().decode(bytes))
          : bytes;
      const headers = new Headers(request.headers);
      headers.delete("content-length");
      const seen: { error?: unknown } = {};
      const response = await raised.run(seen, () =>
        app.fetch(new Request(request.url, { method: request.method, headers, body })),
      );
      return (await codeOf(response)) === "SUP" ? (postgrestError(seen.error) ?? response) : response;
    };
    const response = await send();
    if (!UNKNOWN_TO_THE_CACHE.has((await codeOf(response)) ?? "")) return response;
    await connection.clearSchemaCache();
    return send();
  };

  return {
    createAuthSchema: () => inSilence(() => app.ensureSystemSchema()),
    async open() {
      await inSilence(() => app.init());
      const reload = () => void connection.clearSchemaCache();
      if (database.listen) await database.listen("pgrst", reload);
      else await connection.driver.listen("pgrst", reload);
    },
    fetch: (request) =>
      inSilence(() =>
        new URL(request.url).pathname.startsWith("/rest/") ? fetchRest(request) : app.fetch(request),
      ),
    async stop() {
      // A query whose caller has gone away may never be answered: after a second its connection is cut.
      await Promise.all([endSessions(), connection.driver.end({ timeout: 1 })]);
      await connection.close();
      restoreConsole();
    },
  };
}

/** The `code` of an error that the API answered with. */
async function codeOf(response: Response): Promise<string | undefined> {
  if (response.ok || !response.headers.get("content-type")?.includes("json")) return undefined;
  const body: unknown = await response
    .clone()
    .json()
    .catch(() => undefined);
  return typeof body === "object" && body !== null && "code" in body && typeof body.code === "string"
    ? body.code
    : undefined;
}
