/** The application that keeps working while its vectors move: a reader that searches and a writer that adds, edits and deletes. */
import { setTimeout as pause } from "node:timers/promises";
import type { SupabaseClient } from "@supabase/supabase-js";
import type { SearchAnswer } from "../../supabase/functions/_shared/search.ts";

export interface TrafficCounts {
  readonly searches: { total: number; failed: number };
  writes: number;
}

export interface Traffic {
  readonly counts: TrafficCounts;
  /** Ends both and waits until their last call is answered. */
  stop(): Promise<void>;
}

/** A breath between two calls, so that the traffic is steady and leaves the machine to the move. */
const READER_PAUSE_MS = 20;
const WRITER_PAUSE_MS = 40;

/**
 * Starts both.
 * @param search one search through the `search` function, as a visitor
 * @param service a client that may write
 * @param rows a search that returns fewer rows than this counts as failed
 */
export function startTraffic(
  search: (question: string) => Promise<SearchAnswer>,
  service: SupabaseClient,
  questions: readonly string[],
  rows: number,
): Traffic {
  const counts: TrafficCounts = { searches: { total: 0, failed: 0 }, writes: 0 };
  const stopping = new AbortController();
  const going = () => !stopping.signal.aborted;

  const read = async () => {
    for (let turn = 0; going(); turn += 1) {
      counts.searches.total += 1;
      try {
        const { results } = await search(questions[turn % questions.length] ?? "");
        if (results.length < rows) counts.searches.failed += 1;
      } catch {
        counts.searches.failed += 1;
      }
      await pause(READER_PAUSE_MS);
    }
  };

  const write = async () => {
    const table = () => service.from("course_content");
    for (let turn = 1; going(); turn += 1) {
      const id = crypto.randomUUID();
      const steps = [
        () =>
          table().insert({
            id,
            title: `Reader's note ${turn}`,
            content: "Where does this page speak of tags?",
          }),
        () =>
          table()
            .update({ content: `Edited: where does page ${turn} speak of tags?` })
            .eq("id", id),
        () => table().delete().eq("id", id),
      ];
      for (const step of steps) {
        const { error } = await step();
        if (error) throw new Error(`the writer failed: ${error.message}`);
        counts.writes += 1;
        await pause(WRITER_PAUSE_MS);
      }
    }
  };

  const running = Promise.all([read(), write()]);
  // Whoever stops the traffic hears of a failure; until then it must not end the process.
  running.catch(() => stopping.abort());
  return {
    counts,
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
