/**
 * How fast vectors are stored. As fast as the database takes them, unless somebody searches the collection meanwhile: then the worker stores on one
 * lane, and rests between its writes, the longer the more a search suffers beside them.
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
/** Beside a write searches may take so many times what they take alone; below the lesser bound the worker dares more again. */
const RATIO = { most: 2, least: 1.5 };
/** Rests while others search, as multiples of the write before. */
const REST = { first: 1, least: 1, most: 8 };
/** The middle one of so many samples counts: single ones are at the mercy of the machine. */
const SAMPLES = 5;

/**
 * @param rate rows a second at most, which are then stored whatever searches take; undefined: as fast as the database takes them, sparing searches
 */
export function createPace({ now, wait, watch }: PacePorts, rate?: number): Pace {
  const watchers = new Map<number, Watcher>();
  let nextAt = Number.NEGATIVE_INFINITY;
  /** The last of those who store one after another. */
  let line: Promise<unknown> = Promise.resolve();

  async function writeAndRest<T>(watcher: Watcher, work: () => Promise<T>): Promise<T> {
    const began = now();
    const result = await beside(watcher, work);
    const rest = (now() - began) * watcher.rest;
    if (rest > 0) await wait(rest);
    return result;
  }

  return {
    // Tenths of a second's rows at once, so that a rate is even.
    mostRows: rate === undefined ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(rate / 10)),
    async store(versionId, rows, work) {
      if (rate !== undefined) {
        const turn = Math.max(now(), nextAt);
        nextAt = turn + (rows / rate) * 1000;
        if (turn > now()) await wait(turn - now());
        return work();
      }
      const watcher = watchers.get(versionId) ?? createWatcher(now, () => watch(versionId));
      watchers.set(versionId, watcher);
      if (watcher.rest === 0) return beside(watcher, work);
      const mine = line.then(() => writeAndRest(watcher, work));
      line = mine.catch(() => undefined);
      return mine;
    },
  };
}

/** Looks while it writes: what a search takes beside a write is the question. */
async function beside<T>(watcher: Watcher, work: () => Promise<T>): Promise<T> {
  const [result] = await Promise.all([work(), watcher.look()]);
  return result;
}

interface Watcher {
  /** How long to rest after a write, as a multiple of the time that it took; 0 while nobody is spared. */
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
  let lately: number[] = [];
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
        lately = [];
      }
      searchedAt = now();
    }
    alone = Math.min(alone, milliseconds);
    lately = [...lately, milliseconds].slice(-SAMPLES);
    if (!isSearched()) {
      rest = 0;
    } else if (lately.length === SAMPLES) {
      const middle = [...lately].sort((a, b) => a - b)[SAMPLES >> 1] ?? 0;
      if (middle > RATIO.most * alone) rest = Math.min(REST.most, rest * 1.5);
      else if (middle < RATIO.least * alone) rest = Math.max(REST.least, rest * 0.8);
    }
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
