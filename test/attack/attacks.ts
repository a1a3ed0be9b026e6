/** The attacks by name: which tests each of them is, and how a length of time and a seed become their settings. */

export interface Attack {
  readonly name: string;
  /** What it does, in a few words. */
  readonly what: string;
  readonly files: readonly string[];
  /** Its part of the whole time, in relation to the others'; 0 where it takes its half a minute however long it is given. */
  readonly share: number;
  /** A script that must succeed beside them, in `scripts`. */
  readonly script?: string;
  /** The variables of its tests, the seed among them where they choose anything at random. */
  settings(seconds: number, seed: number): Readonly<Record<string, number>>;
}

/** At least one, and as many as fit into the time. */
const atLeastOne = (count: number): number => Math.max(1, Math.floor(count));

/** In the order in which they run. */
export const ATTACKS: readonly Attack[] = [
  {
    name: "properties",
    what: "what must hold for any input, of the planner, hashes, routing, names, chunks, sections and answers",
    files: ["test/unit/properties", "test/unit/search-several.test.ts", "test/db/properties"],
    share: 1,
    settings: (seconds, seed) => ({
      REEMBED_PROPERTY_SECONDS: atLeastOne(seconds / 30),
      REEMBED_PROPERTY_SEED: seed,
    }),
  },
  {
    name: "rpc",
    what: "random and hostile arguments for every function of the API, as each role",
    files: ["test/db/rpc-fuzz.test.ts"],
    share: 0.5,
    settings: (seconds, seed) => ({ REEMBED_RPC_CALLS: atLeastOne(seconds * 8), REEMBED_RPC_SEED: seed }),
  },
  {
    name: "bodies",
    what: "random requests to every edge function",
    files: ["test/e2e/fuzz.test.ts"],
    share: 0.5,
    settings: (seconds, seed) => ({
      REEMBED_FUZZ_REQUESTS: atLeastOne(seconds * 100),
      REEMBED_FUZZ_SEED: seed,
    }),
  },
  {
    name: "answers",
    what: "generated answers of a language model that was led astray, over HTTP",
    files: ["test/e2e/ask.test.ts"],
    share: 0,
    settings: (_seconds, seed) => ({ REEMBED_ASK_SEED: seed }),
  },
  {
    name: "privileges",
    what: "every role's rights to every object, under both default privileges, against docs/privileges.md",
    files: ["test/db/privileges.test.ts", "test/db/pgtap.test.ts"],
    share: 0,
    settings: () => ({}),
  },
  {
    name: "tenants",
    what: "reads and writes of one tenant's rows by another, through every table, view, function and search",
    files: ["test/db/tenants.test.ts", "test/e2e/isolation.test.ts"],
    share: 0.5,
    settings: (seconds, seed) => ({
      REEMBED_ISOLATION_REQUESTS: Math.max(10, Math.floor(seconds * 4)),
      REEMBED_ISOLATION_SEED: seed,
    }),
  },
  {
    name: "injection",
    what: "hostile names, URLs and texts through every command; addresses that nothing may be fetched from",
    files: ["test/e2e/injection.test.ts", "test/unit/safe-fetch.test.ts"],
    share: 0,
    settings: () => ({}),
  },
  {
    name: "upgrade",
    what: "each released schema with data and a move under way, to the newest",
    files: ["test/db/upgrade.test.ts"],
    share: 0,
    settings: () => ({}),
  },
  {
    name: "dependencies",
    what: "versions that are exact, and known faults of the packages",
    files: ["test/unit/dependencies.test.ts"],
    share: 0,
    script: "audit.ts",
    settings: () => ({}),
  },
  {
    name: "together",
    what: "provider faults, kills, lease games, clock jumps, switches and the mix, at once against one database",
    files: ["test/fault/together.test.ts"],
    share: 4,
    settings: (seconds, seed) => ({
      REEMBED_TOGETHER_SECONDS: atLeastOne(seconds),
      REEMBED_TOGETHER_SEED: seed,
    }),
  },
  {
    name: "mix",
    what: "eleven connections under one collection, for each placement of the vectors",
    files: ["test/fault/mix.test.ts"],
    share: 2,
    settings: (seconds, seed) => ({ REEMBED_MIX_SECONDS: atLeastOne(seconds / 2), REEMBED_MIX_SEED: seed }),
  },
  {
    name: "hammer",
    what: "a whole move by the command line under readers and writers",
    files: ["test/fault/hammer.test.ts"],
    share: 2,
    settings: (seconds, seed) => ({
      REEMBED_HAMMER_ROWS: Math.max(1_000, Math.floor(seconds * 40)),
      REEMBED_HAMMER_SEED: seed,
    }),
  },
  {
    name: "kill",
    what: "SIGKILL of workers, one after another",
    files: ["test/fault/kill.test.ts"],
    share: 1.5,
    settings: (seconds, seed) => ({ REEMBED_KILLS: atLeastOne(seconds / 8), REEMBED_KILL_SEED: seed }),
  },
  {
    name: "killed-move",
    what: "SIGKILL of each command of a move",
    files: ["test/fault/killed-move.test.ts"],
    share: 1,
    settings: (seconds, seed) => ({
      REEMBED_MOVE_KILLS: atLeastOne(seconds / 25),
      REEMBED_MOVE_KILL_SEED: seed,
    }),
  },
];

export interface Planned {
  readonly attack: Attack;
  readonly seconds: number;
}

/** Shares the time out: to one attack, or to all by their shares. */
export function planAttacks(minutes: number, only?: string): Planned[] {
  const chosen = ATTACKS.filter(({ name }) => only === undefined || name === only);
  const shares = chosen.reduce((sum, { share }) => sum + share, 0);
  return chosen.map((attack) => ({
    attack,
    seconds: attack.share === 0 ? 0 : (minutes * 60 * attack.share) / shares,
  }));
}

/** The counts of the closing line that test/support/reporter.ts prints; undefined where the tests did not come that far. */
export function countsIn(output: string): { passed: number; failed: number } | undefined {
  const [, passed, failed] =
    /^(\d+) passed, (\d+) failed, \d+ skipped$/m.exec(output.trimEnd().split("\n").at(-1) ?? "") ?? [];
  return passed === undefined ? undefined : { passed: Number(passed), failed: Number(failed) };
}
