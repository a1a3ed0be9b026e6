/** Which version was active when: what a search that began and ended at given times may have been routed to. */

interface Switch {
  readonly to: number;
  /** It took effect between these two moments of `performance.now()`: when it was sent, and when it was known to be done. */
  readonly sent: number;
  done: number;
}

export class Switches {
  readonly #log: Switch[];

  constructor(first: number) {
    this.#log = [{ to: first, sent: Number.NEGATIVE_INFINITY, done: Number.NEGATIVE_INFINITY }];
  }

  /** Notes that a switch is sent now. Returns what notes that it is done. */
  begin(to: number): () => number {
    const entry: Switch = { to, sent: performance.now(), done: Number.POSITIVE_INFINITY };
    this.#log.push(entry);
    return () => {
      entry.done = performance.now();
      return entry.done;
    };
  }

  /** Whether the version was active at some moment between the two. */
  wasActive(version: number, began: number, ended: number): boolean {
    return this.#log.some(
      ({ to, sent }, index) =>
        to === version && sent <= ended && began <= (this.#log[index + 1]?.done ?? Number.POSITIVE_INFINITY),
    );
  }
}
