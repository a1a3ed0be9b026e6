import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type FakeOpenAI, type FakeOpenAIOptions, startFakeOpenAI } from "../support/fake-openai.ts";

let openai: FakeOpenAI;

beforeEach(async () => {
  openai = await startFakeOpenAI();
});

afterEach(async () => {
  await openai.close();
});

async function restart(options: FakeOpenAIOptions): Promise<void> {
  await openai.close();
  openai = await startFakeOpenAI(options);
}

function client(): OpenAI {
  return new OpenAI({ apiKey: openai.apiKey, baseURL: openai.url, maxRetries: 0 });
}

interface Answer {
  readonly data: { readonly index: number; readonly embedding: number[] | string }[];
  readonly usage: unknown;
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

async function post(
  body: unknown,
  key: string | undefined = openai.apiKey,
): Promise<{ response: Response; json: Answer }> {
  const response = await fetch(`${openai.url}/embeddings`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(key === "" ? {} : { authorization: `Bearer ${key}` }),
    },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { response, json: (await response.json()) as Answer };
}

function similarity(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}

const SMALL = "text-embedding-3-small";

async function embed(model: string, input: string | number[], dimensions?: number): Promise<number[]> {
  const { json } = await post({ model, input, ...(dimensions === undefined ? {} : { dimensions }) });
  return json.data[0]?.embedding as number[];
}

describe("the wire format", () => {
  test("serves the openai package unchanged: base64 by default, float on request, same numbers", async () => {
    const input = ["the first text", "another one"];
    const [base64, float] = await Promise.all([
      client().embeddings.create({ model: SMALL, input }),
      client().embeddings.create({ model: SMALL, input, encoding_format: "float" }),
    ]);
    expect(base64.data).toEqual(float.data);
    expect(base64.data.map(({ index, object }) => [index, object])).toEqual([
      [0, "embedding"],
      [1, "embedding"],
    ]);
    expect(base64.data[0]?.embedding).toHaveLength(1536);
    expect(base64.object).toBe("list");
    expect(base64.model).toBe(SMALL);
    expect(base64.usage).toEqual({ prompt_tokens: 7, total_tokens: 7 });
  });

  test("sends floats where no encoding is named, and base64 as little-endian float32", async () => {
    const float = await post({ model: SMALL, input: "text", dimensions: 4 });
    const base64 = await post({ model: SMALL, input: "text", dimensions: 4, encoding_format: "base64" });
    const bytes = Buffer.from(base64.json.data[0]?.embedding as string, "base64");
    expect([0, 4, 8, 12].map((at) => bytes.readFloatLE(at))).toEqual(float.json.data[0]?.embedding);
  });

  test("takes a string, strings, tokens and lists of tokens", async () => {
    const lengths = [];
    for (const input of ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]]) {
      lengths.push((await post({ model: SMALL, input })).json.data.length);
    }
    expect(lengths).toEqual([1, 2, 1, 2]);
    expect((await post({ model: SMALL, input: [1, 2, 3] })).json.usage).toEqual({
      prompt_tokens: 3,
      total_tokens: 3,
    });
  });

  test("carries the headers that clients plan by", async () => {
    const { response } = await post({ model: SMALL, input: "text" });
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
    expect(response.headers.get("openai-processing-ms")).toMatch(/^\d+$/);
    expect(response.headers.get("x-ratelimit-limit-requests")).toBe("10000");
    expect(response.headers.get("x-ratelimit-remaining-requests")).toBe("9999");
    expect(response.headers.get("x-ratelimit-reset-requests")).toBe("6ms");
    expect(response.headers.get("x-ratelimit-limit-tokens")).toBe("10000000");
  });

  test("lists its models", async () => {
    const models = await client().models.list();
    expect(models.data.map(({ id }) => id)).toContain("text-embedding-3-large");
  });

  test.each([
    ["no key", { model: SMALL, input: "x" }, "", 401, null, /didn't provide an API key/],
    [
      "a wrong key",
      { model: SMALL, input: "x" },
      "sk-wrong-0123456789-abcd",
      401,
      "invalid_api_key",
      /sk-wrong\*+abcd/,
    ],
    ["an unknown model", { model: "gpt-9", input: "x" }, undefined, 404, "model_not_found", /does not exist/],
    ["no model", { input: "x" }, undefined, 400, null, /model parameter/],
    ["broken JSON", '{"model":', undefined, 400, null, /parse the JSON/],
    ["an empty string", { model: SMALL, input: "" }, undefined, 400, null, /'\$\.input' is invalid/],
    [
      "an empty string among others",
      { model: SMALL, input: ["a", ""] },
      undefined,
      400,
      null,
      /'\$\.input' is invalid/,
    ],
    ["an empty list", { model: SMALL, input: [] }, undefined, 400, null, /'\$\.input' is invalid/],
    [
      "2,049 inputs",
      { model: SMALL, input: Array(2049).fill("a") },
      undefined,
      400,
      "array_above_max_length",
      /length 2049/,
    ],
    [
      "8,193 tokens in an input",
      { model: SMALL, input: "x".repeat(8192 * 4 + 1) },
      undefined,
      400,
      null,
      /requested 8193 tokens/,
    ],
    [
      "more than 300,000 tokens",
      { model: SMALL, input: Array(38).fill("x".repeat(32_000)) },
      undefined,
      400,
      "max_tokens_per_request",
      /^Requested 304000 tokens, max 300000 tokens per request$/,
    ],
    [
      "dimensions of ada",
      { model: "text-embedding-ada-002", input: "x", dimensions: 1536 },
      undefined,
      400,
      null,
      /specifying dimensions/,
    ],
    [
      "too many dimensions",
      { model: SMALL, input: "x", dimensions: 1537 },
      undefined,
      400,
      null,
      /less than or equal to 1536/,
    ],
  ])("refuses %s as OpenAI does, and bills nothing", async (_what, body, key, status, code, message) => {
    const { response, json } = await post(body, key);
    expect(response.status).toBe(status);
    expect(json.error.code).toBe(code);
    expect(json.error.message).toMatch(message);
    expect(Object.keys(json.error)).toEqual(["message", "type", "param", "code"]);
    expect(openai.stats().tokensBilled).toBe(0);
  });

  test("takes exactly the most", async () => {
    expect((await post({ model: SMALL, input: Array(2048).fill("a"), dimensions: 1 })).response.status).toBe(
      200,
    );
    expect((await post({ model: SMALL, input: "x".repeat(8192 * 4), dimensions: 1 })).response.status).toBe(
      200,
    );
  });
});

describe("the vectors", () => {
  test("are near for texts that share words, in every model", async () => {
    for (const model of [SMALL, "text-embedding-3-large", "text-embedding-ada-002"]) {
      const question = await embed(model, "how do I undo a commit");
      expect(similarity(question, await embed(model, "Undo the last commit with git reset"))).toBeGreaterThan(
        0.25,
      );
      expect(
        similarity(question, await embed(model, "Bread rises overnight in a warm kitchen")),
      ).toBeLessThan(0.15);
    }
  });

  test("of two models of one width say nothing about each other", async () => {
    const text = "the very same text in both models";
    const ada = await embed("text-embedding-ada-002", text);
    expect(Math.abs(similarity(await embed(SMALL, text), ada))).toBeLessThan(0.15);
  });

  test("of fewer dimensions are the first ones, at length 1", async () => {
    const whole = await embed(SMALL, "shortened");
    const short = await embed(SMALL, "shortened", 256);
    const norm = Math.sqrt(similarity(whole.slice(0, 256), whole.slice(0, 256)));
    expect(short).toHaveLength(256);
    expect(similarity(short, short)).toBeCloseTo(1, 5);
    expect(short[3]).toBeCloseTo((whole[3] ?? 0) / norm, 5);
  });
});

describe("the log", () => {
  test("says what was billed and what was delivered, by the hash of each input", async () => {
    openai.faults.add({ fault: { kind: "cut", when: "in_answer" } });
    await expect(post({ model: SMALL, input: ["déjà vu"] })).rejects.toThrow();
    await post({ model: SMALL, input: ["déjà vu"] });
    const { log, requests, tokensBilled } = openai.stats();
    expect({ requests, tokensBilled }).toEqual({ requests: 2, tokensBilled: 6 });
    expect(log.map(({ billed, delivered, fault }) => ({ billed, delivered, fault }))).toEqual([
      { billed: 3, delivered: false, fault: "cut" },
      { billed: 3, delivered: true, fault: undefined },
    ]);
    expect(log[0]?.inputs).toEqual([
      { hash: createHash("sha256").update("déjà vu").digest("hex"), tokens: 3 },
    ]);
  });
});

describe("faults", () => {
  const request = { model: SMALL, input: ["a harmless text"], dimensions: 8 };
  const statuses = async (count: number, body: unknown = request) => {
    const seen = [];
    for (let n = 0; n < count; n += 1) seen.push((await post(body)).response.status);
    return seen;
  };

  test("hit once, a number of times, or always", async () => {
    openai.faults.add({ fault: { kind: "server_error" } });
    expect(await statuses(2)).toEqual([500, 200]);
    openai.faults.add({ fault: { kind: "server_error", status: 503 }, times: 2 });
    expect(await statuses(3)).toEqual([503, 503, 200]);
    openai.faults.add({ fault: { kind: "rate_limit" }, times: "always" });
    expect(await statuses(3)).toEqual([429, 429, 429]);
    openai.faults.clear();
    expect(await statuses(1)).toEqual([200]);
  });

  test("hit a share of the requests that the seed fixes", async () => {
    const draw = async (seed: number) => {
      openai.faults.clear();
      openai.faults.add({ fault: { kind: "server_error" }, probability: 0.5, seed });
      return statuses(40);
    };
    const first = await draw(1);
    expect(first.filter((status) => status === 500).length).toBeGreaterThan(8);
    expect(first.filter((status) => status === 500).length).toBeLessThan(32);
    expect(await draw(1)).toEqual(first);
    expect(await draw(2)).not.toEqual(first);
  });

  test("hit only requests that hold the poison", async () => {
    openai.faults.add({ fault: { kind: "bad_request" }, match: "poison", times: "always" });
    expect(await statuses(1)).toEqual([200]);
    expect(await statuses(1, { ...request, input: ["fine", "this is poison"] })).toEqual([400]);
  });

  test("can be set by another process, and are checked", async () => {
    const set = (rules: unknown) =>
      fetch(openai.url.replace("/v1", "/__faults"), { method: "POST", body: JSON.stringify(rules) });
    expect(await (await set({ fault: { kind: "server_error" }, times: "always" })).json()).toEqual({
      pending: 1,
    });
    expect(await statuses(1)).toEqual([500]);
    const refused = await set({ fault: { kind: "cut", when: "whenever" } });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain("when");
    expect(await (await set([])).json()).toEqual({ pending: 0 });
    expect(await statuses(1)).toEqual([200]);
  });

  test("an answer that never comes does not keep the server from closing", async () => {
    openai.faults.add({ fault: { kind: "never" } });
    const waiting = post(request);
    waiting.catch(() => undefined);
    await expect.poll(() => openai.stats().requests, { timeout: 9_000 }).toBe(1);
    await openai.close();
    await expect(waiting).rejects.toThrow();
    openai = await startFakeOpenAI();
  });
});

describe("the rate limit", () => {
  test("refuses what is over the requests of a minute and says how long to wait", async () => {
    await restart({ requestsPerMinute: 2 });
    const request = { model: SMALL, input: "x", dimensions: 4 };
    await post(request);
    await post(request);
    const { response, json } = await post(request);
    expect(response.status).toBe(429);
    expect(json.error).toMatchObject({ type: "requests", code: "rate_limit_exceeded", param: null });
    const wait = Number(response.headers.get("retry-after-ms"));
    expect(wait).toBeGreaterThan(25_000);
    expect(wait).toBeLessThanOrEqual(30_000);
    expect(response.headers.get("retry-after")).toBe("30");
    expect(openai.stats().log.map(({ billed }) => billed)).toEqual([1, 1, 0]);
  });

  test("counts tokens, and never lets a request through that is larger than a minute", async () => {
    await restart({ tokensPerMinute: 100 });
    const ofTokens = (tokens: number) => ({ model: SMALL, input: "x".repeat(tokens * 4), dimensions: 4 });
    expect((await post(ofTokens(60))).response.status).toBe(200);
    const second = await post(ofTokens(60));
    expect(second.response.status).toBe(429);
    expect(second.json.error.message).toMatch(/tokens per min \(TPM\): Limit 100, Used \d+, Requested 60/);
    const tooLarge = await post(ofTokens(101));
    expect(tooLarge.json.error.message).toMatch(/^Request too large/);
    expect(tooLarge.response.headers.get("retry-after")).toBeNull();
  });
});

test("runs alone and prints what a client needs", async () => {
  const alone = spawn(process.execPath, ["test/support/fake-openai.ts", "--port", "0"]);
  try {
    let printed = "";
    alone.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      printed += chunk;
    });
    await expect.poll(() => printed, { timeout: 9_000 }).toMatch(/OPENAI_API_KEY=\S+\n/);
    const [, baseURL] = /OPENAI_BASE_URL=(\S+)/.exec(printed) ?? [];
    const [, apiKey] = /OPENAI_API_KEY=(\S+)/.exec(printed) ?? [];
    const models = await new OpenAI({ apiKey, baseURL }).models.list();
    expect(models.data).not.toEqual([]);
  } finally {
    alone.kill();
    await once(alone, "exit");
  }
});
