/** What every edge function answers the same way, without a server. */
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type Handler, readBody, serve } from "../../supabase/functions/_shared/http.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";

const LIMIT = 64 * 1024;
const body = z.strictObject({
  query: z.string(),
  version: z.int().min(1).optional(),
  nested: z.object({ name: z.string() }).optional(),
});

function served(handler: Handler) {
  const bugs: { requestId: string; error: unknown }[] = [];
  const fetch = serve(handler, (requestId, error) => bugs.push({ requestId, error }));
  return { bugs, fetch };
}

const reading = served(async (request) => readBody(request, body, LIMIT));
const post = (content?: BodyInit | null, headers: HeadersInit = {}) =>
  new Request("http://functions/search", { method: "POST", body: content ?? null, headers });

/** A body of so many bytes that is sent in pieces and says nothing of its length. */
function chunked(bytes: number): Request {
  const piece = new TextEncoder().encode("x".repeat(1024));
  let left = bytes;
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      const next = piece.subarray(0, Math.min(left, piece.length));
      left -= next.length;
      if (next.length > 0) controller.enqueue(next);
      else controller.close();
    },
  });
  const init = { method: "POST", body: stream, duplex: "half" };
  return new Request("http://functions/search", init);
}

async function refusal(response: Response) {
  const { error, ...rest } = await response.json();
  expect(rest).toEqual({});
  expect(Object.keys(error)).toEqual(["code", "message", "hint", "request_id"]);
  expect(error.request_id).toBe(response.headers.get("x-request-id"));
  expect(response.headers.get("access-control-allow-origin")).toBe("*");
  return { status: response.status, ...error };
}

describe("an answer", () => {
  test("is JSON with a request id of its own, open to any origin", async () => {
    const { fetch } = served(async (_, { requestId }) => ({ id: requestId }));
    const [first, second] = [await fetch(post("{}")), await fetch(post("{}"))];
    const ids = [first, second].map((response) => response.headers.get("x-request-id"));
    expect(new Set(ids).size).toBe(2);
    expect(await first.json()).toEqual({ id: ids[0] });
    expect(first.status).toBe(200);
    expect(first.headers.get("access-control-allow-origin")).toBe("*");
    expect(first.headers.get("content-type")).toContain("application/json");
  });

  test("to a preflight allows what supabase-js sends, and has a request id", async () => {
    const { fetch } = served(async () => ({}));
    const response = await fetch(new Request("http://functions/search", { method: "OPTIONS" }));
    expect(response.status).toBe(204);
    const allowed = response.headers.get("access-control-allow-headers")?.split(", ");
    expect(allowed).toEqual(
      expect.arrayContaining(["authorization", "x-client-info", "apikey", "content-type"]),
    );
    expect(response.headers.get("access-control-allow-methods")).toContain("POST");
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe("a handler's own response", () => {
  test("keeps its status, its headers and its stream, and is open to any origin with a request id", async () => {
    const stream = new Blob(["data: one\n\n"]).stream();
    const { fetch } = served(
      async () =>
        new Response(stream, {
          status: 201,
          headers: { "content-type": "text/event-stream", "x-own": "kept" },
        }),
    );
    const response = await fetch(post("{}"));
    expect(response.status).toBe(201);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    expect(response.headers.get("x-own")).toBe("kept");
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(await response.text()).toBe("data: one\n\n");
  });

  test("answers the methods that its function names, and no other", async () => {
    const fetch = serve(async (request) => ({ method: request.method }), () => {}, ["GET", "POST"]);
    const preflight = await fetch(new Request("http://functions/x", { method: "OPTIONS" }));
    expect(preflight.headers.get("access-control-allow-methods")).toBe("GET, POST, OPTIONS");
    expect(await (await fetch(new Request("http://functions/x"))).json()).toEqual({ method: "GET" });
    expect((await fetch(new Request("http://functions/x", { method: "DELETE" }))).status).toBe(405);
  });
});

describe("an error", () => {
  test.each(["GET", "PUT", "DELETE", "PATCH", "HEAD"])("of method: %s", async (method) => {
    const { fetch } = served(async () => ({}));
    const response = await fetch(new Request("http://functions/search", { method }));
    expect(await refusal(response)).toMatchObject({ status: 405, code: "method_not_allowed" });
  });

  test("that is documented arrives with its status, message and hint", async () => {
    const { fetch, bugs } = served(async () => {
      throw new ReembedError("version_retired", "version 1 was finalized", "Name no version.");
    });
    expect(await refusal(await fetch(post("{}")))).toMatchObject({
      status: 410,
      code: "version_retired",
      message: "version 1 was finalized",
      hint: "Name no version.",
    });
    expect(bugs).toEqual([]);
  });

  test("of the provider says how long to wait, in whole seconds", async () => {
    const { fetch } = served(async () => {
      throw new ProviderError("rate_limited", "the provider answered 429", { retryAfterMs: 1_200 });
    });
    const response = await fetch(post("{}"));
    expect(response.headers.get("retry-after")).toBe("2");
    expect(await refusal(response)).toMatchObject({ status: 503, code: "provider_rate_limited" });
  });

  test.each([new TypeError("the text of a document"), "a string", undefined])(
    "that nobody foresaw shows nothing of itself and reaches the log once",
    async (thrown) => {
      const { fetch, bugs } = served(async () => {
        throw thrown;
      });
      const response = await fetch(post("{}"));
      const text = await response.clone().text();
      expect(text).not.toContain("the text of a document");
      expect(text).not.toContain("a string");
      const { request_id, ...shown } = await refusal(response);
      expect(shown).toMatchObject({ status: 500, code: "internal_error" });
      expect(bugs).toEqual([{ requestId: request_id, error: thrown }]);
    },
  );
});

describe("a body", () => {
  const sent = (content?: BodyInit | null, headers?: HeadersInit) =>
    reading.fetch(post(content, headers)).then(refusal);
  const exactly = (bytes: number) => `{"query":"${"x".repeat(bytes - 12)}"}`;

  test("of exactly the limit is read, of one byte more refused", async () => {
    expect(new TextEncoder().encode(exactly(LIMIT))).toHaveLength(LIMIT);
    expect((await reading.fetch(post(exactly(LIMIT)))).status).toBe(200);
    expect(await sent(exactly(LIMIT + 1))).toMatchObject({
      status: 413,
      code: "body_too_large",
      message: expect.stringContaining("65536 bytes"),
    });
  });

  test("is counted in bytes, not in characters", async () => {
    expect(await sent(`{"query":"${"ü".repeat(LIMIT / 2)}"}`)).toMatchObject({ code: "body_too_large" });
  });

  test("that hides its length is counted as it comes", async () => {
    expect(await refusal(await reading.fetch(chunked(LIMIT + 1)))).toMatchObject({ code: "body_too_large" });
    expect(await refusal(await reading.fetch(chunked(LIMIT)))).toMatchObject({ code: "invalid_json" });
  });

  test("that promises too much is refused before it is read", async () => {
    const request = chunked(10);
    request.headers.set("content-length", String(LIMIT + 1));
    expect(await refusal(await reading.fetch(request))).toMatchObject({ code: "body_too_large" });
    expect(request.bodyUsed).toBe(false);
  });

  test("with a character cut between two pieces is whole", async () => {
    const bytes = new TextEncoder().encode('{"query":"ü"}');
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(bytes.slice(0, 11));
        controller.enqueue(bytes.slice(11));
        controller.close();
      },
    });
    const init = { method: "POST", body: stream, duplex: "half" };
    const response = await reading.fetch(new Request("http://functions/search", init));
    expect(await response.json()).toEqual({ query: "ü" });
  });

  test.each(["", "{", "query=zebra", '{"query": undefined}', "\u0000"])(
    "that is not JSON is refused: %j",
    async (text) => {
      expect(await sent(text)).toMatchObject({ status: 400, code: "invalid_json" });
    },
  );

  test("that is absent is refused", async () => {
    expect(await sent()).toMatchObject({ status: 400, code: "invalid_json" });
  });

  test.each<[unknown, string]>([
    [{}, "query: "],
    [{ query: 7 }, "query: "],
    [{ query: "a", version: 0 }, "version: "],
    [{ query: "a", version: 1.5 }, "version: "],
    [{ query: "a", nested: {} }, "nested.name: "],
    [{ query: "a", table: "users" }, '"table"'],
    [[], "the body: "],
    [null, "the body: "],
  ])("that does not fit is refused naming the field: %j", async (value, named) => {
    const { message, ...rest } = await sent(JSON.stringify(value));
    expect(rest).toMatchObject({ status: 400, code: "invalid_request" });
    expect(message).toContain(named);
  });

  test("with endless names does not make an endless message", async () => {
    const { message } = await sent(JSON.stringify({ query: "a", ["x".repeat(10_000)]: 1 }));
    expect(message.length).toBeLessThanOrEqual(300);
  });
});
