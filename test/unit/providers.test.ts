import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  checkVectors,
  type Embedder,
  makeInputEmbedder,
  type Space,
} from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import {
  faultOfAnswer,
  ProviderError,
  retryAfterMs,
  safeProse,
} from "../../supabase/functions/_shared/provider-error.ts";
import {
  createOpenAIEmbedder,
  type OpenAIEmbedderOptions,
} from "../../supabase/functions/_shared/providers/openai.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { type FakeOpenAI, type FaultRule, startFakeOpenAI } from "../support/fake-openai.ts";

function spaceOf(provider: string, model: string, dimensions: number, prefixes: Partial<Space> = {}): Space {
  return {
    id: `${provider}/${model}@${dimensions}`,
    provider,
    model,
    dimensions,
    query_prefix: "",
    document_prefix: "",
    max_input_tokens: 8192,
    ...prefixes,
  };
}

const SMALL = spaceOf("openai", "text-embedding-3-small", 8);

let openai: FakeOpenAI;

beforeEach(async () => {
  openai = await startFakeOpenAI();
});

afterEach(async () => {
  await openai.close();
});

function embedder(options: Partial<OpenAIEmbedderOptions> = {}): Embedder {
  return createOpenAIEmbedder({ space: SMALL, apiKey: openai.apiKey, baseURL: openai.url, ...options });
}

/** An embedder over answers that are made up here. */
function answering(body: unknown, init: ResponseInit = {}, space = SMALL): Embedder {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return embedder({
    space,
    fetch: async () => new Response(text, { headers: { "content-type": "application/json" }, ...init }),
  });
}

async function failure(attempt: Promise<unknown>): Promise<ProviderError> {
  const error = await attempt.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof ProviderError) return error;
  throw new Error(`expected a ProviderError, got ${error}`);
}

const SECRET_TEXT = "Zanzibar salary list, line one";
const documents = { purpose: "document" } as const;

describe("the openai provider", () => {
  test("returns the vectors of the inputs in their order, and the tokens that were billed", async () => {
    const inputs = ["one text", "quite another text", "a third"];
    const expected = await Promise.all(inputs.map((input) => embedder().embed([input], documents)));
    openai.faults.add({ fault: { kind: "shuffled" } });
    const { vectors, usage } = await embedder().embed(inputs, documents);
    expect(vectors).toEqual(expected.map((single) => single.vectors[0]));
    expect(vectors[0]).not.toEqual(vectors[1]);
    expect(usage.tokens).toBe(2 + 5 + 2);
  });

  test("asks for base64, and for dimensions only where the model takes them", async () => {
    const bodies: unknown[] = [];
    const recording: typeof fetch = async (url, init) => {
      const body = await new Response(init?.body).text();
      bodies.push(JSON.parse(body));
      return fetch(url, { ...init, body });
    };
    await embedder({ fetch: recording }).embed(["text"], documents);
    const ada = spaceOf("openai", "text-embedding-ada-002", 1536);
    await embedder({ space: ada, fetch: recording }).embed(["text"], documents);
    expect(bodies).toEqual([
      { model: "text-embedding-3-small", input: ["text"], dimensions: 8, encoding_format: "base64" },
      { model: "text-embedding-ada-002", input: ["text"], encoding_format: "base64" },
    ]);
  });

  test("takes a server that answers in floats although base64 was asked for", async () => {
    const space = spaceOf("openai", "nomic-embed-text", 2);
    const row = { object: "embedding", index: 0, embedding: [0.6, 0.8] };
    const usage = { prompt_tokens: 3, total_tokens: 4 };
    const { vectors } = await answering({ data: [row], usage }, {}, space).embed(["text"], documents);
    expect(vectors).toEqual([[0.6, 0.8]]);
  });

  test("estimates the tokens where a server states none, rather than taking them for free", async () => {
    const space = spaceOf("openai", "nomic-embed-text", 2);
    const row = { index: 0, embedding: [0.6, 0.8] };
    const { usage } = await answering({ data: [row] }, {}, space).embed(["eight by"], documents);
    expect(usage.tokens).toBe(2);
  });

  test("puts the prefix of the space before queries and documents", async () => {
    const space = { ...SMALL, query_prefix: "query: ", document_prefix: "passage: " };
    const plain = embedder();
    const prefixed = embedder({ space });
    const vectors = async (from: Embedder, text: string, purpose: "query" | "document") =>
      (await from.embed([text], { purpose })).vectors;
    expect(await vectors(prefixed, "text", "query")).toEqual(await vectors(plain, "query: text", "query"));
    expect(await vectors(prefixed, "text", "document")).toEqual(
      await vectors(plain, "passage: text", "document"),
    );
  });

  test("puts none before a reference to an image", async () => {
    const sent: unknown[] = [];
    const space = { ...SMALL, image_tokens: 120, query_prefix: "query: ", document_prefix: "passage: " };
    const images = makeInputEmbedder(space, async (inputs) => {
      sent.push(...inputs);
      return { vectors: inputs.map(() => Array(space.dimensions).fill(1)), usage: { tokens: 1 } };
    });
    await images.embed(["photo.png"], { purpose: "document" });
    await images.embed(["a ring"], { purpose: "query" });
    expect(sent).toEqual(["photo.png", "query: a ring"]);
  });

  test("sends nothing for no inputs, nor for a signal that is aborted already", async () => {
    expect(await embedder().embed([], documents)).toEqual({ vectors: [], usage: { tokens: 0 } });
    const error = await failure(embedder().embed(["text"], { ...documents, signal: AbortSignal.abort() }));
    expect(error).toMatchObject({ fault: "aborted", billed: "no" });
    expect(openai.stats().requests).toBe(0);
  });

  test("stops waiting when the caller gives up, and says that it may be billed", async () => {
    openai.faults.add({ fault: { kind: "never" } });
    const caller = new AbortController();
    const attempt = failure(embedder().embed(["text"], { ...documents, signal: caller.signal }));
    await expect.poll(() => openai.stats().requests, { timeout: 9_000 }).toBe(1);
    caller.abort();
    expect(await attempt).toMatchObject({
      fault: "aborted",
      class: "transient",
      code: "provider_timeout",
      billed: "maybe",
    });
  });
});

interface Expected {
  readonly class: string;
  readonly code: string;
  readonly billed: "no" | "maybe" | number;
  readonly retryAfterMs?: number;
}

describe("a fault of the provider", () => {
  const transient = (code: string, billed: Expected["billed"]): Expected => ({
    class: "transient",
    code,
    billed,
  });
  const badAnswer = (billed: Expected["billed"]) => transient("provider_bad_answer", billed);
  const tokens = 8 + 2;

  test.each<[string, FaultRule["fault"], Expected]>([
    [
      "429",
      { kind: "rate_limit", retryAfterSeconds: 7 },
      { class: "rate_limit", code: "provider_rate_limited", billed: "no", retryAfterMs: 7000 },
    ],
    [
      "429 insufficient_quota",
      { kind: "insufficient_quota" },
      { class: "account", code: "provider_rejected", billed: "no" },
    ],
    ["400", { kind: "bad_request" }, { class: "input", code: "provider_rejected", billed: "no" }],
    ["500", { kind: "server_error" }, transient("provider_unavailable", "no")],
    ["503", { kind: "server_error", status: 503 }, transient("provider_unavailable", "no")],
    ["504 of a gateway", { kind: "server_error", status: 504 }, transient("provider_unavailable", "maybe")],
    [
      "cut before the answer",
      { kind: "cut", when: "before_answer" },
      transient("provider_unavailable", "maybe"),
    ],
    ["cut in the answer", { kind: "cut", when: "in_answer" }, transient("provider_unavailable", "maybe")],
    ["half a JSON", { kind: "half_json" }, badAnswer("maybe")],
    ["a missing vector", { kind: "missing_vector" }, badAnswer(tokens)],
    ["a duplicate index", { kind: "duplicate_index" }, badAnswer(tokens)],
    ["a wrong width", { kind: "wrong_width" }, badAnswer(tokens)],
    ["NaN", { kind: "nan" }, badAnswer(tokens)],
    ["a zero vector", { kind: "zero_vector" }, badAnswer(tokens)],
  ])("%s has its class, its code, and says what is billed", async (_what, fault, expected) => {
    openai.faults.add({ fault });
    const error = await failure(embedder().embed([SECRET_TEXT, "another"], documents));
    expect(error).toBeInstanceOf(ReembedError);
    expect(error).toMatchObject(expected);
    expect(error.message).toContain("openai/text-embedding-3-small@8");
    expect(JSON.stringify([error, error.message, error.stack])).not.toContain("Zanzibar");
    expect(error.hint).not.toBe("");
    // One request and no more: the engine decides about retries.
    expect(openai.stats().requests).toBe(1);
  });

  test("that never answers is given up after the time allowed", async () => {
    openai.faults.add({ fault: { kind: "never" } });
    const error = await failure(embedder({ timeoutMs: 50 }).embed(["text"], documents));
    expect(error).toMatchObject({
      fault: "timeout",
      class: "transient",
      code: "provider_timeout",
      billed: "maybe",
    });
  });

  test("that stalls in the middle of its answer is given up as well", async () => {
    const stalling = embedder({
      timeoutMs: 50,
      fetch: async (_url, init) =>
        new Response(
          new ReadableStream({
            start(controller) {
              controller.enqueue(new TextEncoder().encode('{"data":'));
              init?.signal?.addEventListener("abort", () => controller.error(init.signal?.reason));
            },
          }),
        ),
    });
    expect(await failure(stalling.embed(["text"], documents))).toMatchObject({
      fault: "timeout",
      billed: "maybe",
    });
  });

  test("that nobody hears costs nothing", async () => {
    const listener = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => listener.once("listening", resolve));
    const address = listener.address();
    const port = typeof address === "object" ? address?.port : undefined;
    await new Promise((resolve) => listener.close(resolve));
    const error = await failure(
      embedder({ baseURL: `http://127.0.0.1:${port}/v1` }).embed(["text"], documents),
    );
    expect(error).toMatchObject({ fault: "unreachable", class: "transient", billed: "no" });
  });

  test("too many tokens in a request can be told from one bad input: both are halved, only one has a culprit", async () => {
    const many = await failure(embedder().embed(Array(38).fill("x".repeat(32_000)), documents));
    expect(many).toMatchObject({ class: "input", requestTooLarge: true, providerStatus: 400 });
    const long = await failure(embedder().embed(["x".repeat(40_000)], documents));
    expect(long).toMatchObject({ class: "input", requestTooLarge: false });
  });

  test("a request of more tokens than a minute holds is said to be too large: waiting never helps", async () => {
    await openai.close();
    openai = await startFakeOpenAI({ tokensPerMinute: 100 });
    const error = await failure(embedder().embed(["x".repeat(404)], documents));
    expect(error).toMatchObject({ class: "rate_limit", requestTooLarge: true });
    await embedder().embed(["x".repeat(400)], documents);
    const wait = await failure(embedder().embed(["x".repeat(400)], documents));
    expect(wait).toMatchObject({ class: "rate_limit", requestTooLarge: false });
    expect(wait.retryAfterMs).toBeGreaterThan(50_000);
  });

  test("an unknown model is a matter of the account, and its message names it", async () => {
    const error = await failure(
      embedder({ space: spaceOf("openai", "gpt-9", 8) }).embed(["text"], documents),
    );
    expect(error).toMatchObject({ class: "account", code: "provider_rejected", providerStatus: 404 });
    expect(error.message).toContain("(model_not_found): The model `gpt-9` does not exist");
    expect(error.providerRequestId).toMatch(/^req_/);
  });

  test("a wrong key is not repeated, whole or starred out", async () => {
    const apiKey = "sk-proj-abcdefgh-ijklmnop-WXYZ";
    const error = await failure(embedder({ apiKey }).embed(["text"], documents));
    expect(error).toMatchObject({ class: "account", code: "provider_rejected", status: 502 });
    expect(error.message).toContain("Incorrect API key provided: sk-[redacted]");
    expect(error.message).not.toMatch(/abcd|WXYZ|\*\*/);
    expect(error.cause).toBeUndefined();
  });

  test.each([
    ["an index beyond the inputs", { data: [{ index: 1, embedding: [1] }], usage: { total_tokens: 5 } }, 5],
    ["no data", { usage: { total_tokens: 5 } }, 5],
    ["an answer that is no object", '"hello"', "maybe"],
    ["an empty answer", "", "maybe"],
    ["base64 that is no base64", { data: [{ index: 0, embedding: "%%" }], usage: { total_tokens: 5 } }, 5],
    ["base64 of three bytes", { data: [{ index: 0, embedding: "AAAA" }], usage: { total_tokens: 5 } }, 5],
  ] as const)("%s is a bad answer", async (_what, body, billed) => {
    const error = await failure(answering(body).embed(["text"], documents));
    expect(error).toMatchObject({ fault: "bad_answer", code: "provider_bad_answer", billed });
  });

  test("a page of HTML in place of an error body is understood by its status", async () => {
    const page = `<html>${SECRET_TEXT}</html>`;
    const error = await failure(
      answering(page, { status: 502, headers: { "content-type": "text/html" } }).embed(
        [SECRET_TEXT],
        documents,
      ),
    );
    expect(error).toMatchObject({ fault: "gateway_error", billed: "maybe" });
    expect(error.message).toBe("openai/text-embedding-3-small@8: the provider answered 502");
  });
});

describe("faultOfAnswer", () => {
  test.each([
    [400, undefined, "input_refused"],
    [400, "billing_hard_limit_reached", "quota_exhausted"],
    [402, undefined, "quota_exhausted"],
    [403, undefined, "account_refused"],
    [404, undefined, "account_refused"],
    [408, undefined, "server_error"],
    [409, undefined, "server_error"],
    [413, undefined, "request_too_large"],
    [418, undefined, "request_refused"],
    [422, undefined, "input_refused"],
    [429, "rate_limit_exceeded", "rate_limited"],
    [429, "insufficient_quota", "quota_exhausted"],
    [524, undefined, "gateway_error"],
  ] as const)("%d %s is %s", (status, code, fault) => {
    expect(faultOfAnswer(status, code)).toBe(fault);
  });
});

describe("retryAfterMs", () => {
  const now = Date.UTC(2026, 0, 1, 12, 0, 0);
  test.each([
    [{ "retry-after-ms": "1500.2", "retry-after": "9" }, 1501],
    [{ "retry-after": "90" }, 90_000],
    [{ "retry-after": "0.5" }, 500],
    [{ "retry-after": "Thu, 01 Jan 2026 12:00:30 GMT" }, 30_000],
    [{ "retry-after": "Thu, 01 Jan 2026 11:59:00 GMT" }, 0],
    [{ "x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "6m0s" }, 360_000],
    [{ "x-ratelimit-reset-tokens": "2.812s" }, 2812],
    [{ "x-ratelimit-reset-requests": "1h2m3s" }, 3_723_000],
    [{ "x-ratelimit-reset-tokens": "17" }, 17_000],
    [{ "retry-after": "soon", "x-ratelimit-reset-tokens": "-1" }, undefined],
    [{}, undefined],
  ])("of %o is %s", (headers, expected) => {
    expect(retryAfterMs(new Headers(headers as Record<string, string>), now)).toBe(expected);
  });
});

describe("safeProse", () => {
  test("leaves nothing of a key, an account or a text", () => {
    expect(
      safeProse("Key custom-key-1 of org-AbC123 (Bearer abc) or pre****fix failed", "custom-key-1", []),
    ).toBe("Key [redacted] of org-[redacted] (Bearer [redacted] or [redacted] failed");
    expect(
      safeProse(`cannot embed "${SECRET_TEXT}"`, "k", [`${SECRET_TEXT}, and more of it`]),
    ).toBeUndefined();
    expect(safeProse({ nested: "object" }, "k", [])).toBeUndefined();
    expect(safeProse("long ".repeat(200), "k", [])).toHaveLength(301);
  });
});

describe("checkVectors", () => {
  const space = spaceOf("hash", "words-and-ngrams", 2);
  test.each([
    ["too few", [[1, 0]], "returned 1 vectors for 2 inputs"],
    [
      "too many",
      [
        [1, 0],
        [1, 0],
        [1, 0],
      ],
      "returned 3 vectors for 2 inputs",
    ],
    [
      "a wrong width",
      [
        [1, 0],
        [1, 0, 0],
      ],
      "vector 2 of 2 has 3 dimensions, the space has 2",
    ],
    [
      "NaN",
      [
        [1, 0],
        [Number.NaN, 123],
      ],
      "vector 2 of 2 holds a number that is not finite",
    ],
    [
      "infinity",
      [
        [Number.NEGATIVE_INFINITY, 123],
        [1, 0],
      ],
      "vector 1 of 2 holds a number that is not finite",
    ],
    [
      "more than a float4 holds",
      [
        [1e39, 123],
        [1, 0],
      ],
      "vector 1 of 2 holds a number that is not finite",
    ],
    [
      "zero",
      [
        [1, 0],
        [0, -0],
      ],
      "vector 2 of 2 is zero",
    ],
    [
      "zero as float4",
      [
        [1, 0],
        [1e-46, 1e-46],
      ],
      "vector 2 of 2 is zero",
    ],
    [
      "squares that are each zero as float4",
      [
        [1, 0],
        [1e-23, 2.4e-23],
      ],
      "vector 2 of 2 is zero",
    ],
  ])("names what is wrong with %s and no number of it", async (_what, vectors, message) => {
    const error = await failure(Promise.resolve().then(() => checkVectors(space, ["a", "b"], vectors, 42)));
    expect(error.message).toBe(
      `hash/words-and-ngrams@2: ${message.startsWith("returned") ? "the provider " : ""}${message}`,
    );
    expect(error).toMatchObject({ fault: "bad_answer", billed: 42 });
  });

  test("lets good vectors through", () => {
    expect(() =>
      checkVectors(
        space,
        ["a", "b"],
        [
          [1, 0],
          [-0.5, 1e-20],
        ],
      ),
    ).not.toThrow();
  });
});

describe("the supabase provider", () => {
  const space = spaceOf("supabase", "gte-small", 2);

  test("embeds one text after the other with the session of the runtime", async () => {
    const seen: unknown[] = [];
    const supabaseAi = (model: string) => ({
      run: async (input: string, options: unknown) => {
        seen.push([model, input, options]);
        return new Float32Array([1, input.length]);
      },
    });
    const embedded = await createEmbedder(space, { supabaseAi }).embed(["a", "bcd"], documents);
    expect(embedded).toEqual({
      vectors: [
        [1, 1],
        [1, 3],
      ],
      usage: { tokens: 0 },
    });
    const options = { mean_pool: true, normalize: true };
    expect(seen).toEqual([
      ["gte-small", "a", options],
      ["gte-small", "bcd", options],
    ]);
  });

  test("turns a failing session and a strange output into errors without their words", async () => {
    const failing = createEmbedder(space, {
      supabaseAi: () => ({ run: async (input) => Promise.reject(new Error(`cannot run ${input}`)) }),
    });
    const error = await failure(failing.embed([SECRET_TEXT], documents));
    expect(error).toMatchObject({ class: "transient", code: "provider_unavailable", billed: "no" });
    expect(error.message).not.toContain("Zanzibar");
    const strange = createEmbedder(space, { supabaseAi: () => ({ run: async () => ({ data: 1 }) }) });
    expect(await failure(strange.embed(["a"], documents))).toMatchObject({ fault: "bad_answer" });
  });
});

describe("createEmbedder", () => {
  test.each([
    ["openai without a key", spaceOf("openai", "text-embedding-3-small", 1536), "OPENAI_API_KEY"],
    ["supabase outside the edge runtime", spaceOf("supabase", "gte-small", 384), "Supabase.ai.Session"],
    ["external", spaceOf("external", "ada", 1536), "brought from elsewhere"],
    ["a server that the environment does not name", spaceOf("my-llm", "m", 3), "MY_LLM_BASE_URL is not set"],
    ["an unknown model of hash", spaceOf("hash", "words", 3), "no model words"],
  ])("refuses %s with a documented error", (_what, space, message) => {
    const attempt = () => createEmbedder(space, { openai: { apiKey: " " } });
    expect(attempt).toThrow(ReembedError);
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(expect.objectContaining({ code: "provider_unavailable", status: 503 }));
  });

  test.each([
    ["a key with a line break", { apiKey: "sk-first\nsecond" }, "OPENAI_API_KEY"],
    ["a base URL without a scheme", { apiKey: "sk-x", baseURL: "localhost:11434" }, "OPENAI_BASE_URL"],
  ])("refuses %s before anything is sent, without repeating it", (_what, config, name) => {
    const attempt = () => createEmbedder(SMALL, { openai: config });
    expect(attempt).toThrow(expect.objectContaining({ code: "provider_unavailable" }));
    expect(attempt).toThrow(name);
    expect(attempt).not.toThrow(/first|11434/);
  });

  test("makes the providers that it knows", async () => {
    const hash = createEmbedder(spaceOf("hash", "words-and-ngrams", 384), {});
    expect((await hash.embed(["text"], documents)).vectors[0]).toHaveLength(384);
    const small = createEmbedder(SMALL, { openai: { apiKey: openai.apiKey, baseURL: openai.url } });
    expect((await small.embed(["text"], documents)).vectors[0]).toHaveLength(8);
  });
});

describe("on Deno, as in an edge function", () => {
  /** Runs a module from the repository's root on Deno with the functions' import map; what it prints. */
  async function runOnDeno(source: string): Promise<string> {
    const options = [
      "--config",
      "supabase/functions/deno.json",
      "--node-modules-dir=manual",
      "--allow-net=127.0.0.1",
      "--allow-env",
    ];
    const deno = spawn("node_modules/.bin/deno", ["run", "--quiet", ...options, "-"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    deno.stdin.end(source);
    return text(deno.stdout);
  }

  test("gives the same vectors, and never sends a request twice when a connection breaks", async () => {
    const config = { openai: { apiKey: openai.apiKey, baseURL: openai.url } };
    openai.faults.add({ fault: { kind: "cut", when: "before_answer" }, match: "unlucky" });
    const printed = await runOnDeno(`
      import { createEmbedder } from "./supabase/functions/_shared/providers.ts";
      const embedder = createEmbedder(${JSON.stringify(SMALL)}, ${JSON.stringify(config)});
      const hash = createEmbedder(${JSON.stringify(spaceOf("hash", "words-and-ngrams", 384))}, {});
      const embed = (embedder, text) => embedder.embed([text], { purpose: "query" }).then(({ vectors }) => vectors[0]);
      const small = await embed(embedder, "lucky");
      const { fault, billed } = await embed(embedder, "unlucky").catch((error) => error);
      console.log(JSON.stringify({ small, hash: await embed(hash, "lucky"), fault, billed }));
    `);
    const local = createEmbedder(spaceOf("hash", "words-and-ngrams", 384), {});
    expect(JSON.parse(printed)).toEqual({
      small: (await embedder().embed(["lucky"], documents)).vectors[0],
      hash: (await local.embed(["lucky"], documents)).vectors[0],
      fault: "connection_lost",
      billed: "maybe",
    });
    expect(openai.stats().log.map(({ fault }) => fault)).toEqual([undefined, "cut", undefined]);
  }, 30_000);
});
