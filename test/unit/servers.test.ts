/** Several servers that speak OpenAI's API at the same time, each of a provider's name. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { providersOutOfReach } from "../../scripts/lib/offline-spaces.ts";
import { batchesFrom, embeddersFrom } from "../../scripts/lib/providers.ts";
import type { Space } from "../../supabase/functions/_shared/embedder.ts";
import { serversIn, serverVariables, variablesOf } from "../../supabase/functions/_shared/servers.ts";
import { embed, MODELS } from "../support/fake-openai/models.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";

const spaceOf = (provider: string, model: string, dimensions: number, more: Partial<Space> = {}): Space => ({
  ...{ id: `${provider}/${model}@${dimensions}`, provider, model, dimensions },
  ...{ query_prefix: "", document_prefix: "", max_input_tokens: 2_048 },
  ...more,
});
const GEMMA = spaceOf("ollama", "embeddinggemma", 768, {
  query_prefix: "task: search result | query: ",
  document_prefix: "title: none | text: ",
});
const LARGE = spaceOf("openai", "text-embedding-3-large", 3072);

function vectorOf(name: string, text: string): number[] {
  const model = MODELS.find((candidate) => candidate.name === name);
  if (model === undefined) throw new Error(`the fake does not know ${name}`);
  return embed(model, text, model.dimensions);
}

describe("the variables of a provider's server", () => {
  test("are its name in capitals, a dash as an underscore", () => {
    expect(variablesOf("my-llm")).toEqual({ apiKey: "MY_LLM_API_KEY", baseURL: "MY_LLM_BASE_URL" });
  });

  test("are found among others; what has no server, is blank, or OpenAI's is none of them", () => {
    const variables = {
      OLLAMA_BASE_URL: "http://127.0.0.1:11434/v1",
      MY_LLM_BASE_URL: "http://127.0.0.1:8000/v1",
      MY_LLM_API_KEY: "word",
      OPENAI_BASE_URL: "http://127.0.0.1:1/v1",
      HASH_BASE_URL: "http://127.0.0.1:2/v1",
      CLIP_BASE_URL: "http://127.0.0.1:7997",
      EMPTY_BASE_URL: " ",
      LONELY_API_KEY: "sk-1",
      PATH: "/bin",
    };
    const servers = serversIn(variables);
    expect(servers).toEqual({
      ollama: { baseURL: "http://127.0.0.1:11434/v1", apiKey: undefined },
      "my-llm": { baseURL: "http://127.0.0.1:8000/v1", apiKey: "word" },
      // Built in, and at an address all the same.
      clip: { baseURL: "http://127.0.0.1:7997", apiKey: undefined },
    });
    const { OLLAMA_BASE_URL, MY_LLM_BASE_URL, MY_LLM_API_KEY, CLIP_BASE_URL } = variables;
    expect(serverVariables(servers)).toEqual({
      OLLAMA_BASE_URL,
      MY_LLM_BASE_URL,
      MY_LLM_API_KEY,
      CLIP_BASE_URL,
    });
  });
});

describe("two servers at the same time", () => {
  const running: FakeOpenAI[] = [];
  afterEach(async () => {
    for (const server of running.splice(0)) await server.close();
  });
  const start = async (apiKey: string) => {
    const server = await startFakeOpenAI({ apiKey });
    running.push(server);
    return server;
  };

  test("each space's texts go to the server of its provider, with its key and its prefixes", async () => {
    const [ollama, openai] = [await start("word"), await start("sk-another")];
    const embedderFor = embeddersFrom({
      OLLAMA_BASE_URL: ollama.url,
      OLLAMA_API_KEY: "word",
      OPENAI_BASE_URL: openai.url,
      OPENAI_API_KEY: "sk-another",
      // It is about the provider openai alone.
      OPENAI_EMBEDDING_MODEL: "text-embedding-3-large",
    });
    const old = embedderFor(GEMMA);
    const asked = await old.embed(["rates"], { purpose: "query" });
    const stored = await old.embed(["rates"], { purpose: "document" });
    await embedderFor(LARGE).embed(["rates"], { purpose: "document" });
    expect(ollama.stats().log.map(({ model, status }) => [model, status])).toEqual([
      ["embeddinggemma", 200],
      ["embeddinggemma", 200],
    ]);
    expect(openai.stats().log.map(({ model, status }) => [model, status])).toEqual([
      ["text-embedding-3-large", 200],
    ]);
    const near = (a: readonly number[] | null | undefined, b: readonly number[] = []) =>
      a?.every((value, axis) => Math.abs(value - (b[axis] ?? Number.NaN)) < 1e-6);
    expect(near(asked.vectors[0], vectorOf("embeddinggemma", "task: search result | query: rates"))).toBe(
      true,
    );
    expect(near(stored.vectors[0], vectorOf("embeddinggemma", "title: none | text: rates"))).toBe(true);
  });

  test("the batch lane stays OpenAI's", async () => {
    const ollama = await start("word");
    const batches = batchesFrom({ OLLAMA_BASE_URL: ollama.url, OLLAMA_API_KEY: "word" });
    expect(() => batches(GEMMA)).toThrow("the provider ollama has no batch interface");
  });

  test("without a key no authorization is sent", async () => {
    const authorizations: (string | undefined)[] = [];
    const server = createServer((request, response) => {
      authorizations.push(request.headers.authorization);
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ data: [{ index: 0, embedding: [0.6, 0.8] }] }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const { port } = server.address() as AddressInfo;
      const embedderFor = embeddersFrom({ OLLAMA_BASE_URL: `http://127.0.0.1:${port}/v1` });
      const { vectors } = await embedderFor(spaceOf("ollama", "tiny", 2)).embed(["a"], {
        purpose: "query",
      });
      expect([vectors, authorizations]).toEqual([[[0.6, 0.8]], [undefined]]);
    } finally {
      server.close();
    }
  });
});

describe("a server that cannot be asked", () => {
  test.each([
    [{}, "ollama/embeddinggemma@768: OLLAMA_BASE_URL is not set"],
    [{ OLLAMA_BASE_URL: "localhost:11434" }, "OLLAMA_BASE_URL is not an http(s) URL"],
    [{ OLLAMA_BASE_URL: "http://[" }, "OLLAMA_BASE_URL is not an http(s) URL"],
    [
      { OLLAMA_BASE_URL: "http://127.0.0.1:1/v1", OLLAMA_API_KEY: "a\nb" },
      "OLLAMA_API_KEY holds a character",
    ],
  ])("is told by the variable's name and the rule, never its value", (env, message) => {
    const attempt = () => embeddersFrom(env)(GEMMA);
    expect(attempt).toThrow(expect.objectContaining({ code: "provider_unavailable" }));
    expect(attempt).toThrow(message);
    expect(attempt).not.toThrow(/11434|\[$/);
  });

  test("its provider is out of reach; vectors from elsewhere are no such case", async () => {
    const versions = [GEMMA, LARGE, spaceOf("external", "old", 8), spaceOf("hash", "words-and-ngrams", 8)];
    const db = { query: async () => versions.map((space) => ({ space })) } as never;
    expect(await providersOutOfReach(db, embeddersFrom({}))).toEqual(["ollama", "openai"]);
    const reached = embeddersFrom({ OLLAMA_BASE_URL: "http://127.0.0.1:11434/v1" });
    expect(await providersOutOfReach(db, reached)).toEqual(["openai"]);
  });
});
