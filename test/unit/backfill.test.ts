/** The backfill function's own rules, over a database that is never empty. */
import { expect, test } from "vitest";
import type { Edge } from "../../supabase/functions/_shared/edge.ts";
import { makeEmbedder } from "../../supabase/functions/_shared/embedder.ts";
import { makeHandler } from "../../supabase/functions/backfill/handler.ts";

const SPACE = {
  id: "test/model@2",
  provider: "test",
  model: "model",
  dimensions: 2,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 8_192,
};

/** Answers as the database does, with as many jobs as are asked for. */
function endlessEdge(onStored: (rows: number) => void): Edge {
  let rows = 0;
  const jobs = (count: number) =>
    Array.from({ length: count }, () => {
      rows += 1;
      return {
        row_id: `row ${rows}`,
        input: `text ${rows}`,
        hash: rows.toString(16).padStart(64, "0"),
        tokens: 2,
        attempts: 1,
      };
    });
  return {
    async service(name, args) {
      switch (name) {
        case "reembed_enter_slot":
          return "7f8d0a4e-0c57-4d3e-9f0a-2b6c1d9e8f11";
        case "reembed_claim":
          return {
            reason: "work",
            version_id: 1,
            lease_token: "lease",
            usage_id: 1,
            space: SPACE,
            long_text: "truncate",
            jobs: jobs(Number(args.max_rows)),
          };
        case "reembed_complete": {
          const done = (args.row_ids as string[]).length;
          onStored(done);
          return { done, stale: [], lost_lease: [], gone: [], busy: [], refused: [] };
        }
        case "reembed_watch_searches":
          return { searches: null, search_ms: null };
        default:
          return null;
      }
    },
    caller: () => Promise.reject(new Error("nobody searches")),
    chatModel: () => undefined,
    callerHash: async () => null,
    requireSecret: async () => {},
    embedderFor: (space) =>
      makeEmbedder(space, async (texts) => ({
        vectors: texts.map(() => [1, 2]),
        usage: { tokens: texts.length },
      })),
  };
}

test("a slice ends before the platform's time of CPU does, however much is due", async () => {
  let stored = 0;
  const handler = makeHandler(
    endlessEdge((rows) => {
      stored += rows;
    }),
    1,
  );
  const report = await handler(new Request("http://localhost/backfill", { method: "POST" }), {
    requestId: "r1",
  });
  expect(report).toMatchObject({ ended: "limit", done: 1_000, request_id: "r1" });
  expect(stored).toBe(1_000);
});
