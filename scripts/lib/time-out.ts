/** For the one statement that may take minutes. */
import type { Database } from "./connection.ts";

/**
 * Lifts the role's statement timeout (two minutes on hosted projects), which would end a reading of every row of a large table.
 * It holds for a database opened with one connection.
 */
export async function withoutStatementTimeout(db: Database): Promise<void> {
  await db.query("set statement_timeout = 0");
}
