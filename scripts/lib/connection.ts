/**
 * The CLI's way to the database: a connection string, be it a Supabase project's, a PostgreSQL's on this machine or the embedded
 * PGlite's behind its socket. The same database functions as over the API, called by name.
 */
import { DatabaseError, escapeIdentifier, Pool, type QueryResultRow } from "pg";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { databaseError, type Rpc } from "../../supabase/functions/_shared/rpc.ts";

export interface Database {
  readonly url: string;
  /** Calls a function of the schema public with named arguments; a set comes back as an array of rows. */
  readonly rpc: Rpc;
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
      const { rows } = await pool.query<Row>(sql, values.map(asParameter));
      return rows;
    } catch (error) {
      throw asReembedError(error, url);
    }
  };
  const rpc: Rpc = async (name, args) => {
    const names = Object.keys(args);
    const list = names.map((argument, index) => `${escapeIdentifier(argument)} => $${index + 1}`).join(", ");
    const rows = await query<{ value: unknown }>(
      `select to_jsonb(f) as value from public.${escapeIdentifier(name)}(${list}) f`,
      names.map((argument) => args[argument]),
    );
    return name.startsWith("match_") ? rows.map(({ value }) => value) : rows[0]?.value;
  };
  try {
    await query("select 1");
  } catch (error) {
    await pool.end();
    throw error;
  }
  return { url, rpc, query, close: () => pool.end() };
}

/** Lists of objects are JSON; the driver would make a PostgreSQL array of them. Lists of plain values are arrays. */
function asParameter(value: unknown): unknown {
  return Array.isArray(value) && value.some((item) => typeof item === "object" && item !== null)
    ? JSON.stringify(value)
    : value;
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
