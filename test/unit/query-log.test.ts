/** The query log, as search sees it: written to only where the route says that it is on, and never in a search's way. */
import { expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { search } from "../../supabase/functions/_shared/search.ts";

const ROUTE = {
  collection: "course_content",
  version: 1,
  active: true,
  space: "hash/words@2",
  provider: "hash",
  model: "words",
  dimensions: 2,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 100,
  function: "match_course_content",
  filters: [],
  threshold: 0.5,
};

/** Searches once; `log` is what the log's door does. Returns the answer's rows and what was logged, by whom. */
async function searchWith(route: object, log: () => unknown = () => null) {
  const logged: { by: "caller" | "service"; args: unknown }[] = [];
  const as =
    (by: "caller" | "service"): Rpc =>
    async (name, args) => {
      if (name === "embedding_route") return { ...ROUTE, ...route };
      if (name !== "reembed_log_query") return [{ id: "1", title: "Commits", similarity: 0.9 }];
      logged.push({ by, args });
      return log();
    };
  const { results } = await search(
    {
      caller: as("caller"),
      service: as("service"),
      callerHash: null,
      embedderFor: (space) => ({
        space,
        embed: async () => ({ vectors: [[0.6, 0.8]], usage: { tokens: 1 } }),
      }),
    },
    { collection: "course_content", query: "what is a commit" },
  );
  return { results, logged };
}

test("a search is logged by the service where the log is on, and nowhere else", async () => {
  expect((await searchWith({})).logged).toEqual([]);
  expect((await searchWith({ log_queries: true })).logged).toEqual([
    { by: "service", args: { collection: "course_content", query: "what is a commit" } },
  ]);
});

test("a log that cannot be written fails no search", async () => {
  const { results, logged } = await searchWith({ log_queries: true }, () => {
    throw new ReembedError("database_unavailable", "no", "");
  });
  expect(results).toHaveLength(1);
  expect(logged).toHaveLength(1);
});
