/**
 * How fast vectors are stored. As fast as the database takes them, unless somebody searches the collection meanwhile: then the worker stores on one
 * lane, and rests between its writes for as long as it takes that searches stay near the time that they need alone.
 */

/** How a collection's searches fare; nulls where its active version has no index. */
export interface SearchSample {
  /** How often its index was read so far; each sample adds `PROBES`. */
  readonly searches: number | null;
  /** Milliseconds that a search of the sample took. */
  readonly search_ms: number | null;
}

export interface PacePorts {
  readonly now: () => number;
  readonly wait: (milliseconds: number) => Promise<void>;
  /** A sample of the searches in the collection of a version. */
  readonly watch: (versionId: number) => Promise<SearchSample>;
}

/** The pace of one worker, for as long as it runs. */
export interface Pace {
  /** At most so many rows may be stored in one call. */
  readonly mostRows: number;
  /** Stores so many rows of a version when it is their turn, and rests afterwards. */
  store<T>(versionId: number, rows: number, write: () => Promise<T>): Promise<T>;
}

/** Searches that one sample makes. */
const PROBES = 3;
const LOOK_EVERY_MS = 500;
/** After so long without a search by others nobody is spared any more. */
const SEARCHED_LATELY_MS = 5_000;
/** Searches may take so many times what they take alone; below the lesser bound the worker dares more again. */
const RATIO = { most: 1.5, least: 1.25 };
/** Rests, as multiples of the write before: the first when a search is noticed, and the longest. */
const REST = { first: 1, most: 16 };

/**
 * @param rate rows a second at most; undefined: as fast as the database takes them
 */
export function createPace({ now, wait, watch }: PacePorts, rate?: number): Pace {
  const watchers = new Map<number, Watcher>();
  let nextAt = Number.NEGATIVE_INFINITY;
  /** The last of those who store one after another. */
  let line: Promise<unknown> = Promise.resolve();

  async function write<T>(versionId: number, work: () => Promise<T>): Promise<T> {
    const began = now();
    const result = await work();
    const rest = (now() - began) * (watchers.get(versionId)?.rest ?? 0);
    if (rest > 0) await wait(rest);
    return result;
  }

  return {
    // Tenths of a second's rows at once, so that a rate is even.
    mostRows: rate === undefined ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(rate / 10)),
    async store(versionId, rows, work) {
      const watcher = watchers.get(versionId) ?? createWatcher(now, () => watch(versionId));
      watchers.set(versionId, watcher);
      await watcher.look();
      if (rate !== undefined) {
        const turn = Math.max(now(), nextAt);
        nextAt = turn + (rows / rate) * 1000;
        if (turn > now()) await wait(turn - now());
      }
      if (watcher.rest === 0) return work();
      const mine = line.then(() => write(versionId, work));
      line = mine.catch(() => undefined);
      return mine;
    },
  };
}

interface Watcher {
  /** How long to rest after a write, as a multiple of the time that it took; 0 where nobody is spared. */
  readonly rest: number;
  look(): Promise<void>;
}

/** Looks at a collection's searches, twice a second at most, and decides how long to rest. */
function createWatcher(now: () => number, watch: () => Promise<SearchSample>): Watcher {
  let lookedAt = now();
  let samples = 0;
  /** What the counter said first, and how many searches of others it has counted since. Our own may be counted late, so it is never too high. */
  let first: number | undefined;
  let others = 0;
  let searchedAt = Number.NEGATIVE_INFINITY;
  let alone = Number.POSITIVE_INFINITY;
  let lately: number | undefined;
  let rest = 0;
  const isSearched = () => now() - searchedAt <= SEARCHED_LATELY_MS;

  function note(searches: number, milliseconds: number): void {
    first ??= searches;
    const counted = searches - first - samples * PROBES;
    samples += 1;
    if (counted > others) {
      others = counted;
      if (!isSearched()) {
        rest = REST.first;
        lately = undefined;
      }
      searchedAt = now();
    }
    alone = Math.min(alone, milliseconds);
    lately = lately === undefined ? milliseconds : 0.6 * lately + 0.4 * milliseconds;
    if (!isSearched()) rest = 0;
    else if (lately > RATIO.most * alone) rest = Math.min(REST.most, rest * 1.5 + 0.25);
    else if (lately < RATIO.least * alone) rest = rest < 0.1 ? 0 : rest * 0.8;
  }

  return {
    get rest() {
      return rest;
    },
    async look() {
      if (now() - lookedAt < LOOK_EVERY_MS) return;
      lookedAt = now();
      try {
        const { searches, search_ms } = await watch();
        if (searches === null || search_ms === null) rest = 0;
        else note(searches, search_ms);
      } catch {
        // What is wrong with the database the next write says; of the searches nothing new is known.
      }
    },
  };
}
