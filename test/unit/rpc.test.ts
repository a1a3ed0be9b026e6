import { createClient } from "@supabase/supabase-js";
import { describe, expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { createRpc, databaseError } from "../../supabase/functions/_shared/rpc.ts";

describe("an error of the database", () => {
  test("of our own keeps its words", () => {
    const error = databaseError({
      code: "RE001",
      message: "query_embedding has 2 dimensions",
      hint: "Embed it.",
    });
    expect(error).toBeInstanceOf(ReembedError);
    expect(error).toMatchObject({
      code: "wrong_width",
      status: 400,
      message: "query_embedding has 2 dimensions",
      hint: "Embed it.",
    });
  });

  test.each([
    ["22P05", "invalid_request", 400],
    ["22P02", "invalid_request", 400],
    ["42501", "forbidden", 403],
    ["PGRST301", "unauthorized", 401],
    ["PGRST303", "unauthorized", 401],
    ["42883", "version_retired", 410],
    ["PGRST202", "version_retired", 410],
    ["55P03", "busy", 409],
    ["40001", "busy", 409],
    ["40P01", "busy", 409],
    ["57014", "database_timeout", 504],
    ["23505", "database_unavailable", 503],
    ["57P01", "database_unavailable", 503],
    ["PGRST002", "database_unavailable", 503],
    ["XX000", "database_unavailable", 503],
    ["RE999", "database_unavailable", 503],
    ["", "database_unavailable", 503],
    [undefined, "database_unavailable", 503],
  ])("with SQLSTATE %s is %s, and never quotes the database", (code, expected, status) => {
    const secret = "Key (content)=(the text of a document) already exists.";
    const error = databaseError({ code, message: secret, hint: secret });
    expect(error).toMatchObject({ code: expected, status });
    expect(error.hint).not.toBe("");
    expect(`${error.message} ${error.hint} ${JSON.stringify(error)}`).not.toContain("text of a document");
    expect(error.cause).toBeUndefined();
  });
});

describe("a call over PostgREST", () => {
  const rpcTo = (answer: (request: Request) => Promise<Response>) =>
    createRpc(
      createClient("http://stack", "sb_publishable_1", {
        auth: { persistSession: false, autoRefreshToken: false },
        global: { fetch: async (input, init) => answer(new Request(input, init)) },
      }),
    );

  test("posts the arguments by name and returns the value", async () => {
    const rpc = rpcTo(async (request) =>
      Response.json({ path: new URL(request.url).pathname, body: await request.json() }),
    );
    expect(await rpc("embedding_route", { collection: "course_content", version: null })).toEqual({
      path: "/rest/v1/rpc/embedding_route",
      body: { collection: "course_content", version: null },
    });
  });

  test("throws the database's refusal", async () => {
    const rpc = rpcTo(async () =>
      Response.json(
        { code: "RE005", message: "collection is unknown", hint: "Look.", details: null },
        { status: 400 },
      ),
    );
    await expect(rpc("embedding_route", {})).rejects.toMatchObject({
      code: "unknown_collection",
      status: 404,
    });
  });

  test("throws database_unavailable when nobody answers, or answers no JSON, and quotes neither", async () => {
    const silent = rpcTo(async () => {
      throw new TypeError("fetch failed: the text of a document");
    });
    const gateway = rpcTo(async () => new Response("<html>the text of a document</html>", { status: 502 }));
    for (const rpc of [silent, gateway]) {
      const error = await rpc("embedding_route", {}).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "database_unavailable" });
      expect(String(error)).not.toContain("document");
    }
  });
});
