/** Everybody who works on the table at once, each in rounds, until they are told to stop. */
import { setTimeout as delay } from "node:timers/promises";

interface Waiting {
  readonly until: readonly number[];
  readonly resolve: () => void;
}

export class Actors {
  readonly #rounds: number[] = [];
  readonly #running: Promise<void>[] = [];
  #waiting: Waiting[] = [];
  #stopped = false;

  /**
   * Goes on with rounds until `stop`.
   * @param pauseMs between two rounds: an application does not fire as fast as it can
   */
  start(round: () => Promise<void>, pauseMs: number): void {
    const actor = this.#rounds.push(0) - 1;
    this.#running.push(
      (async () => {
        while (!this.#stopped) {
          await round();
          this.#rounds[actor] = (this.#rounds[actor] ?? 0) + 1;
          this.#wake();
          await delay(pauseMs);
        }
      })(),
    );
  }

  /** Resolves when each actor has begun and ended a round from now on. Rejects when one of them throws. */
  async oneRound(): Promise<void> {
    // The round under way does not count.
    const until = this.#rounds.map((rounds) => rounds + 2);
    const reached = new Promise<void>((resolve) => {
      this.#waiting.push({ until, resolve });
    });
    await Promise.race([reached, ...this.#running.map((actor) => actor.then(() => reached))]);
  }

  /** Resolves when the rounds under way are over. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  #wake(): void {
    const isReached = ({ until }: Waiting) =>
      until.every((rounds, actor) => (this.#rounds[actor] ?? 0) >= rounds);
    for (const waiting of this.#waiting.filter(isReached)) waiting.resolve();
    this.#waiting = this.#waiting.filter((waiting) => !isReached(waiting));
  }
}
