/**
 * The CLI's way to the database: a connection string, be it a Supabase project's, a PostgreSQL's on this machine or the embedded
 * PGlite's behind its socket. The same database functions as over the API, called by name.
 */
import { DatabaseError, escapeIdentifier, Pool, type QueryResultRow } from "pg";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { VECTORS_AS_TEXT, type VectorForm } from "../../supabase/functions/_shared/queue.ts";
import { databaseError, type Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { binaryVectors } from "./binary-vectors.ts";

export interface Database {
  readonly url: string;
  /** Calls a function of the schema public with named arguments; a set comes back as an array of rows. */
  readonly rpc: Rpc;
  /** How vectors travel over this connection. */
  readonly vectorForm: VectorForm;
  /** Runs one statement and returns its rows. Throws ReembedError. */
  query<Row extends QueryResultRow>(sql: string, values?: readonly unknown[]): Promise<Row[]>;
  close(): Promise<void>;
}

/**
 * Opens a pool of connections.
 * @param connections at most so many at once
 * @throws ReembedError `database_unavailable` when nobody answers, naming the host and never the password
 */
export async function openDatabase(url: string, connections = 4): Promise<Database> {
  const pool = new Pool({ connectionString: url, max: connections, connectionTimeoutMillis: 5_000 });
  // A connection that the server ends while it is idle reports it here; the next statement opens another.
  pool.on("error", () => {});
  const query = async <Row extends QueryResultRow>(
    sql: string,
    values: readonly unknown[] = [],
  ): Promise<Row[]> => {
    try {
      const { rows } = await pool.query<Row>(sql, [...values]);
      return rows;
    } catch (error) {
      throw asReembedError(error, url);
    }
  };
  const known = new Map<string, Promise<ReadonlySet<string>>>();
  const jsonArguments = (name: string): Promise<ReadonlySet<string>> => {
    const asked = known.get(name) ?? readJsonArguments(name);
    known.set(name, asked);
    asked.catch(() => known.delete(name));
    return asked;
  };
  const readJsonArguments = async (name: string): Promise<ReadonlySet<string>> => {
    const rows = await query<{ argument: string }>(
      `select a.argument from pg_catalog.pg_proc p, unnest(p.proargnames, p.proargtypes::oid[]) a(argument, type)
        where p.pronamespace = 'public'::regnamespace and p.proname = $1 and a.type in ('json'::regtype, 'jsonb'::regtype)`,
      [name],
    );
    return new Set(rows.map(({ argument }) => argument));
  };
  const rpc: Rpc = async (name, args) => {
    // The driver makes a PostgreSQL array of every list; which of them is JSON only the function knows: an empty one could be either.
    const hasLists = Object.values(args).some(Array.isArray);
    const json = hasLists ? await jsonArguments(name) : new Set<string>();
    const names = Object.keys(args);
    const list = names.map((argument, index) => `${escapeIdentifier(argument)} => $${index + 1}`).join(", ");
    const rows = await query<{ value: unknown }>(
      // Not to_jsonb, which sorts a row's columns by their names' lengths.
      `select to_json(f) as value from public.${escapeIdentifier(name)}(${list}) f`,
      names.map((argument) => (json.has(argument) ? JSON.stringify(args[argument]) : args[argument])),
    );
    return /^(match|hybrid|recent)_/.test(name) ? rows.map(({ value }) => value) : rows[0]?.value;
  };
  let vectorForm = VECTORS_AS_TEXT;
  try {
    // A type's number is each database's own. Where the extension is missing every other call says so.
    const [known] = await query<{ oid: number | null }>("select to_regtype('extensions.vector')::oid as oid");
    if (known?.oid != null) vectorForm = binaryVectors(known.oid);
  } catch (error) {
    await pool.end();
    throw error;
  }
  return { url, rpc, vectorForm, query, close: () => pool.end() };
}

function asReembedError(error: unknown, url: string): Error {
  if (error instanceof DatabaseError)
    return databaseError({ code: error.code, message: error.message, hint: error.hint });
  if (error instanceof ReembedError || !(error instanceof Error)) return error as Error;
  return new ReembedError(
    "database_unavailable",
    `no database answers at ${hostOf(url)}`,
    "Start one with npm run dev, or pass --db-url.",
  );
}

function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).host : "the given address";
}
