/** A progress bar on stderr where somebody watches a terminal, and nothing anywhere else. */
import { SingleBar } from "cli-progress";
import { dollars, duration } from "./output.ts";

export interface Progress {
  /** How many are done in this run, how many there are in all, and what this run has cost so far in US dollars, where that is told. */
  update(done: number, total: number, costUsd?: number): void;
  stop(): void;
}

/** Starts a bar with rate, ETA and cost. */
export function startProgress(unit = "rows"): Progress {
  const began = performance.now();
  const bar = new SingleBar({
    format: `{bar} {percentage} % | {value}/{total} ${unit} | {rate} ${unit}/s | ETA {left}{cost}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    barsize: 28,
    barCompleteChar: "█",
    barIncompleteChar: "░",
  });
  bar.start(0, 0, { rate: 0, left: "-", cost: "" });
  return {
    update(done, total, costUsd) {
      const rate = done / Math.max((performance.now() - began) / 1000, 0.001);
      bar.setTotal(total);
      bar.update(done, {
        rate: Math.round(rate),
        left: done === 0 ? "-" : duration((total - done) / rate),
        cost: costUsd === undefined ? "" : ` | ${dollars(costUsd)}`,
      });
    },
    stop: () => bar.stop(),
  };
}
