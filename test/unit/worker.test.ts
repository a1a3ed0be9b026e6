/** The worker on a queue in memory: what it sends, what it stores, what it gives back, and what it tells the ledger. */
import { describe, expect, test } from "vitest";
import {
  type Embedded,
  type EmbedOptions,
  type InputFailure,
  makeEmbedder,
} from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import {
  PROVIDER_FAULTS,
  ProviderError,
  type ProviderErrorDetails,
  type ProviderFault,
} from "../../supabase/functions/_shared/provider-error.ts";
import { type SliceOptions, type SliceReport, workSlice } from "../../supabase/functions/_shared/worker.ts";
import { hashOf, MemoryQueue, TEST_SPACE } from "../support/memory-queue.ts";

type Embed = (inputs: readonly string[], options: EmbedOptions) => Promise<Embedded>;

/** An embedder that answers every text; the requests it got stand in `requests`. */
function embedding(answer: Embed = answerAll) {
  const requests: (readonly string[])[] = [];
  const embed: Embed = async (inputs, options) => {
    requests.push(inputs);
    return answer(inputs, options);
  };
  return { requests, embedder: { space: TEST_SPACE, embed } };
}

const answerAll: Embed = async (inputs) => ({
  vectors: inputs.map((input) => [input.length, 1]),
  usage: { tokens: 10 * inputs.length },
});

const refusal = (fault: ProviderFault, details?: ProviderErrorDetails) =>
  new ProviderError(fault, `the provider says ${fault}`, details);

/** Answers, unless one of these texts is among the inputs. */
const refusing =
  (poison: readonly string[], fault: ProviderFault = "input_refused"): Embed =>
  async (inputs, options) => {
    if (inputs.some((input) => poison.includes(input))) throw refusal(fault, { status: 400 });
    return answerAll(inputs, options);
  };

/** Throws what it is told, one request after the other, then answers. */
const throwing = (...errors: unknown[]): Embed => {
  const left = [...errors];
  return async (inputs, options) => {
    if (left.length > 0) throw left.shift();
    return answerAll(inputs, options);
  };
};

const run = (queue: MemoryQueue, { embedder }: ReturnType<typeof embedding>, options?: SliceOptions) =>
  workSlice({ queue, embedderFor: () => embedder, now: queue.now, wait: queue.wait }, options);

/** Ids r1, r2, ... with the texts given. */
const rows = (...texts: string[]) => Object.fromEntries(texts.map((text, index) => [`r${index + 1}`, text]));
const many = (count: number) => rows(...Array.from({ length: count }, (_, index) => `text ${index}`));

describe("a slice ends", () => {
  test("idle when all is stored, each vector with its own row", async () => {
    const queue = new MemoryQueue(rows("a", "bb", "ccc"));
    const report = await run(queue, embedding());
    expect(report).toMatchObject({ ended: "idle", done: 3, requests: 1, tokens: 30, error: null });
    expect([...queue.records].map(([id, { vector }]) => [id, vector])).toEqual([
      ["r1", [1, 1]],
      ["r2", [2, 1]],
      ["r3", [3, 1]],
    ]);
    expect(queue.entries).toEqual([
      { state: "settled", outcome: "ok", inputs: 3, stale: 0, tokens: 30, latency_ms: 0 },
    ]);
  });

  test("idle at once, with one call, when nothing is due", async () => {
    const provider = embedding();
    expect(await run(new MemoryQueue(), provider)).toMatchObject({ ended: "idle", done: 0 });
    expect(provider.requests).toEqual([]);
  });

  test("by its limit, and takes no row more", async () => {
    const queue = new MemoryQueue(many(10));
    expect(await run(queue, embedding(), { batch: 4, limit: 6 })).toMatchObject({ ended: "limit", done: 6 });
    expect(queue.jobs.size).toBe(4);
  });

  test("by its time, after the claim it was at", async () => {
    const queue = new MemoryQueue(many(10));
    queue.completeMsPerRow = 100;
    const report = await run(queue, embedding(), { batch: 2, budgetMs: 300 });
    expect(report).toMatchObject({ ended: "time", done: 4 });
    expect(queue.leased).toEqual([]);
  });

  test("stopped, before it claims anything", async () => {
    const queue = new MemoryQueue(many(2));
    expect(await run(queue, embedding(), { signal: AbortSignal.abort() })).toMatchObject({
      ended: "stopped",
    });
    expect(queue.ledger.size).toBe(0);
  });

  test("busy when another lease holds what is due", async () => {
    const queue = new MemoryQueue(many(2));
    queue.heldElsewhere = true;
    expect(await run(queue, embedding())).toMatchObject({ ended: "busy", done: 0 });
  });

  test("paused, with the reason, when the space is", async () => {
    const queue = new MemoryQueue(many(2));
    queue.paused = "no credit left";
    expect(await run(queue, embedding())).toMatchObject({ ended: "paused", error: "no credit left" });
  });
});

describe("what is sent", () => {
  test("an equal text once, its vector stored for each row and its tokens once", async () => {
    const queue = new MemoryQueue(rows("same", "other", "same"));
    const provider = embedding();
    expect(await run(queue, provider)).toMatchObject({ done: 3, tokens: 20 });
    expect(provider.requests).toEqual([["same", "other"]]);
    expect(queue.records.get("r3")?.vector).toBe(queue.records.get("r1")?.vector);
    expect([...queue.records.values()].map(({ tokens }) => tokens)).toEqual([4, 0, 5]);
  });

  test("a blank text never: it is recorded as skipped", async () => {
    const queue = new MemoryQueue(rows("", "  \n", "a"));
    const provider = embedding();
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", skipped: 2, done: 1 });
    expect(provider.requests).toEqual([["a"]]);
    expect(queue.records.get("r2")).toMatchObject({ vector: null, skipped: "empty" });
  });

  test("nothing where all texts are blank, and the reservation is given back", async () => {
    const queue = new MemoryQueue(rows("", " "));
    const provider = embedding();
    expect(await run(queue, provider)).toMatchObject({ skipped: 2, requests: 0 });
    expect(provider.requests).toEqual([]);
    expect([...queue.ledger.values()]).toEqual([[]]);
  });

  test("a blank text that was written meanwhile is not counted as skipped", async () => {
    const queue = new MemoryQueue(rows("", "a"));
    let first = true;
    const provider = embedding(async (inputs, options) => {
      if (first) queue.write("r1", "now it has words");
      first = false;
      return answerAll(inputs, options);
    });
    expect(await run(queue, provider)).toMatchObject({ skipped: 0, stale: 1, done: 2 });
  });
});

describe("a text that is longer than its space takes", () => {
  // The space takes 100 tokens: by the estimate 400 bytes, and 100 bytes whatever they are.
  const prose = "x".repeat(1_000);
  const dense = "東".repeat(120);

  /** Refuses any input of more tokens than the space takes, where each of these characters is a token. */
  const refusingTokens = (token: RegExp) =>
    embedding(async (inputs, options) => {
      if (inputs.some((input) => (input.match(token) ?? []).length > 100))
        throw refusal("input_refused", { status: 400 });
      return answerAll(inputs, options);
    });

  test("is sent cut; its record says so and has the hash of the whole text", async () => {
    const queue = new MemoryQueue(rows(prose, "short", "x".repeat(400)));
    const provider = embedding();
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 3, failed: 0, requests: 1 });
    expect(provider.requests).toEqual([["x".repeat(400), "short", "x".repeat(400)]]);
    expect([...queue.records.values()].map(({ hash, truncated }) => [hash, truncated])).toEqual([
      [hashOf(prose), true],
      [hashOf("short"), false],
      [hashOf("x".repeat(400)), false],
    ]);
  });

  test("is halved where the estimate was too low for it; others of its request stay whole", async () => {
    const queue = new MemoryQueue(rows("short", dense));
    const provider = refusingTokens(/東/g);
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 2, failed: 0 });
    expect(provider.requests).toEqual([["short", dense], ["short"], [dense], [dense.slice(0, 60)]]);
    expect([...queue.records.values()].map(({ truncated }) => truncated)).toEqual([false, true]);
  });

  test("is halved no further than a byte a token: then the provider's reason is another", async () => {
    const queue = new MemoryQueue(rows(prose));
    const provider = embedding(async () => {
      throw refusal("input_refused", { status: 400 });
    });
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 0, failed: 1, requests: 3 });
    expect(provider.requests.map(([input]) => input?.length)).toEqual([400, 200, 100]);
    expect(queue.jobs.get("r1")).toMatchObject({ failed: true, error: "the provider says input_refused" });
  });

  test("is not cut for an account's limit a minute", async () => {
    const queue = new MemoryQueue(rows("x".repeat(300)));
    const provider = embedding(async () => {
      throw refusal("rate_limited", { status: 429, requestTooLarge: true });
    });
    expect(await run(queue, provider)).toMatchObject({ failed: 1, requests: 1 });
  });

  test("fails unsent where the collection says so; the rest is sent", async () => {
    const queue = new MemoryQueue(rows(prose, "short", dense));
    queue.longText = "fail";
    const provider = refusingTokens(/東/g);
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 1, failed: 2 });
    // The estimate lets the dense one pass; the provider does not, and it is not cut.
    expect(provider.requests).toEqual([["short", dense], ["short"], [dense]]);
    expect(queue.jobs.get("r1")).toMatchObject({
      failed: true,
      error: expect.stringMatching(/longer than the 100 tokens that test\/model@2 takes/),
    });
    expect(queue.jobs.get("r3")).toMatchObject({ failed: true, error: "the provider says input_refused" });
  });
});

describe("what the provider refuses", () => {
  test("bad input is halved until the culprit stands alone; the rest is stored", async () => {
    const queue = new MemoryQueue(rows("a", "b", "c", "poison", "e", "f"));
    const report = await run(queue, embedding(refusing(["poison"])));
    expect(report).toMatchObject({ ended: "idle", done: 5, failed: 1, requests: 7 });
    expect(queue.jobs.get("r4")).toMatchObject({ failed: true, error: "the provider says input_refused" });
    expect([...queue.records.keys()].sort()).toEqual(["r1", "r2", "r3", "r5", "r6"]);
  });

  test("too large a request is halved", async () => {
    const queue = new MemoryQueue(many(8));
    const provider = embedding(async (inputs, options) => {
      if (inputs.length > 2) throw refusal("request_too_large", { status: 400 });
      return answerAll(inputs, options);
    });
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 8, failed: 0 });
    expect(provider.requests.filter((inputs) => inputs.length <= 2)).toHaveLength(4);
  });

  test("a request over what an account has a minute is halved, not waited for", async () => {
    const queue = new MemoryQueue(many(4));
    const provider = embedding(async (inputs, options) => {
      if (inputs.length > 2) throw refusal("rate_limited", { status: 429, requestTooLarge: true });
      return answerAll(inputs, options);
    });
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", done: 4 });
  });

  test("a rate limit gives the rows back, due at once and with their attempts; the space hears of it and waits, and so does the slice", async () => {
    const queue = new MemoryQueue(many(3));
    const limited = refusal("rate_limited", { status: 429, retryAfterMs: 7_000 });
    const report = await run(queue, embedding(throwing(limited)));
    expect(report).toMatchObject({ ended: "idle", done: 3, released: 3, wait_ms: 0 });
    expect(queue.answers).toMatchObject([{ refused: true, retryAfterMs: 7_000 }, { refused: false }]);
    expect(queue.time).toBe(7_000);
  });

  test("a wait that is longer than the slice may take ends it, with how long it is", async () => {
    const queue = new MemoryQueue(many(3));
    const limited = refusal("rate_limited", { status: 429, retryAfterMs: 7_000 });
    const report = await run(queue, embedding(throwing(limited)), { budgetMs: 5_000 });
    expect(report).toMatchObject({
      ended: "rate_limited",
      released: 3,
      wait_ms: 7_000,
      error: "the provider says rate_limited",
    });
    for (const job of queue.jobs.values()) expect(job).toMatchObject({ token: null, attempts: 0, runAt: 0 });
  });

  test("what an answer says about the rate reaches the space, with its age", async () => {
    const queue = new MemoryQueue(many(2));
    queue.completeMsPerRow = 50;
    const rate = {
      tokensPerMinute: 1_000,
      tokensLeft: 10,
      requestsPerMinute: undefined,
      requestsLeft: undefined,
    };
    await run(
      queue,
      embedding(async (inputs, options) => ({ ...(await answerAll(inputs, options)), rate })),
    );
    expect(queue.answers).toEqual([{ refused: false, retryAfterMs: undefined, rate, ageMs: 100 }]);
  });

  test("a failure that may pass spends an attempt and backs off, doubling, at least as long as it was asked", async () => {
    const queue = new MemoryQueue(many(1));
    const waits: number[] = [];
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      const report = await run(queue, embedding(throwing(refusal("server_error", { status: 500 }))));
      expect(report).toMatchObject({ ended: "provider_failed", retried: 1 });
      const job = queue.jobs.get("r1");
      expect(job).toMatchObject({ attempts: attempt, token: null });
      waits.push(((job?.runAt ?? 0) - queue.time) / 1000 / 2 ** attempt);
      queue.time = job?.runAt ?? 0;
    }
    for (const wait of waits) expect(wait).toBeGreaterThanOrEqual(0.75);
    for (const wait of waits) expect(wait).toBeLessThanOrEqual(1.25);

    await run(queue, embedding(throwing(refusal("server_error", { status: 503, retryAfterMs: 90_000 }))));
    expect(queue.jobs.get("r1")?.runAt).toBe(queue.time + 90_000);
  });

  test("what fails again and again counts as failed in the end", async () => {
    const queue = new MemoryQueue(many(1));
    const provider = embedding(async () => {
      throw refusal("bad_answer", { billed: 7 });
    });
    const reports: SliceReport[] = [];
    for (let slice = 0; slice < 8; slice += 1) {
      reports.push(await run(queue, provider));
      queue.time = queue.jobs.get("r1")?.runAt ?? 0;
    }
    expect(reports.at(-1)).toMatchObject({ failed: 1, retried: 0, tokens: 7 });
    expect(await run(queue, provider)).toMatchObject({ ended: "idle", requests: 0 });
  });

  test.each(["quota_exhausted", "account_refused", "request_refused"] as const)(
    "%s pauses the space and keeps every job with its attempts",
    async (fault) => {
      const queue = new MemoryQueue(many(3));
      const report = await run(queue, embedding(throwing(refusal(fault, { status: 401 }))));
      expect(report).toMatchObject({ ended: "paused", released: 3 });
      expect(queue.paused).toBe(`the provider says ${fault}`);
      expect([...queue.jobs.values()].map(({ attempts, failed }) => [attempts, failed])).toEqual(
        Array(3).fill([0, false]),
      );
    },
  );

  test("what was paid before a failure is stored; what was not sent yet is given back", async () => {
    const queue = new MemoryQueue(many(4));
    let requests = 0;
    const provider = embedding(async (inputs, options) => {
      requests += 1;
      if (requests === 1) throw refusal("request_too_large", { status: 413 });
      if (requests === 3) throw refusal("server_error", { status: 500 });
      return answerAll(inputs, options);
    });
    expect(await run(queue, provider)).toMatchObject({ ended: "provider_failed", done: 2, retried: 2 });
    expect([...queue.records.keys()]).toEqual(["r1", "r2"]);
  });

  test("a missing configuration gives the jobs back for a minute and is thrown", async () => {
    const queue = new MemoryQueue(many(2));
    const missing = new ReembedError("provider_unavailable", "OPENAI_API_KEY is not set", "Set it.");
    const embedderFor = () => {
      throw missing;
    };
    await expect(workSlice({ queue, embedderFor, now: queue.now })).rejects.toBe(missing);
    expect([...queue.jobs.values()]).toEqual(
      Array(2).fill({ runAt: 60_000, token: null, attempts: 0, failed: false, error: null }),
    );
    expect([...queue.ledger.values()]).toEqual([[]]);
  });
});

describe("an input that fails by itself", () => {
  const FAILURES: Readonly<Record<string, InputFailure>> = {
    gone: { reason: "not there", next: "fail" },
    slow: { reason: "no answer", next: "retry" },
    late: { reason: "not tried", next: "release" },
  };
  const failing: Embed = async (inputs) => {
    const failures = new Map<number, InputFailure>();
    for (const [position, input] of inputs.entries()) {
      const failure = FAILURES[input.split(" ", 1)[0] ?? ""];
      if (failure !== undefined) failures.set(position, failure);
    }
    const vectors = inputs.map((_, position) => (failures.has(position) ? null : [1, 1]));
    return { vectors, usage: { tokens: inputs.length }, failures };
  };

  test("fails, is tried again or given back, with its reason, and the others are stored", async () => {
    const queue = new MemoryQueue(rows("a", "gone 1", "slow", "gone 2", "late", "b"));
    expect(await run(queue, embedding(failing), { limit: 6 })).toMatchObject({
      done: 2,
      failed: 2,
      retried: 1,
      released: 1,
      requests: 1,
      tokens: 6,
    });
    expect([...queue.records.keys()]).toEqual(["r1", "r6"]);
    expect(queue.jobs.get("r2")).toMatchObject({ failed: true, error: "not there", attempts: 1 });
    expect(queue.jobs.get("r3")).toMatchObject({ failed: false, error: "no answer", attempts: 1 });
    expect(queue.jobs.get("r5")).toMatchObject({ failed: false, attempts: 0 });
    expect([...queue.ledger.values()]).toEqual([
      [expect.objectContaining({ state: "settled", outcome: "ok", inputs: 6, stale: 0, tokens: 6 })],
    ]);
  });

  test("is not tried for ever", async () => {
    const queue = new MemoryQueue(rows("slow"));
    await run(queue, embedding(failing), { maxRetries: 0 });
    expect(queue.jobs.get("r1")).toMatchObject({ failed: true, error: "no answer" });
  });

  test("an embedder that leaves a vector out without a reason has answered badly", async () => {
    const space = { ...TEST_SPACE, dimensions: 2 };
    const made = makeEmbedder(space, async (texts) => ({
      vectors: texts.map((_, index) => (index === 0 ? null : [1, 1])),
      usage: { tokens: 2 },
    }));
    const error = await made.embed(["a", "b"], { purpose: "document" }).catch((error: unknown) => error);
    expect(error).toMatchObject({
      fault: "bad_answer",
      message: expect.stringContaining("without a reason"),
    });
  });
});

describe("references to images", () => {
  test("are neither cut nor given a prefix, however long they are", async () => {
    const url = `https://photos.example/${"a".repeat(2_000)}.jpg`;
    const queue = new MemoryQueue(rows(url));
    queue.space = { ...TEST_SPACE, image_tokens: 50, document_prefix: "passage: " };
    const provider = embedding();
    await run(queue, provider);
    expect(provider.requests).toEqual([[url]]);
    expect([...queue.ledger.values()].flat()).toEqual([expect.objectContaining({ outcome: "ok" })]);
  });
});

describe("an embedder that throws what nobody foresaw", () => {
  test("is thrown on, when what was paid is stored, the rest given back and the claim settled", async () => {
    const queue = new MemoryQueue(many(8));
    const bug = new TypeError("the secret text of a document");
    const provider = embedding(
      throwing(refusal("request_too_large", { status: 413 }), refusal("request_too_large", { status: 413 })),
    );
    const answer = provider.embedder.embed;
    const embed: Embed = async (inputs, options) => {
      if (provider.requests.length === 3) throw bug;
      return answer(inputs, options);
    };
    const embedderFor = () => ({ space: TEST_SPACE, embed });
    await expect(workSlice({ queue, embedderFor, now: queue.now })).rejects.toBe(bug);
    expect([...queue.records.keys()]).toEqual(["r1", "r2"]);
    expect(queue.leased).toEqual([]);
    // It spends an attempt, so that a poisonous row cannot bring every slice down for ever.
    expect(["r3", "r5"].map((id) => queue.jobs.get(id)?.attempts)).toEqual([1, 0]);
    expect(queue.entries.map(({ state, outcome }) => [state, outcome])).toEqual([
      ["settled", "request_too_large"],
      ["settled", "request_too_large"],
      ["settled", "ok"],
      ["lost", "unforeseen"],
    ]);
    expect(queue.jobs.get("r3")?.error).toContain("TypeError");
    expect(queue.jobs.get("r3")?.error).not.toContain("secret");
  });
});

describe("the ledger", () => {
  test.each<[string, ProviderError, object[]]>([
    [
      "an answer that was lost",
      refusal("timeout"),
      [{ state: "lost", outcome: "timeout", tokens: 12, inputs: 2 }],
    ],
    [
      "a bad answer that states its price",
      refusal("bad_answer", { billed: 9 }),
      [{ state: "settled", outcome: "bad_answer", tokens: 9, inputs: 2 }],
    ],
    [
      "a refusal that costs nothing",
      refusal("server_error", { status: 500 }),
      [{ state: "settled", outcome: "server_error", tokens: 0, inputs: 2 }],
    ],
    ["a request that never left", refusal("unreachable"), []],
  ])("says what became of %s", async (_, error, entries) => {
    const queue = new MemoryQueue(rows("text 1", "text 2"));
    await run(queue, embedding(throwing(error)));
    expect(queue.entries).toMatchObject(entries);
    expect(queue.entries).toHaveLength(entries.length);
  });

  test("counts the inputs that were paid and not stored, each with its own request", async () => {
    const queue = new MemoryQueue(rows("edited", "twice", "twice", "removed", "taken", "kept"));
    let requests = 0;
    const provider = embedding(async (inputs, options) => {
      requests += 1;
      if (requests === 1) throw refusal("request_too_large", { status: 413 });
      if (requests === 2) {
        queue.write("r1", "another text");
        queue.remove("r4");
        queue.takeOver("r5");
        queue.takeOver("r2");
      }
      return answerAll(inputs, options);
    });
    const report = await run(queue, provider);
    expect(report).toMatchObject({ ended: "idle", done: 3, stale: 1, gone: 1, lost_lease: 2 });
    expect(
      queue.entries.map(({ outcome, inputs, stale, tokens }) => [outcome, inputs, stale, tokens]),
    ).toEqual([
      ["request_too_large", 5, 0, 0],
      ["ok", 3, 2, 30],
      ["ok", 2, 1, 20],
      ["ok", 1, 0, 10],
    ]);
  });

  test("hears of the requests also when the database fails before they are stored", async () => {
    const queue = new MemoryQueue(many(2));
    const down = new ReembedError("database_unavailable", "the database could not answer", "Try again.");
    queue.failures.set("complete", [down]);
    await expect(run(queue, embedding())).rejects.toBe(down);
    expect(queue.entries).toMatchObject([
      { state: "settled", outcome: "ok", inputs: 2, stale: 2, tokens: 20 },
    ]);
    expect(queue.leased).toEqual([]);
    // What was paid spends an attempt: a database that never stores the vectors does not have them bought for ever.
    expect([...queue.jobs.values()].map(({ attempts }) => attempts)).toEqual([1, 1]);
  });

  test("a database that is gone altogether is what is thrown", async () => {
    const queue = new MemoryQueue(many(2));
    const down = new ReembedError("database_unavailable", "the database could not answer", "Try again.");
    const later = new ReembedError("database_unavailable", "still not", "");
    queue.failures.set("complete", [down]);
    queue.failures.set("fail", [later]);
    queue.failures.set("settle", [later]);
    await expect(run(queue, embedding())).rejects.toBe(down);
  });
});

describe("completing", () => {
  test("slices follow the time that the last one took", async () => {
    const queue = new MemoryQueue(many(400));
    queue.completeMsPerRow = 2;
    await run(queue, embedding(), { batch: 400 });
    const sizes = queue.completes.map(({ rows }) => rows.length);
    expect(sizes.slice(0, 3)).toEqual([64, 32, 30]);
    expect(Math.max(...sizes.slice(2))).toBe(30);

    const fast = new MemoryQueue(many(400));
    fast.completeMsPerRow = 0.1;
    await run(fast, embedding(), { batch: 400 });
    expect(fast.completes.map(({ rows }) => rows.length)).toEqual([64, 128, 208]);
  });

  test.each(["database_timeout", "busy"] as const)(
    "a slice that ends as %s is halved and sent again",
    async (code) => {
      const queue = new MemoryQueue(many(60));
      queue.failures.set("complete", [
        new ReembedError(code, "cancelled", ""),
        new ReembedError(code, "cancelled", ""),
      ]);
      expect(await run(queue, embedding())).toMatchObject({ ended: "idle", done: 60, requests: 1 });
      expect(queue.completes.map(({ rows }) => rows.length).slice(0, 2)).toEqual([15, 30]);
    },
  );

  test("rows that the application holds are asked for one at a time, waiting", async () => {
    const queue = new MemoryQueue(many(5));
    queue.locked.set("r2", 3).set("r4", 1);
    expect(await run(queue, embedding())).toMatchObject({ ended: "idle", done: 5, busy: 0, requests: 1 });
    expect(queue.completes.map(({ rows, wait }) => [rows.join(" "), wait])).toEqual([
      ["r1 r2 r3 r4 r5", false],
      ["r2", true],
      ["r4", true],
      ["r2", true],
      ["r4", true],
      ["r2", true],
      ["r2", true],
    ]);
  });

  test("rows held for too long are given back with their attempt, and the claim ends inside its time", async () => {
    const queue = new MemoryQueue(many(200));
    for (const id of queue.texts.keys()) queue.locked.set(id, Number.POSITIVE_INFINITY);
    const report = await run(queue, embedding(), { batch: 200, limit: 1000, budgetMs: 1 });
    expect(report).toMatchObject({ ended: "time", done: 0, busy: 200, released: 0 });
    expect(queue.time).toBeLessThan(31_000);
    expect(queue.leased).toEqual([]);
    expect(queue.jobs.get("r1")?.attempts).toBe(0);
    expect(queue.entries).toMatchObject([{ outcome: "ok", stale: 200 }]);
  });
});

describe("several lanes", () => {
  /** Answers when told to, so that a test sees how many requests are open at once. */
  function heldBack() {
    const open: (() => void)[] = [];
    const provider = embedding(async (inputs, options) => {
      await new Promise<void>((resolve) => {
        open.push(resolve);
        options.signal?.addEventListener("abort", () => resolve());
      });
      if (options.signal?.aborted) throw refusal("aborted", { billed: "no" });
      return answerAll(inputs, options);
    });
    return { ...provider, open };
  }
  const turns = async () => {
    for (let turn = 0; turn < 200; turn += 1) await Promise.resolve();
  };

  test("have as many requests open as there are lanes, share one report and store every row once", async () => {
    const queue = new MemoryQueue(many(10));
    const provider = heldBack();
    const running = run(queue, provider, { batch: 2, lanes: 3 });
    await turns();
    expect(provider.open).toHaveLength(3);
    while (queue.records.size < 10) {
      provider.open.shift()?.();
      await turns();
      expect(provider.open.length).toBeLessThanOrEqual(3);
    }
    expect(await running).toMatchObject({ ended: "idle", done: 10, requests: 5 });
    expect(queue.leased).toEqual([]);
  });

  test("take no row more than the limit, together", async () => {
    const queue = new MemoryQueue(many(30));
    expect(await run(queue, embedding(), { batch: 4, lanes: 4, limit: 10 })).toMatchObject({
      ended: "limit",
      done: 10,
    });
    expect(queue.jobs.size).toBe(20);
  });

  test("all stop: what was sent is given back and settled", async () => {
    const queue = new MemoryQueue(many(12));
    const stop = new AbortController();
    const provider = heldBack();
    const running = run(queue, provider, { batch: 2, lanes: 3, signal: stop.signal });
    await turns();
    stop.abort();
    expect(await running).toMatchObject({ ended: "stopped", done: 0, released: 6, requests: 0 });
    expect(queue.leased).toEqual([]);
    expect([...queue.ledger.values()]).toEqual([[], [], []]);
  });

  test("end together when one of them must, after the claims they are at", async () => {
    const queue = new MemoryQueue(many(12));
    const provider = embedding(async (inputs, options) => {
      if (inputs.includes("text 2")) throw refusal("account_refused", { status: 401 });
      return answerAll(inputs, options);
    });
    const report = await run(queue, provider, { batch: 2, lanes: 3 });
    expect(report).toMatchObject({ ended: "paused", done: 4, released: 2 });
    expect(queue.leased).toEqual([]);
  });

  test("that fail do not leave the others' claims behind", async () => {
    const queue = new MemoryQueue(many(6));
    const lost = new ReembedError("database_unavailable", "gone", "");
    queue.failures.set("complete", [lost]);
    await expect(run(queue, embedding(), { batch: 2, lanes: 3 })).rejects.toBe(lost);
    expect(queue.leased).toEqual([]);
    expect(queue.records.size).toBe(4);
  });
});

test("a stop in the middle of a request gives the rows back and settles", async () => {
  const queue = new MemoryQueue(many(3));
  const stop = new AbortController();
  const provider = embedding(async (_, { signal }) => {
    stop.abort();
    expect(signal?.aborted).toBe(true);
    throw refusal("aborted");
  });
  expect(await run(queue, provider, { signal: stop.signal })).toMatchObject({
    ended: "stopped",
    released: 3,
  });
  expect([...queue.jobs.values()].map(({ attempts, token }) => [attempts, token])).toEqual(
    Array(3).fill([0, null]),
  );
  expect(queue.entries).toMatchObject([{ state: "lost", outcome: "aborted" }]);
});

describe("whatever the provider and the application do", () => {
  const FAULTS = Object.keys(PROVIDER_FAULTS) as ProviderFault[];

  test.each(Array.from({ length: 40 }, (_, seed) => seed + 1))(
    "every row ends in one way, seed %i",
    async (seed) => {
      const random = randomFrom(seed);
      const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
      const queue = new MemoryQueue(
        rows(
          ...Array.from({ length: 60 }, () => pick(["", " ", "a", "b", `text ${Math.floor(random() * 40)}`])),
        ),
      );
      queue.completeMsPerRow = random() * 10;
      const ids = [...queue.texts.keys()];
      let resolved = 0;
      const claimOf = queue.claim.bind(queue);
      let leased = 0;
      queue.claim = async (options) => {
        const claim = await claimOf(options);
        leased += claim.jobs.length;
        return claim;
      };
      const provider = embedding(async (inputs, options) => {
        for (let edits = Math.floor(random() * 4); edits > 0; edits -= 1) {
          const id = pick(ids);
          const change = random();
          if (change < 0.4) queue.write(id, `edit ${Math.floor(random() * 9)}`);
          else if (change < 0.6) queue.remove(id);
          else if (change < 0.8) queue.takeOver(id);
          else queue.locked.set(id, Math.floor(random() * 4));
        }
        if (random() < 0.5) {
          if (random() < 0.1) throw new RangeError("a bug");
          throw refusal(pick(FAULTS), { retryAfterMs: random() * 1e4 });
        }
        return answerAll(inputs, options);
      });
      for (let slice = 0; slice < 12; slice += 1) {
        let thrown = false;
        const before = leased;
        const report = await run(queue, provider, { batch: 20, budgetMs: 60_000 }).catch((error: unknown) => {
          expect(error).toBeInstanceOf(RangeError);
          thrown = true;
        });
        if (report) {
          const { done, skipped, stale, lost_lease, gone, busy, failed, retried, released } = report;
          resolved = done + skipped + stale + lost_lease + gone + busy + failed + retried + released;
          expect(resolved).toBe(leased - before);
        } else expect(thrown).toBe(true);
        expect(queue.leased.filter((id) => queue.jobs.get(id)?.token !== "another's")).toEqual([]);
        expect([...queue.ledger.values()].every((entries) => entries !== undefined)).toBe(true);
        queue.paused = null;
        queue.time += 400_000;
      }
      for (const [id, { hash, vector, skipped }] of queue.records) {
        const job = queue.jobs.get(id);
        const text = queue.texts.get(id);
        if (job === undefined && text !== undefined) {
          expect([id, skipped === null, vector !== null]).toEqual([
            id,
            text.trim() !== "",
            text.trim() !== "",
          ]);
          expect(hash).toHaveLength(64);
        }
      }
    },
  );
});

/** Numbers from 0 to 1 that follow from the seed: mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
