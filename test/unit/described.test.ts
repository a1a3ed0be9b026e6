/** Describe, then embed: what is bought, kept, given back and failed, against a language model and a database of the test's own. */
import { beforeEach, describe, expect, test } from "vitest";
import type { ChatEnd, ChatModel, ChatRequest } from "../../supabase/functions/_shared/chat-model.ts";
import { type Input, makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { inspectPicture, type Picture } from "../../supabase/functions/_shared/pictures.ts";
import { ProviderError, type ProviderFault } from "../../supabase/functions/_shared/provider-error.ts";
import { createDescribedEmbedder, modelsOf } from "../../supabase/functions/_shared/providers/described.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { png } from "../support/pictures.ts";

const space: Space = {
  id: "described/gpt-4.1-mini+text-embedding-3-small@2",
  provider: "described",
  model: "gpt-4.1-mini+text-embedding-3-small",
  dimensions: 2,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 8_192,
  image_tokens: 120,
};
const pictures = new Map<string, Picture>();
for (let n = 0; n < 20; n += 1) pictures.set(`${n}.png`, await inspectPicture(png(n)));

const names = (count: number) => Array.from({ length: count }, (_, n) => `${n}.png`);
const documents = { purpose: "document", collection: "product_images" } as const;
const fault = (name: ProviderFault) => new ProviderError(name, `the model says ${name}`, { status: 400 });

/** The database's part: who describes what, and the ledger. */
class Database {
  readonly descriptions = new Map<string, string>();
  readonly taken = new Map<string, string>();
  readonly ledger: { collection: unknown; outcome?: unknown; state?: unknown }[] = [];
  refuse: "budget" | "model" | undefined;

  readonly rpc: Rpc = async (name, args) => {
    switch (name) {
      case "reembed_begin_description": {
        const hash = String(args.image_hash);
        const known = this.descriptions.get(hash);
        if (known !== undefined) return { description: known };
        if (args.lease_seconds === null) return {};
        if (this.taken.has(hash)) return { busy: true };
        this.taken.set(hash, `ticket of ${hash}`);
        return { ticket: `ticket of ${hash}` };
      }
      case "reembed_end_description": {
        const [hash] = [...this.taken].find(([, ticket]) => ticket === args.ticket) ?? [];
        if (hash === undefined) return null;
        this.taken.delete(hash);
        if (args.description !== null) this.descriptions.set(hash, String(args.description));
        return null;
      }
      case "reembed_begin_completion":
        if (this.refuse === "budget") return { refused: "budget", retry_seconds: 60 };
        if (this.refuse === "model") return { refused: "model" };
        this.ledger.push({ collection: args.collection });
        return { ticket: this.ledger.length, max_output_tokens: args.max_output_tokens };
      case "reembed_end_completion":
        Object.assign(this.ledger[Number(args.ticket) - 1] ?? {}, {
          outcome: args.outcome,
          state: args.state,
        });
        return null;
      default:
        throw new Error(name);
    }
  };
}

let database: Database;
let asked: ChatRequest[];
let written: readonly string[][];
beforeEach(() => {
  database = new Database();
  asked = [];
  written = [];
});

function embedder(
  answer: (call: number) => string | Error = () => "a mug",
  finish: ChatEnd["finish"] = "stop",
) {
  const model: ChatModel = {
    id: "openai/gpt-4.1-mini",
    async *stream(request) {
      asked.push(request);
      const text = answer(asked.length);
      if (text instanceof Error) throw text;
      yield text;
      return { finish, usage: { inputTokens: 100, outputTokens: 20 } };
    },
  };
  const texts = makeEmbedder({ ...space, image_tokens: null }, async (inputs) => {
    written = [...written, [...inputs]];
    return { vectors: inputs.map((text) => [text.length, 1]), usage: { tokens: 10 * inputs.length } };
  });
  return createDescribedEmbedder({
    space,
    texts,
    model,
    service: database.rpc,
    load: async (reference) => pictures.get(reference) ?? { reason: "not there", next: "fail" },
  });
}

test("a space's model names both of its models", () => {
  expect(modelsOf(space)).toEqual({ chat: "gpt-4.1-mini", text: "text-embedding-3-small" });
  for (const model of ["one", "a+", "+b", "a+b+c"]) expect(modelsOf({ model })).toBeUndefined();
});

describe("documents", () => {
  test("are described once each, by the collection's budget, and the description is what is embedded", async () => {
    const inputs = ["0.png", "1.png", "0.png", "gone.png"];
    const { vectors, usage, failures } = await embedder((call) => "x".repeat(call)).embed(inputs, documents);
    expect(vectors).toEqual([[1, 1], [2, 1], [1, 1], null]);
    expect([...(failures ?? [])]).toEqual([[3, { reason: "not there", next: "fail" }]]);
    expect(usage.tokens).toBe(30);
    expect(database.ledger).toEqual([
      { collection: "product_images", outcome: "ok", state: "settled" },
      { collection: "product_images", outcome: "ok", state: "settled" },
    ]);
    const [first] = asked;
    expect(first?.messages[1]?.content).toEqual([
      { type: "image", url: expect.stringMatching(/^data:image\/png;base64,/), detail: "low" },
    ]);
    // Again, and nothing is asked.
    await embedder(() => new Error("not to be asked")).embed(inputs, documents);
    expect(asked).toHaveLength(2);
  });

  test("one that the model refuses, withholds or says nothing of fails alone, and may be described by another", async () => {
    const refusing = embedder((call) => (call === 2 ? fault("input_refused") : call === 3 ? " " : "a mug"));
    const { vectors, failures } = await refusing.embed(names(4), documents);
    expect(vectors.map((vector) => vector !== null)).toEqual([true, false, false, true]);
    for (const failure of failures?.values() ?? []) {
      expect(failure).toEqual({ reason: "picture: the model does not describe it", next: "fail" });
    }
    expect(database.taken.size).toBe(0);
    const withheld = await embedder(() => "I cannot", "withheld").embed(["9.png"], documents);
    expect(withheld.failures?.get(0)).toMatchObject({ next: "fail" });
  });

  test("one that another is describing is given back", async () => {
    database.taken.set(pictures.get("1.png")?.hash ?? "", "another's");
    const { failures } = await embedder().embed(names(3), documents);
    expect([...(failures ?? [])]).toEqual([
      [1, { reason: "picture: another is describing it", next: "release" }],
    ]);
  });

  test("of a provider that fails, what was paid until then is kept", async () => {
    const failing = embedder((call) => (call === 3 ? fault("rate_limited") : "a mug"));
    await expect(failing.embed(names(4), documents)).rejects.toMatchObject({ fault: "rate_limited" });
    expect(database.descriptions.size).toBe(3);
    expect(database.taken.size).toBe(0);
    const { failures } = await embedder().embed(names(4), documents);
    expect(failures?.size).toBe(0);
    expect(asked).toHaveLength(5);
  });

  test("a spent budget gives the rows back; a model that the database does not know pauses the space", async () => {
    database.refuse = "budget";
    const { vectors, failures } = await embedder().embed(names(2), documents);
    expect(vectors).toEqual([null, null]);
    expect(failures?.get(0)).toMatchObject({ next: "release", reason: expect.stringContaining("budget") });
    database.refuse = "model";
    await expect(embedder().embed(names(2), documents)).rejects.toMatchObject({ fault: "account_refused" });
    expect(asked).toEqual([]);
    expect(database.taken.size).toBe(0);
  });
});

describe("queries", () => {
  const query = (input: Input | undefined) => embedder().embed([input ?? ""], { purpose: "query" });

  test("in words are embedded as they are; a picture is described by the budget of queries, and its description not kept", async () => {
    expect((await query("mug")).vectors).toEqual([[3, 1]]);
    expect(asked).toEqual([]);
    expect((await query(pictures.get("5.png"))).vectors).toEqual([[5, 1]]);
    expect(database.ledger).toEqual([{ collection: null, outcome: "ok", state: "settled" }]);
    expect(database.descriptions.size + database.taken.size).toBe(0);
    // One that the shop itself shows is described already.
    database.descriptions.set(pictures.get("6.png")?.hash ?? "", "known");
    expect((await query(pictures.get("6.png"))).vectors).toEqual([[5, 1]]);
    expect(asked).toHaveLength(1);
  });

  test("beyond the budget are refused as such", async () => {
    database.refuse = "budget";
    const error = await query(pictures.get("5.png")).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ReembedError);
    expect(error).toMatchObject({ code: "budget_spent" });
  });
});
