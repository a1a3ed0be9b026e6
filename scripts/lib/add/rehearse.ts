/** Trying out on the real database, in transactions that are rolled back: what is written afterwards is known to apply. */
import { Client, DatabaseError } from "pg";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import { databaseError } from "../../../supabase/functions/_shared/rpc.ts";
import type { TableFacts } from "./inspect.ts";
import type { Quoter } from "./quote.ts";

/** Nobody waits longer than this for a rehearsal, nor because of one. */
const REHEARSAL_TIME_OUT = "60s";

/**
 * Asks PostgreSQL whether an expression makes a text of one row and of nothing else, by indexing an empty copy of the table with it.
 * @returns the columns that it reads
 * @throws ReembedError `invalid_request` with PostgreSQL's reason
 */
export async function checkExpression(
  url: string,
  facts: TableFacts,
  expression: string,
  quote: Quoter,
): Promise<string[]> {
  return rehearse(url, async (client) => {
    await client.query("set local search_path = pg_catalog, pg_temp");
    await client.query(
      `create temp table reembed_rehearsal (like ${quote.qualified(facts.schema, facts.name)})`,
    );
    try {
      // Named, so prepared: of a prepared statement PostgreSQL itself refuses a second one behind it.
      await client.query({
        name: "expression",
        text: `create index on pg_temp.reembed_rehearsal (((\n${expression}\n)::text))`,
      });
    } catch (error) {
      throw refusedExpression(error);
    }
    const { rows } = await client.query<{ name: string }>(
      `select a.attname as name from pg_index i
         join pg_depend d on d.objid = i.indexrelid and d.refobjid = i.indrelid and d.refobjsubid > 0
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = d.refobjsubid
        where i.indrelid = 'pg_temp.reembed_rehearsal'::regclass group by 1, a.attnum order by a.attnum`,
    );
    if (rows.length === 0) {
      throw new ReembedError(
        "invalid_request",
        "--text: the expression reads no column of the table",
        "Every row would have the same text. Write an expression of its columns.",
      );
    }
    return rows.map(({ name }) => name);
  });
}

/**
 * Applies the migration and its way back on the live table, then rolls both back.
 * @returns how long the migration took, in milliseconds: so long writers will wait when it is applied
 * @throws ReembedError with PostgreSQL's reason
 */
export async function rehearseMigration(url: string, migration: string, down: string): Promise<number> {
  return rehearse(url, async (client) => {
    const began = performance.now();
    try {
      await client.query(migration);
      // What is deferred is checked now, not at a commit that never comes.
      await client.query("set constraints all immediate");
      const milliseconds = performance.now() - began;
      await client.query(down);
      return milliseconds;
    } catch (error) {
      throw refusedMigration(error);
    }
  });
}

async function rehearse<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  // A connection that the server ends reports it to the statement that runs; without a listener the process would end.
  client.on("error", () => {});
  await client.connect();
  try {
    await client.query("begin");
    await client.query(
      `set local statement_timeout = '${REHEARSAL_TIME_OUT}'; set local lock_timeout = '5s'`,
    );
    return await work(client);
  } finally {
    await client.query("rollback").catch(() => {});
    await client.end();
  }
}

function refusedExpression(error: unknown): unknown {
  if (!(error instanceof DatabaseError)) return error;
  return new ReembedError(
    "invalid_request",
    `--text: PostgreSQL refuses the expression: ${error.message}`,
    /IMMUTABLE/.test(error.message)
      ? "The same row must always give the same text: write coalesce(a, '') || ' ' || coalesce(b, '') for concat_ws, and no times, locales or other tables."
      : "It is one SQL expression of the table's columns, such as title || E'\\n\\n' || coalesce(body, ''); functions and types of a schema of yours are written with the schema.",
  );
}

/** Errors about names, syntax and rights quote no row; any other message of PostgreSQL's might. */
function refusedMigration(error: unknown): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const mapped = databaseError({ code: error.code, message: error.message, hint: error.hint });
  if (mapped.code === "busy" || mapped.code === "database_timeout" || error.code?.startsWith("RE"))
    return mapped;
  if (!/^(42|0A|2B)/.test(error.code ?? "")) return mapped;
  return new ReembedError(
    error.code === "42501" ? "forbidden" : "invalid_request",
    `the migration does not apply: ${error.message}`,
    error.hint ?? "Nothing was written and nothing was changed.",
  );
}
