/** The batch lane's way to its tables: `reembed.*` over a connection. */
import { z } from "zod";
import type {
  BatchCounts,
  BatchRow,
  BatchStore,
  BatchText,
  DrivenBatch,
  OpenBatch,
} from "../../supabase/functions/_shared/batch-store.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { claim, outcomes } from "../../supabase/functions/_shared/queue.ts";
import type { Database } from "./connection.ts";

const gathered = z.object({ gathered: z.number().default(0), tokens: z.number().default(0) });

/**
 * The batches of one version.
 * @param driver this process, by an id of its own
 */
export function openBatchStore(
  db: Database,
  version: { readonly id: number; readonly spaceId: string },
  driver: string = crypto.randomUUID(),
): BatchStore {
  async function call<T>(expression: string, ...values: readonly unknown[]): Promise<T> {
    const [row] = await db.query<{ value: T }>(`select ${expression} as value`, values);
    if (row === undefined)
      throw new ReembedError("internal_error", "a function returned no row", "Report a bug.");
    return row.value;
  }
  return {
    open: async () => {
      const all = await call<(OpenBatch & { version_id: number })[]>("reembed.open_batches()");
      return all.filter(({ version_id }) => version_id === version.id);
    },
    work: () => call("reembed.batch_work($1)", version.id),
    start: () => call<string | null>("reembed.start_batch($1, $2)", version.id, driver),
    take: (id) => call<DrivenBatch | null>("reembed.take_batch($1, $2)", id, driver),
    leave: async (id) => {
      await call("reembed.leave_batch($1, $2)", id, driver);
    },
    gather: async (id, maxRows, maxTokens) => {
      const answer = await call<unknown>(
        "reembed.gather_batch($1, $2, $3, $4)",
        id,
        driver,
        maxRows,
        maxTokens,
      );
      const { gathered: rows, tokens } = gathered.parse(answer);
      return { claim: claim.parse(answer), rows, tokens };
    },
    texts: (id, after) =>
      call<{ texts: BatchText[]; last: string | null } | null>(
        "reembed.batch_texts($1, $2, $3)",
        id,
        driver,
        after,
      ),
    noteUpload: (id, fileId, requests, truncatedRows) =>
      call("reembed.note_batch_upload($1, $2, $3, $4, $5)", id, driver, fileId, requests, truncatedRows),
    noteAsked: (id) => call("reembed.note_batch_asked($1, $2)", id, driver),
    noteSubmitted: (id, providerId, expiresAt) =>
      call("reembed.note_batch_submitted($1, $2, $3)", id, providerId, expiresAt ?? null),
    noteStatus: async (id, status, done, failed) => {
      await call("reembed.note_batch_status($1, $2, $3, $4)", id, status, done, failed);
    },
    openRows: async (id, after) => {
      const rows = await call<[string, string, number][]>("reembed.open_batch_rows($1, $2)", id, after);
      return rows.map(([row_id, hash, tokens]): BatchRow => ({ row_id, hash, tokens }));
    },
    store: async (id, results, { wait }) =>
      outcomes.parse(
        await call<unknown>(
          "reembed.store_batch($1, $2, $3, $4, $5, $6)",
          id,
          results.map(({ row_id }) => row_id),
          db.vectorForm.encode(results.map(({ vector }) => vector)),
          results.map(({ billed }) => billed),
          results.map(({ skipped }) => skipped),
          wait,
        ),
      ),
    end: async (id, rowIds, end, error, billed) => {
      await call("reembed.end_batch_rows($1, $2, $3, $4, $5)", id, rowIds, end, error, billed ?? null);
    },
    endRest: (id, end, error) => call("reembed.end_rest_of_batch($1, $2, $3)", id, end, error),
    close: (id, outcome) => call<BatchCounts | null>("reembed.close_batch($1, $2)", id, outcome),
    pauseSpace: async (reason) => {
      await call("reembed.pause_space($1, $2)", version.spaceId, reason);
    },
  };
}
