import { describe, expect, test } from "vitest";
import { createPace, type SearchSample } from "../../supabase/functions/_shared/pace.ts";

const VERSION = 7;
const WRITE_MS = 50;

/** A database whose searches take as long as the test says, on a clock that only writes and waits move. */
function world(rate?: number) {
  const state = {
    time: 0,
    searches: 0,
    /** Searches that others make in a second. */
    searchedPerSecond: 0,
    searchMs: (): number | null => 1,
    samples: 0,
    writing: 0,
    mostAtOnce: 0,
    stored: 0,
  };
  let countedTo = 0;
  const pace = createPace(
    {
      now: () => state.time,
      wait: async (milliseconds) => {
        state.time += milliseconds;
      },
      watch: async (): Promise<SearchSample> => {
        state.searches += ((state.time - countedTo) / 1000) * state.searchedPerSecond;
        countedTo = state.time;
        const search_ms = state.searchMs();
        const searches = search_ms === null ? null : Math.floor(state.searches) + 3 * state.samples;
        state.samples += 1;
        return { searches, search_ms };
      },
    },
    rate,
  );
  const store = (rows = 10) =>
    pace.store(VERSION, rows, async () => {
      state.writing += 1;
      state.mostAtOnce = Math.max(state.mostAtOnce, state.writing);
      await Promise.resolve();
      state.time += WRITE_MS;
      state.stored += rows;
      state.writing -= 1;
    });
  /** How much of the time is spent writing, over so many seconds. */
  const busyShare = async (seconds: number) => {
    const began = state.time;
    let writes = 0;
    while (state.time - began < seconds * 1000) {
      await store();
      writes += 1;
    }
    return (writes * WRITE_MS) / (state.time - began);
  };
  return { state, pace, store, busyShare };
}

describe("the pace of storing", () => {
  test("is the database's own while nobody searches, however slow a search would be", async () => {
    const { state, busyShare } = world();
    state.searchMs = () => (state.samples === 0 ? 1 : 10);
    expect(await busyShare(20)).toBe(1);
    expect(state.samples).toBeGreaterThan(10);
  });

  test("leaves a table without an index alone", async () => {
    const { state, busyShare } = world();
    state.searchedPerSecond = 100;
    state.searchMs = () => null;
    expect(await busyShare(10)).toBe(1);
  });

  test("yields to searches that suffer, the more the longer they do", async () => {
    const { state, busyShare } = world();
    state.searchedPerSecond = 20;
    state.searchMs = () => (state.samples === 0 ? 1 : 3);
    expect(await busyShare(5)).toBeLessThan(0.6);
    await busyShare(20);
    expect(await busyShare(10)).toBeLessThan(0.15);
  });

  test("settles where searches take what they may", async () => {
    const { state, busyShare } = world();
    state.searchedPerSecond = 20;
    let share = 1;
    // What is written slows searches in proportion: at full speed to four times their time.
    state.searchMs = () => (state.samples === 0 ? 1 : 1 + 3 * share);
    for (let second = 0; second < 60; second += 1) share = await busyShare(1);
    expect(1 + 3 * share).toBeGreaterThan(1.3);
    expect(1 + 3 * share).toBeLessThan(2.2);
  });

  test("gives up half of the time at least while others search, and is not misled by single samples", async () => {
    const { state, busyShare } = world();
    state.searchedPerSecond = 20;
    state.searchMs = () => (state.samples % 4 === 3 ? 50 : 1);
    await busyShare(20);
    const share = await busyShare(10);
    expect(share).toBeGreaterThan(0.45);
    expect(share).toBeLessThan(0.55);
  });

  test("is the database's own again once nobody searches any more", async () => {
    const { state, busyShare } = world();
    state.searchedPerSecond = 20;
    state.searchMs = () => (state.samples === 0 ? 1 : 3);
    await busyShare(10);
    state.searchedPerSecond = 0;
    await busyShare(10);
    expect(await busyShare(10)).toBe(1);
  });

  test("stores on one lane only while it spares searches", async () => {
    const { state, busyShare, store } = world();
    await Promise.all([store(), store(), store()]);
    expect(state.mostAtOnce).toBe(3);
    state.searchedPerSecond = 20;
    state.searchMs = () => (state.samples === 0 ? 1 : 3);
    await busyShare(5);
    state.mostAtOnce = 0;
    await Promise.all([store(), store(), store()]);
    expect(state.mostAtOnce).toBe(1);
  });

  test("keeps to the rate that it is given, evenly, whatever searches take", async () => {
    const { state, pace } = world(500);
    state.searchedPerSecond = 20;
    state.searchMs = () => (state.samples === 0 ? 1 : 30);
    expect(pace.mostRows).toBe(50);
    while (state.time < 10_000) {
      await pace.store(VERSION, 50, async () => {
        state.stored += 50;
      });
    }
    expect(state.stored).toBeGreaterThan(4_800);
    expect(state.stored).toBeLessThanOrEqual(5_050);
  });

  test("is not stopped by a failing look, nor by a failing write", async () => {
    const { state, pace, store } = world();
    state.searchMs = () => {
      throw new Error("no answer");
    };
    for (let n = 0; n < 20; n += 1) await store();
    expect(state.stored).toBe(200);
    await expect(pace.store(VERSION, 1, () => Promise.reject(new Error("refused")))).rejects.toThrow(
      "refused",
    );
    await store();
    expect(state.stored).toBe(210);
  });
});
