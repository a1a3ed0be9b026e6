/** The switches of an app's environment: what each takes, where it acts, and that one which contradicts the database is refused. */
import { describe, expect, test } from "vitest";
import { embeddersFrom } from "../../scripts/lib/providers.ts";
import type { Space } from "../../supabase/functions/_shared/embedder.ts";
import { readEnv } from "../../supabase/functions/_shared/env.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";
import { search } from "../../supabase/functions/_shared/search.ts";
import {
  checkInstead,
  readSwitches,
  type Switches,
  switchesIn,
  versionInstead,
} from "../../supabase/functions/_shared/switches.ts";
import { workingBy, workSlice } from "../../supabase/functions/_shared/worker.ts";
import { startFakeOpenAI } from "../support/fake-openai.ts";
import { MemoryQueue, TEST_SPACE } from "../support/memory-queue.ts";

const ALL = {
  USE_VECTOR_1536: " TRUE ",
  SIMILARITY_THRESHOLD: "0.78",
  OPENAI_EMBEDDING_MODEL: "text-embedding-3-large",
  OPENAI_EMBEDDING_BATCH_SIZE: "100",
  OPENAI_EMBEDDING_MAX_RETRIES: "3",
  EMBEDDING_TIMEOUT: "30",
  OPENAI_CHAT_MODEL: "gpt-4.1-nano",
};

/** What it throws, as a ReembedError. */
function refusalOf(work: () => unknown): ReembedError {
  try {
    work();
  } catch (error) {
    if (error instanceof ReembedError) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

describe("the switches", () => {
  test("are read with their values; blank ones are not set, other variables are nobody's business", () => {
    expect(readSwitches({ ...ALL, PATH: "/bin" })).toEqual({
      USE_VECTOR_1536: true,
      SIMILARITY_THRESHOLD: 0.78,
      OPENAI_EMBEDDING_MODEL: "text-embedding-3-large",
      OPENAI_EMBEDDING_BATCH_SIZE: 100,
      OPENAI_EMBEDDING_MAX_RETRIES: 3,
      EMBEDDING_TIMEOUT: 30,
      OPENAI_CHAT_MODEL: "gpt-4.1-nano",
    });
    expect(readSwitches({ USE_VECTOR_1536: "", EMBEDDING_TIMEOUT: "  " })).toEqual({});
    expect(readSwitches({ USE_VECTOR_1536: "off" })).toEqual({ USE_VECTOR_1536: false });
    expect(switchesIn({ ...ALL, PATH: "/bin", EMBEDDING_TIMEOUT: " " })).toEqual({
      ...ALL,
      USE_VECTOR_1536: "TRUE",
      EMBEDDING_TIMEOUT: undefined,
    });
  });

  test.each([
    ["USE_VECTOR_1536", ["maybe", "2"]],
    ["SIMILARITY_THRESHOLD", ["1.01", "-2", "NaN", "0,5", "1e-1"]],
    ["OPENAI_EMBEDDING_MODEL", ["two words", "-x"]],
    ["OPENAI_EMBEDDING_BATCH_SIZE", ["0", "2049", "1.5", "ten"]],
    ["OPENAI_EMBEDDING_MAX_RETRIES", ["-1", "8", "Infinity"]],
    ["EMBEDDING_TIMEOUT", ["0", "61", "30s"]],
    ["OPENAI_CHAT_MODEL", ["two words", "-x"]],
  ])("%s takes nothing else", (name, values) => {
    for (const value of values) {
      const refusal = refusalOf(() => readSwitches({ [name]: value }));
      expect(refusal.code).toBe("invalid_request");
      expect(refusal.message).toContain(`${name}: must be`);
    }
  });

  test("are reported all at once, never with a value, by the functions' environment too", () => {
    const wrong = { USE_VECTOR_1536: "hush", SIMILARITY_THRESHOLD: "hush", EMBEDDING_TIMEOUT: "hush" };
    const read = () => readSwitches(wrong);
    expect(read).toThrow(/USE_VECTOR_1536.*SIMILARITY_THRESHOLD.*EMBEDDING_TIMEOUT/);
    expect(read).not.toThrow(/hush/);
    expect(() => readEnv({ ...wrong, SUPABASE_URL: "http://127.0.0.1" })).toThrow(
      /SUPABASE_SECRET_KEYS.*USE_VECTOR_1536/,
    );
  });
});

describe("USE_VECTOR_1536", () => {
  const versionOf = (version: number, dimensions: number, coverage?: number) => ({
    ...{ collection: "bora_docs", version, space: `openai/m@${dimensions}`, dimensions },
    ...(coverage === undefined ? {} : { coverage }),
  });

  test.each([
    [undefined, 1, 384, undefined],
    [undefined, 2, 1536, undefined],
    [true, 2, 1536, undefined],
    [true, 3, 1536, undefined],
    [true, 1, 384, 2],
    [true, 3, 3072, 2],
    [false, 1, 384, undefined],
    [false, 1, 1536, undefined],
    [false, 2, 1536, 1],
  ])(
    "%s where version %i of %i dimensions is routed to: wants %s instead",
    (use, version, dimensions, instead) => {
      expect(versionInstead(use, versionOf(version, dimensions))).toBe(instead);
    },
  );

  test.each([
    [true, undefined, "has no version 2 that could answer"],
    [true, versionOf(2, 3072), "has 3072 dimensions in its version 2"],
    [true, versionOf(2, 1536, 0.4), "has not loaded its version 2 yet"],
    [false, undefined, "has no version 1 that could answer"],
    [false, versionOf(1, 384, 0.9), "has not loaded its version 1 yet"],
  ])("%s is refused where what it wants cannot answer: %o", (use, wanted, why) => {
    const { code, status, message } = refusalOf(() =>
      checkInstead(use, versionOf(use ? 1 : 2, use ? 384 : 1536), wanted),
    );
    expect({ code, status }).toEqual({ code: "environment_conflict", status: 503 });
    expect(message).toBe(`USE_VECTOR_1536 is ${use}, and bora_docs ${why}`);
  });
});

describe("a search", () => {
  const ROUTE = {
    ...{ collection: "notes", version: 1, active: true, space: "test/m@2", provider: "test", model: "m" },
    ...{ dimensions: 2, query_prefix: "", document_prefix: "", max_input_tokens: 100 },
    ...{ function: "match_notes", hybrid: "hybrid_notes", filters: [], threshold: 0.5 },
  };
  const searching = async (switches: Partial<Switches>, request: object = {}, second?: object) => {
    const calls: (readonly [string, unknown])[] = [];
    const rpc = async (name: string, args: Readonly<Record<string, unknown>>) => {
      calls.push([name, args.match_threshold]);
      if (name === "embedding_route") {
        if (args.version !== 2) return ROUTE;
        if (second === undefined) throw new ReembedError("unknown_version", "no version 2", "");
        return second;
      }
      return name === "reembed_begin_query" ? { embedding: "[1,0]" } : [];
    };
    await search(
      {
        caller: rpc,
        service: rpc,
        callerHash: null,
        switches,
        embedderFor: (space) => ({ space, embed: async () => ({ vectors: [[1, 0]], usage: { tokens: 1 } }) }),
      },
      { collection: "notes", query: "text", ...request },
    );
    return calls.at(-1);
  };

  test("takes SIMILARITY_THRESHOLD where it names no threshold; one by words has none", async () => {
    const switches = { SIMILARITY_THRESHOLD: 0.3 };
    expect(await searching({})).toEqual(["match_notes", null]);
    expect(await searching(switches)).toEqual(["match_notes", 0.3]);
    expect(await searching(switches, { match_threshold: 0 })).toEqual(["match_notes", 0]);
    expect(await searching(switches, { mode: "hybrid" })).toEqual(["hybrid_notes", undefined]);
  });

  test("goes where USE_VECTOR_1536 wants it; one that names its version has chosen", async () => {
    const v2 = { ...ROUTE, version: 2, active: false, dimensions: 1536, function: "match_notes_v2" };
    expect(await searching({ USE_VECTOR_1536: true }, {}, v2)).toEqual(["match_notes_v2", null]);
    expect(await searching({ USE_VECTOR_1536: false }, {}, v2)).toEqual(["match_notes", null]);
    expect(await searching({ USE_VECTOR_1536: true }, { version: 1 }, v2)).toEqual(["match_notes", null]);
  });

  test("is refused before anything is paid where what USE_VECTOR_1536 wants cannot answer", async () => {
    await expect(searching({ USE_VECTOR_1536: true })).rejects.toMatchObject({
      code: "environment_conflict",
    });
    const loading = { ...ROUTE, version: 2, dimensions: 1536, coverage: 0.5 };
    await expect(searching({ USE_VECTOR_1536: true }, {}, loading)).rejects.toMatchObject({
      code: "environment_conflict",
    });
  });
});

describe("an embedder", () => {
  const SPACE: Space = {
    ...{ id: "openai/text-embedding-3-small@8", provider: "openai", model: "text-embedding-3-small" },
    ...{ dimensions: 8, query_prefix: "", document_prefix: "", max_input_tokens: 100 },
  };

  test("of a space whose model is not OPENAI_EMBEDDING_MODEL is refused; other providers have no such model", () => {
    const embedderFor = embeddersFrom({
      OPENAI_API_KEY: "sk-1",
      OPENAI_EMBEDDING_MODEL: "text-embedding-3-large",
    });
    expect(refusalOf(() => embedderFor(SPACE)).message).toBe(
      "OPENAI_EMBEDDING_MODEL is text-embedding-3-large, and the space is openai/text-embedding-3-small@8",
    );
    const hash = { ...SPACE, id: "hash/words-and-ngrams@8", provider: "hash", model: "words-and-ngrams" };
    expect(embedderFor(hash).space).toBe(hash);
    const agreeing = embeddersFrom({ OPENAI_API_KEY: "sk-1", OPENAI_EMBEDDING_MODEL: SPACE.model });
    expect(agreeing(SPACE).space).toBe(SPACE);
  });

  test("waits EMBEDDING_TIMEOUT seconds for an answer", async () => {
    const openai = await startFakeOpenAI();
    try {
      openai.faults.add({ fault: { kind: "latency", ms: 5_000 }, times: "always" });
      const embedderFor = embeddersFrom({
        ...{ OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url, EMBEDDING_TIMEOUT: "1" },
      });
      await expect(embedderFor(SPACE).embed(["a"], { purpose: "query" })).rejects.toThrow(
        "did not answer within 1000 ms",
      );
    } finally {
      await openai.close();
    }
  });
});

describe("a worker", () => {
  const work = async (variables: Record<string, string>, fails: boolean) => {
    const queue = new MemoryQueue({ r1: "a", r2: "b", r3: "c" });
    const requests: number[] = [];
    const embed = async (inputs: readonly string[]) => {
      requests.push(inputs.length);
      if (fails) throw new ProviderError("server_error", "the provider fails", { status: 500 });
      return { vectors: inputs.map(() => [1, 1]), usage: { tokens: 1 } };
    };
    const slice = () =>
      workSlice(
        { queue, embedderFor: () => ({ space: TEST_SPACE, embed }), now: queue.now, wait: queue.wait },
        workingBy(readSwitches(variables)),
      );
    return { queue, requests, slice };
  };

  test("sends OPENAI_EMBEDDING_BATCH_SIZE rows a request", async () => {
    const { requests, slice } = await work({ OPENAI_EMBEDDING_BATCH_SIZE: "2" }, false);
    await slice();
    expect(requests).toEqual([2, 1]);
  });

  test("tries a job again OPENAI_EMBEDDING_MAX_RETRIES times, and fails it then", async () => {
    const { queue, slice } = await work({ OPENAI_EMBEDDING_MAX_RETRIES: "2" }, true);
    const ends = [];
    for (let n = 0; n < 3; n += 1) {
      const { retried, failed } = await slice();
      ends.push([retried, failed]);
      queue.time += 600_000;
    }
    expect(ends).toEqual([
      [3, 0],
      [3, 0],
      [0, 3],
    ]);
  });

  test("without it leaves the number of attempts to the database", async () => {
    const { slice } = await work({}, true);
    expect(await slice()).toMatchObject({ retried: 3, failed: 0 });
  });
});
