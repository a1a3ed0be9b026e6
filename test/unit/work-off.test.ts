/** How long a run waits for a provider or for others, and why it ends. Time is the fake clock's. */
import { describe, expect, test } from "vitest";
import { PATIENCE_MS, workOff } from "../../scripts/lib/work-off.ts";
import type { SliceEnd, SliceReport } from "../../supabase/functions/_shared/worker.ts";
import { type Counts, noCounts } from "../../supabase/functions/_shared/worker.ts";

interface Step {
  readonly ended: SliceEnd;
  readonly counts?: Partial<Counts>;
  /** What is left afterwards. */
  readonly pending: number;
  readonly dueInMs?: number | null;
  readonly waitMs?: number;
}

/** Runs through steps, the last one again and again; remembers what was asked for. */
async function run(steps: readonly Step[], limit = 0, stop = new AbortController(), stopAfterWaits?: number) {
  const waits: number[] = [];
  const limits: number[] = [];
  let clock = 0;
  let at = -1;
  const step = (): Step => steps[Math.min(at, steps.length - 1)] ?? { ended: "idle", pending: 0 };
  const report = await workOff(
    {
      async slice(left) {
        at += 1;
        limits.push(left);
        const failing = ["rate_limited", "provider_failed", "paused", "budget"].includes(step().ended);
        const slice: SliceReport = {
          ...noCounts(),
          ...step().counts,
          ended: step().ended,
          wait_ms: step().waitMs ?? 0,
          error: failing ? "the provider's words" : null,
        };
        return slice;
      },
      facts: async () => ({ pending: step().pending, dueInMs: step().dueInMs ?? null }),
      async wait(milliseconds) {
        waits.push(milliseconds);
        clock += milliseconds;
        if (waits.length === stopAfterWaits) stop.abort();
      },
      now: () => clock,
      onFacts: () => {},
      onWait: () => {},
    },
    limit,
    stop.signal,
  );
  return { ...report, waits, limits };
}

describe("working off a version", () => {
  test("a spent budget ends it, once a slice could buy nothing at all", async () => {
    const { ended, waits, error } = await run([
      { ended: "budget", counts: { done: 10, requests: 1 }, pending: 7 },
      { ended: "budget", counts: { copied: 2 }, pending: 5 },
    ]);
    expect({ ended, waits, error }).toEqual({ ended: "budget", waits: [], error: "the provider's words" });
  });

  test("goes on from slice to slice without a wait until nothing is pending", async () => {
    const { ended, totals, waits } = await run([
      { ended: "time", counts: { done: 10, requests: 1, tokens: 50 }, pending: 7 },
      { ended: "idle", counts: { done: 6, skipped: 1, requests: 1, tokens: 20 }, pending: 0 },
    ]);
    expect({ ended, waits }).toEqual({ ended: "done", waits: [] });
    expect(totals).toMatchObject({ done: 16, skipped: 1, requests: 2, tokens: 70 });
  });

  test("a limit counts over all slices", async () => {
    const { ended, limits } = await run(
      [
        { ended: "time", counts: { done: 4, skipped: 1 }, pending: 20 },
        { ended: "time", counts: { done: 2, failed: 1 }, pending: 17 },
      ],
      8,
    );
    expect({ ended, limits }).toEqual({ ended: "limit", limits: [8, 3] });
  });

  test("waits as long as a rate limit asks, and goes on", async () => {
    const { ended, waits, error } = await run([
      { ended: "rate_limited", waitMs: 42_000, pending: 5 },
      { ended: "idle", counts: { done: 5 }, pending: 0 },
    ]);
    expect({ ended, waits }).toEqual({ ended: "done", waits: [42_000] });
    expect(error).toBe("the provider's words");
  });

  test("a failing provider is asked less and less often, and given up after ten minutes", async () => {
    const { ended, waits } = await run([{ ended: "provider_failed", pending: 5 }]);
    expect(ended).toBe("provider_failed");
    expect(waits.slice(0, 8)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    const waited = waits.reduce((sum, wait) => sum + wait, 0);
    expect(waited).toBeLessThanOrEqual(PATIENCE_MS);
    expect(waited + 60_000).toBeGreaterThan(PATIENCE_MS);
  });

  test("every row that gets done renews the patience", async () => {
    const fails: Step = { ended: "provider_failed", pending: 5 };
    const works: Step = { ended: "provider_failed", counts: { done: 1 }, pending: 5 };
    const { waits } = await run([...Array<Step>(12).fill(fails), works, fails]);
    expect(waits[12]).toBe(1_000);
    expect(waits.reduce((sum, wait) => sum + wait, 0)).toBeGreaterThan(PATIENCE_MS);
  });

  test("a rate limit beyond all patience is not waited for", async () => {
    const { ended, waits } = await run([{ ended: "rate_limited", waitMs: PATIENCE_MS + 1, pending: 5 }]);
    expect({ ended, waits }).toEqual({ ended: "rate_limited", waits: [] });
  });

  test("rows that others hold are looked for again, when they are due and at least every five seconds", async () => {
    const { ended, waits } = await run([
      { ended: "busy", dueInMs: 0, pending: 3 },
      { ended: "idle", dueInMs: 1_500, pending: 3 },
      { ended: "idle", dueInMs: 90_000, pending: 3 },
      { ended: "idle", pending: 0 },
    ]);
    expect({ ended, waits }).toEqual({ ended: "done", waits: [100, 1_500, 5_000] });
    expect((await run([{ ended: "idle", dueInMs: 90_000, pending: 3 }])).ended).toBe("busy");
  });

  test("a pause and a stop end it at once; a stop also in the middle of a wait", async () => {
    expect((await run([{ ended: "paused", pending: 5 }])).ended).toBe("paused");
    expect((await run([{ ended: "stopped", pending: 5 }])).ended).toBe("stopped");
    const { ended, waits } = await run(
      [{ ended: "rate_limited", waitMs: 1_000, pending: 5 }],
      0,
      undefined,
      2,
    );
    expect({ ended, waits }).toEqual({ ended: "stopped", waits: [1_000, 1_000] });
  });
});
