/** Language models: what is sent to OpenAI and read from it, each fault, and what the ledger is told about it. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ChatEnd, ChatMessage, ChatModel } from "../../supabase/functions/_shared/chat-model.ts";
import { complete, startCompletion } from "../../supabase/functions/_shared/completions.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";
import {
  createOpenAIChatModel,
  type OpenAIChatModelOptions,
} from "../../supabase/functions/_shared/providers/openai-chat.ts";
import { createChatModel } from "../../supabase/functions/_shared/providers.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { estimateTokens } from "../../supabase/functions/_shared/tokens.ts";
import { type FakeOpenAI, type FaultRule, startFakeOpenAI } from "../support/fake-openai.ts";

const SECRET = "The treasure is buried in Zanzibar.";
const QUESTION: readonly ChatMessage[] = [
  { role: "system", content: "You answer." },
  { role: "user", content: SECRET },
];
const PIXEL = "data:image/png;base64,iVBORw0KGgo=";

let openai: FakeOpenAI;
beforeEach(async () => {
  openai = await startFakeOpenAI();
});
afterEach(() => openai.close());

const chat = (options: Partial<OpenAIChatModelOptions> = {}): ChatModel =>
  createOpenAIChatModel({
    id: "openai/gpt-4.1-mini",
    model: "gpt-4.1-mini",
    apiKey: openai.apiKey,
    baseURL: openai.url,
    ...options,
  });

async function read(
  model: ChatModel,
  messages = QUESTION,
  signal?: AbortSignal,
): Promise<{ pieces: string[]; end: ChatEnd }> {
  const stream = model.stream({ messages, maxOutputTokens: 100, signal });
  const pieces: string[] = [];
  for (;;) {
    const step = await stream.next();
    if (step.done) return { pieces, end: step.value };
    pieces.push(step.value);
  }
}

async function failure(work: Promise<unknown>): Promise<ProviderError> {
  const error = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof ProviderError) return error;
  throw new Error(`no ProviderError came, but ${error}`);
}

/** The doors of the ledger, remembered; `begun` is what begin_completion says. */
function ledger(begun: object = { ticket: 7, max_output_tokens: 50 }) {
  const calls: { name: string; args: Readonly<Record<string, unknown>> }[] = [];
  const service: Rpc = async (name, args) => {
    calls.push({ name, args });
    return name === "reembed_begin_completion" ? begun : null;
  };
  const settled = () => calls.find(({ name }) => name === "reembed_end_completion")?.args;
  return { calls, service, settled };
}

describe("an answer of OpenAI", () => {
  test("comes piece by piece, with the provider's own count", async () => {
    openai.chat.script({ deltas: ["Half", " an ", "answer"] });
    const { pieces, end } = await read(chat());
    expect(pieces).toEqual(["Half", " an ", "answer"]);
    const [entry] = openai.chat.log;
    expect(end).toEqual({
      finish: "stop",
      usage: { inputTokens: entry?.inputTokens, outputTokens: entry?.outputTokens },
    });
    expect(entry).toMatchObject({ model: "gpt-4.1-mini", delivered: true, images: [] });
    expect(entry?.messages).toEqual([
      { role: "system", text: "You answer." },
      { role: "user", text: SECRET },
    ]);
  });

  test("is about an image where the message has one", async () => {
    openai.chat.script("A pixel.");
    const { end } = await read(chat(), [
      {
        role: "user",
        content: [
          { type: "text", text: "What is this?" },
          { type: "image", url: PIXEL, detail: "low" },
        ],
      },
    ]);
    expect(openai.chat.log).toMatchObject([
      { messages: [{ role: "user", text: "What is this?" }], images: [PIXEL] },
    ]);
    expect(end.usage?.inputTokens).toBeGreaterThan(85);
  });

  test.each([
    [{ deltas: ["cut"], finish: "length" as const }, "length"],
    [{ deltas: ["no"], finish: "content_filter" as const }, "withheld"],
    ["word ".repeat(1_000), "length"],
  ])("says why it ended", async (script, finish) => {
    openai.chat.script(script);
    expect((await read(chat())).end.finish).toBe(finish);
  });

  test("without usage has none", async () => {
    openai.faults.add({ fault: { kind: "no_usage" } });
    openai.chat.script("An answer.");
    expect((await read(chat())).end).toEqual({ finish: "stop", usage: undefined });
  });

  test("offers no tool, and asks once whatever happens", async () => {
    const bodies: string[] = [];
    const model = chat({
      fetch: async (_url, init) => {
        bodies.push(await new Response(init?.body as BodyInit).text());
        return new Response("{}", { status: 500 });
      },
    });
    await failure(read(model));
    expect(bodies).toHaveLength(1);
    expect(Object.keys(JSON.parse(bodies[0] ?? "")).sort()).toEqual([
      "max_completion_tokens",
      "messages",
      "model",
      "stream",
      "stream_options",
    ]);
  });
});

describe("a fault of the provider", () => {
  const unavailable = { class: "transient", code: "provider_unavailable" };
  const cases: [string, FaultRule["fault"], object, boolean][] = [
    [
      "429",
      { kind: "rate_limit", retryAfterSeconds: 7 },
      { class: "rate_limit", code: "provider_rate_limited", retryAfterMs: 7000 },
      false,
    ],
    [
      "429 insufficient_quota",
      { kind: "insufficient_quota" },
      { class: "account", code: "provider_rejected" },
      false,
    ],
    ["400", { kind: "bad_request" }, { class: "input", code: "provider_rejected" }, false],
    ["500", { kind: "server_error" }, unavailable, false],
    ["504 of a gateway", { kind: "server_error", status: 504 }, unavailable, true],
    ["cut before the answer", { kind: "cut", when: "before_answer" }, unavailable, true],
    ["cut in the answer", { kind: "cut", when: "in_answer" }, unavailable, true],
    ["an end that nobody announced", { kind: "no_end" }, unavailable, true],
    ["an error within the stream", { kind: "stream_error" }, unavailable, true],
    ["half an event", { kind: "half_json" }, { class: "transient", code: "provider_bad_answer" }, true],
  ];
  test.each(cases)(
    "%s has its class and code, says nothing of the text, and is in the ledger",
    async (...args) => {
      const [, fault, expected, isLost] = args;
      openai.chat.script({ deltas: ["one ", "two ", "three ", "four"] });
      openai.faults.add({ fault });
      const { service, settled } = ledger();
      const error = await failure(
        complete({ service, model: chat() }, { purpose: "answer", messages: QUESTION, maxOutputTokens: 50 }),
      );
      expect(error).toMatchObject(expected);
      expect(error.message).toMatch(/^openai\/gpt-4\.1-mini: /);
      expect(JSON.stringify([error, error.message, error.stack])).not.toContain("Zanzibar");
      expect(openai.chat.log).toHaveLength(1);
      expect(settled()).toMatchObject({
        ticket: 7,
        outcome: error.fault,
        state: isLost ? "lost" : "settled",
      });
      const { input_tokens, output_tokens } = settled() ?? {};
      if (isLost) {
        expect(input_tokens).toBeGreaterThan(10);
        // What came before it broke; where nothing came, all that was reserved.
        const broke = [
          "cut in the answer",
          "an end that nobody announced",
          "an error within the stream",
          "half an event",
        ];
        if (broke.includes(args[0])) expect(output_tokens).toBeLessThan(10);
        else expect(output_tokens).toBe(50);
      } else expect([input_tokens, output_tokens]).toEqual([0, 0]);
    },
  );

  test.each<FaultRule["fault"]>([{ kind: "never" }, { kind: "stall" }])(
    "that is $kind is given up after the time allowed",
    async (fault) => {
      openai.faults.add({ fault });
      expect(await failure(read(chat({ timeoutMs: 100 })))).toMatchObject({
        fault: "timeout",
        code: "provider_timeout",
      });
    },
  );

  test("a wrong key is not repeated", async () => {
    const error = await failure(read(chat({ apiKey: "sk-proj-abcdefgh-ijklmnop-WXYZ" })));
    expect(error).toMatchObject({ class: "account", status: 502 });
    expect(error.message).not.toMatch(/abcd|WXYZ/);
  });

  test("an unknown model is a matter of the account", async () => {
    expect(await failure(read(chat({ model: "gpt-99" })))).toMatchObject({
      class: "account",
      providerStatus: 404,
    });
  });
});

describe("who gives up", () => {
  test("before anything was sent, sends nothing and owes nothing", async () => {
    const error = await failure(read(chat(), QUESTION, AbortSignal.abort()));
    expect(error).toMatchObject({ fault: "aborted", billed: "no" });
    expect(openai.chat.log).toHaveLength(0);
  });

  test("in the middle, ends the provider's work, and owes what was written", async () => {
    openai.faults.add({ fault: { kind: "stall" } });
    openai.chat.script({ deltas: ["one ", "two ", "three ", "four"] });
    const { service, settled } = ledger();
    const hangUp = new AbortController();
    const answer = await startCompletion(
      { service, model: chat() },
      { purpose: "answer", messages: QUESTION, maxOutputTokens: 50, signal: hangUp.signal },
    );
    expect(await answer.next()).toEqual({ done: false, value: "one " });
    hangUp.abort();
    const error = await failure(
      (async () => {
        while (!(await answer.next()).done);
      })(),
    );
    expect(error.fault).toBe("aborted");
    await openai.chat.seen(({ aborted }) => aborted);
    expect(settled()).toMatchObject({ outcome: "aborted", state: "lost" });
    expect(settled()?.output_tokens).toBeLessThan(10);
  });

  test("by leaving the loop, does the same", async () => {
    openai.faults.add({ fault: { kind: "stall" } });
    openai.chat.script({ deltas: ["one ", "two ", "three ", "four"] });
    const { service, settled } = ledger();
    const request = { purpose: "answer", messages: QUESTION, maxOutputTokens: 50 };
    for await (const piece of await startCompletion({ service, model: chat() }, request)) {
      expect(piece).toBe("one ");
      break;
    }
    await openai.chat.seen(({ aborted }) => aborted);
    expect(settled()).toMatchObject({ outcome: "aborted", state: "lost" });
  });
});

describe("the ledger", () => {
  const request = {
    purpose: "describe",
    collection: "products",
    messages: QUESTION,
    maxOutputTokens: 500,
    callerHash: "a".repeat(64),
  };

  test("is asked before and told after", async () => {
    openai.chat.script("An answer.");
    const { service, calls } = ledger();
    const answer = await complete({ service, model: chat() }, request);
    const [entry] = openai.chat.log;
    expect(answer).toEqual({
      text: "An answer.",
      finish: "stop",
      inputTokens: entry?.inputTokens,
      outputTokens: entry?.outputTokens,
    });
    expect(calls).toMatchObject([
      {
        name: "reembed_begin_completion",
        args: {
          model_id: "openai/gpt-4.1-mini",
          purpose: "describe",
          collection: "products",
          max_output_tokens: 500,
          caller_hash: "a".repeat(64),
        },
      },
      {
        name: "reembed_end_completion",
        args: {
          ticket: 7,
          input_tokens: entry?.inputTokens,
          output_tokens: entry?.outputTokens,
          outcome: "ok",
          state: "settled",
        },
      },
    ]);
    expect(JSON.stringify(calls)).not.toContain("Zanzibar");
  });

  test("decides how much may be written", async () => {
    openai.chat.script("word ".repeat(100));
    const { service, settled } = ledger({ ticket: 7, max_output_tokens: 10 });
    const { finish, outputTokens } = await complete({ service, model: chat() }, request);
    expect(finish).toBe("length");
    expect(outputTokens).toBeLessThanOrEqual(10);
    expect(settled()).toMatchObject({ outcome: "length", state: "settled" });
  });

  test.each(["word ", "x".repeat(1_000_000)])(
    "a model that does not end by itself is ended, long after it has had its tokens",
    async (piece) => {
      let hasEnded = false;
      const endless: ChatModel = {
        id: "openai/endless",
        async *stream() {
          try {
            for (;;) yield piece;
          } finally {
            hasEnded = true;
          }
        },
      };
      const { service, settled } = ledger({ ticket: 7, max_output_tokens: 10 });
      const { text, finish } = await complete({ service, model: endless }, request);
      expect(finish).toBe("length");
      expect(text).toHaveLength(10 * 20);
      expect(hasEnded).toBe(true);
      expect(settled()).toMatchObject({
        outcome: "length",
        state: "lost",
        output_tokens: estimateTokens(text),
      });
    },
  );

  test("has an estimate where the provider counts nothing", async () => {
    openai.faults.add({ fault: { kind: "no_usage" } });
    openai.chat.script("x".repeat(40));
    const { service, settled } = ledger();
    await complete({ service, model: chat() }, request);
    expect(settled()).toMatchObject({ output_tokens: 10, state: "settled" });
  });

  test("that cannot be told loses no answer", async () => {
    openai.chat.script("An answer.");
    const { service } = ledger();
    const failing: Rpc = async (name, args) => {
      if (name === "reembed_end_completion") throw new ReembedError("database_unavailable", "gone", "");
      return service(name, args);
    };
    expect((await complete({ service: failing, model: chat() }, request)).text).toBe("An answer.");
  });

  test.each([
    [
      { refused: "rate", retry_seconds: 2 },
      { code: "rate_limited", retryAfterMs: 2_000 },
    ],
    [
      { refused: "budget", retry_seconds: 60 },
      { code: "budget_spent", retryAfterMs: 60_000 },
    ],
    [{ refused: "model" }, { code: "environment_conflict", status: 503 }],
  ])("that says %o sends nothing", async (begun, expected) => {
    const { service } = ledger(begun);
    const work = complete({ service, model: chat() }, request);
    await expect(work).rejects.toMatchObject(expected);
    expect(openai.chat.log).toHaveLength(0);
  });
});

describe("the environment's language model", () => {
  test("is there with a key, the default one unless another is named", () => {
    expect(createChatModel({ openai: { apiKey: "sk-x" } })?.id).toBe("openai/gpt-4.1-mini");
    expect(createChatModel({ openai: { apiKey: "sk-x" }, chatModel: "qwen3:8b" })?.id).toBe(
      "openai/qwen3:8b",
    );
    expect(createChatModel({})).toBeUndefined();
    expect(createChatModel({ openai: { apiKey: " " } })).toBeUndefined();
  });

  test("is refused with a key that is none", () => {
    expect(() => createChatModel({ openai: { apiKey: "“sk-x”" } })).toThrow(
      /OPENAI_API_KEY holds a character/,
    );
  });
});
