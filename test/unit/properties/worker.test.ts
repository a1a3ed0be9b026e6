/** The planner of a worker's requests, on a queue in memory: whatever the texts, the batch and the provider's whims, each text is bought once and no job is lost. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import type { Embedder } from "../../../supabase/functions/_shared/embedder.ts";
import { ProviderError, type ProviderFault } from "../../../supabase/functions/_shared/provider-error.ts";
import { workSlice } from "../../../supabase/functions/_shared/worker.ts";
import { hashOf, MemoryQueue, TEST_SPACE } from "../../support/memory-queue.ts";
import { holds } from "../../support/properties.ts";

/** Few, so that many rows have the same; one of them is empty, one too long for the space, one poison. */
const POISON = "poison";
const TEXTS = ["", "  ", "a", "bb", "cc", "dd", "ee", POISON, "long ".repeat(200)] as const;
const PASSING: readonly ProviderFault[] = [
  "rate_limited",
  "server_error",
  "gateway_error",
  "timeout",
  "bad_answer",
  "connection_lost",
];
const UNPAID: ReadonlySet<ProviderFault> = new Set(["rate_limited", "server_error"]);

/** An embedder that refuses requests of more than `most` texts and those with poison, and fails as it is told, then answers. */
function moody(most: number, moods: readonly (ProviderFault | null)[]) {
  const left = [...moods];
  const bought: string[] = [];
  const perhaps: string[] = [];
  const embedder: Embedder = {
    space: TEST_SPACE,
    async embed(asked) {
      const inputs = asked.map(String);
      expect(inputs.length).toBeGreaterThan(0);
      for (const input of inputs) expect(input.trim()).not.toBe("");
      expect(new Set(inputs).size).toBe(inputs.length);
      if (inputs.length > most) throw new ProviderError("request_too_large", "too large", { status: 400 });
      if (inputs.includes(POISON)) throw new ProviderError("input_refused", "poison", { status: 400 });
      const mood = left.shift();
      if (mood) {
        if (!UNPAID.has(mood)) perhaps.push(...inputs);
        throw new ProviderError(mood, mood);
      }
      bought.push(...inputs);
      return { vectors: inputs.map((input) => [input.length, 1]), usage: { tokens: inputs.length } };
    },
  };
  return { embedder, bought, perhaps };
}

describe("a worker", () => {
  holds(
    "stores every row but the poison ones, buys each text once, and sends no empty one",
    fc.asyncProperty(
      fc.array(fc.constantFrom(...TEXTS), { maxLength: 30 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.option(fc.constantFrom(...PASSING)), { maxLength: 5 }),
      async (texts, batch, most, lanes, moods) => {
        const queue = new MemoryQueue(Object.fromEntries(texts.map((text, n) => [`r${n}`, text])));
        const { embedder, bought, perhaps } = moody(most, moods);
        // As often as there are faults, and until all retries are due.
        for (let slices = 0; slices < 3 + moods.length; slices += 1) {
          await workSlice(
            { queue, embedderFor: () => embedder, now: queue.now, wait: queue.wait },
            { batch, lanes },
          );
          queue.time += 600_000;
        }
        const poisoned = texts.flatMap((text, n) => (text === POISON ? [`r${n}`] : []));
        expect([...queue.jobs].filter(([, { failed }]) => failed).map(([id]) => id)).toEqual(poisoned);
        expect(queue.leased).toEqual([]);
        for (const [n, text] of texts.entries()) {
          if (text === POISON) continue;
          const record = queue.records.get(`r${n}`);
          expect(record?.hash).toBe(hashOf(text));
          expect(record?.vector === null).toBe(text.trim() === "");
          expect(record?.truncated).toBe(text.length > 400);
        }
        expect(queue.jobs.size).toBe(poisoned.length);
        // One claim buys a text once; rows of it in another claim are the database's to copy.
        const claims = queue.ledger.size;
        for (const text of new Set(bought)) {
          const times = bought.filter((one) => one === text).length;
          expect(times).toBeLessThanOrEqual(claims);
          if (batch >= texts.length && lanes === 1) expect(times).toBe(1);
        }
        // What may have been paid and what was is all in the ledger, in inputs.
        const inputs = (state: string) =>
          queue.entries
            .filter((entry) => entry.state === state && entry.tokens > 0)
            .reduce((sum, entry) => sum + entry.inputs, 0);
        expect(inputs("settled")).toBe(bought.length);
        expect(inputs("lost")).toBe(perhaps.length);
        expect([...queue.ledger.values()].every((entries) => entries !== undefined)).toBe(true);
      },
    ),
  );
});
