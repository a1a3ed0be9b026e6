/**
 * Everything at once against one database: applications write to three collections; workers of three kinds embed them at a provider that fails in every way it
 * can, and are killed; leases run out early, the clock jumps, a version is loaded, switched to and back under searches. All the while an observer asks for
 * the laws, and in the end the ledger is compared with what the provider has billed.
 */
import type { Client } from "pg";
import { z } from "zod";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import {
  createCollection,
  jobs,
  load,
  mismatches,
  PLACEMENTS,
  type TestCollection,
  violations,
} from "./collection.ts";
import { startEditingApp } from "./editing-app.ts";
import { type FakeOpenAI, type FaultRule, startFakeOpenAI } from "./fake-openai.ts";
import { Actors } from "./hammer/actors.ts";
import { forgiveFailures, type MixReport, runMix } from "./mix.ts";
import { purchasesOf, readLedger, wrongVectors } from "./paid.ts";
import { Random } from "./random.ts";
import { Sessions } from "./sessions.ts";
import { type Clock, installClock } from "./together/clock.ts";
import { createOddCollection, ODD, type OddCollection } from "./together/odd-collection.ts";
import { startCliVictim, startEdgeVictim, type Victim } from "./victims.ts";
import { workOff } from "./worker.ts";

const COURSE = "course_content";
const COURSE_DIMENSIONS = 128;
const COURSE_SPACE = `openai/text-embedding-3-small@${COURSE_DIMENSIONS}`;
const ROWS = 150;
/** As each connection of a worker calls itself, so that it can be told from the application's. */
const WORKER = "attacked-worker";
/** A request that is never answered is given up after so long. */
const PROVIDER_TIMEOUT_MS = 1_000;
/** From so many seconds on the workers include the edge function, whose Deno takes its time to start. */
const SECONDS_FOR_EDGE = 60;
/** What a worker may meet when its backend is killed, its lock is held, or its provider fails. */
const PASSING = new Set(["database_unavailable", "database_timeout", "busy"]);
const DAY = 86_400;

export interface TogetherOptions {
  /** The database, as the owner of what migrations make. */
  readonly url: string;
  readonly seed: number;
  readonly seconds: number;
}

export interface TogetherReport {
  readonly mix: Omit<MixReport, "breaches" | "faults">;
  readonly searches: number;
  readonly kills: number;
  readonly backends_ended: number;
  readonly leases_ended: number;
  readonly clock_jumps: number;
  readonly switches: number;
  readonly requests: number;
  readonly requests_that_failed: number;
  readonly texts_bought: number;
  readonly bought_again: number;
  /** What the laws do not allow, each in words. Must be empty. */
  readonly faults: readonly string[];
}

/** Runs it to its end, works off what is left, and asks for everything that must hold then. */
export async function runTogether(options: TogetherOptions): Promise<TogetherReport> {
  const openai = await startFakeOpenAI();
  const sessions = new Sessions(options.url);
  const attack = new Together(options, openai, sessions);
  try {
    return await attack.run();
  } finally {
    await attack.close();
    await sessions.close();
    await openai.close();
  }
}

class Together {
  readonly #options: TogetherOptions;
  readonly #openai: FakeOpenAI;
  readonly #sessions: Sessions;
  readonly #actors = new Actors();
  readonly #faults: string[] = [];
  readonly #counts = {
    searches: 0,
    kills: 0,
    backends_ended: 0,
    leases_ended: 0,
    clock_jumps: 0,
    switches: 0,
  };
  #victims: Victim[] = [];

  constructor(options: TogetherOptions, openai: FakeOpenAI, sessions: Sessions) {
    this.#options = options;
    this.#openai = openai;
    this.#sessions = sessions;
  }

  async run(): Promise<TogetherReport> {
    const { seed, seconds } = this.#options;
    const owner = await this.#connect();
    const clock = await installClock(owner);
    const odd = await this.#prepare(owner);
    const placement = PLACEMENTS[seed % PLACEMENTS.length] ?? "in place";
    const mixed = await createCollection(owner, "mixed", placement);

    this.#openai.faults.add(...faultsOf(seed));
    const apps = [
      await startEditingApp(await this.#connect(), new Random(seed + 1), ROWS),
      await startEditingApp(await this.#connect(), new Random(seed + 2), ROWS, {
        table: odd.table,
        subject: "the odd one",
      }),
    ];
    await this.#startWorkers(seed + 3);
    await this.#startReaders(seed + 4);
    await this.#startBreaker(seed + 5, clock);
    await this.#startOperator(seed + 6, odd);
    // The mix's own time is the time of all.
    const mix = await runMix(this.#sessions, mixed, { seed, seconds, placement, apps: 3, workers: 2 });
    this.#faults.push(...mix.faults, ...mix.breaches.map((breach) => `a breach: ${JSON.stringify(breach)}`));
    await this.#actors.stop();
    await Promise.all(apps.map((app) => app.stop()));
    await this.close();

    await this.#finish(owner, clock, mixed);
    return this.#report(owner, mix, mixed, odd);
  }

  async close(): Promise<void> {
    await this.#actors.stop().catch(() => {});
    for (const victim of this.#victims.splice(0)) {
      await victim.kill().catch(() => {});
      await victim.close();
    }
  }

  async #connect(): Promise<Client> {
    return (await this.#sessions.open()).client;
  }

  async #prepare(owner: Client): Promise<OddCollection> {
    await owner.query("select reembed.add_space('openai', 'text-embedding-3-small', $1, 0.02, 0.25)", [
      COURSE_DIMENSIONS,
    ]);
    // As many dimensions as one can afford here; the index is another test's business.
    await owner.query(`drop index public.course_content_embedding_hnsw`);
    await owner.query(
      `alter table public.course_content alter column embedding type extensions.vector(${COURSE_DIMENSIONS})`,
    );
    await owner.query("select reembed.set_space($1, 1, $2)", [COURSE, COURSE_SPACE]);
    return createOddCollection(owner);
  }

  // Those who work -------------------------------------------------------------------------------------------------------------------

  get #workerUrl(): string {
    const url = new URL(this.#options.url);
    url.searchParams.set("application_name", WORKER);
    return url.href;
  }

  async #startWorkers(seed: number): Promise<void> {
    const { seconds } = this.#options;
    for (const [at, collection] of [COURSE, ODD, ODD].entries()) {
      const random = new Random(seed + at);
      this.#actors.start(() => this.#slice(collection, random), 20);
    }
    await this.#replaceVictim(startCliVictim(["work", "--interval", "0.1"], this.#workerUrl, this.#openai));
    // Its backends are left alone: they are the local stack's, whose driver does not always survive the end of one.
    if (seconds >= SECONDS_FOR_EDGE)
      await this.#replaceVictim(startEdgeVictim(this.#options.url, this.#openai));
  }

  async #replaceVictim(victim: Victim | Promise<Victim>): Promise<void> {
    this.#victims.push(await victim);
  }

  /** A slice of a worker in this process, with a connection of its own. */
  async #slice(collection: string, random: Random): Promise<void> {
    const { apiKey, url: baseURL } = this.#openai;
    const openai = { apiKey, baseURL, timeoutMs: PROVIDER_TIMEOUT_MS };
    try {
      const db = await openDatabase(this.#workerUrl, 2);
      try {
        await work(db, (space) => createEmbedder(space, { openai }), {
          collection,
          batch: random.between(1, 30),
          lanes: random.between(1, 2),
          leaseSeconds: random.between(1, 60),
          budgetMs: 1_000,
        });
      } finally {
        await db.close();
      }
    } catch (error) {
      if (!(error instanceof ReembedError && PASSING.has(error.code)))
        this.#faults.push(
          `a worker: ${error instanceof ReembedError ? `${error.code}: ${error.message}` : error}`,
        );
    }
  }

  /** They follow the route, as a client that embeds for itself does: no search may fail, whatever else goes on. */
  async #startReaders(seed: number): Promise<void> {
    const Route = z.object({ function: z.string(), space: z.string(), dimensions: z.number() });
    for (const [at, collection] of [COURSE, ODD].entries()) {
      const reader = await this.#connect();
      const random = new Random(seed + at);
      await reader.query("set role anon");
      this.#actors.start(async () => {
        try {
          const { rows } = await reader.query(
            "select public.embedding_route($1, caller_bucket => $2) as route",
            [collection, random.between(0, 99)],
          );
          const to = Route.parse(rows[0]?.route);
          const vector = Array.from({ length: to.dimensions }, () => random.next() - 0.5);
          await reader.query(
            `select * from public.${to.function}($1, match_threshold => null, match_count => $2, query_space => $3)`,
            [JSON.stringify(vector), random.between(1, 20), to.space],
          );
          this.#counts.searches += 1;
        } catch (error) {
          this.#faults.push(`a search of ${collection}: ${error}`);
        }
      }, 50);
    }
  }

  // Those who break --------------------------------------------------------------------------------------------------------------------

  async #startBreaker(seed: number, clock: Clock): Promise<void> {
    const breaker = await this.#connect();
    const random = new Random(seed);
    // Each at least once, however short the run.
    const first = ["leases", "kill", "backend", "forward", "back"] as const;
    let at = 0;
    this.#actors.start(async () => {
      switch (first[at++] ?? random.weighted({ kill: 1, backend: 3, leases: 4, forward: 2, back: 2 })) {
        case "kill":
          return this.#killOne(random);
        case "backend": {
          const { rows } = await breaker.query(
            `select pg_terminate_backend(pid) from pg_stat_activity
              where datname = current_database() and application_name = $1 order by md5(pid::text || $2::text) limit 1`,
            [WORKER, random.between(0, 1_000_000)],
          );
          this.#counts.backends_ended += rows.length;
          return;
        }
        case "leases": {
          const { rowCount } = await breaker.query(
            `with late as (select j.version_id, j.row_id from reembed.jobs j where j.lease_token is not null
                            order by md5(j.row_id || $1::text) limit 20 for update skip locked)
             update reembed.jobs j set lease_until = '-infinity', run_at = '-infinity' from late where (j.version_id, j.row_id) = (late.version_id, late.row_id)`,
            [random.between(0, 1_000_000)],
          );
          this.#counts.leases_ended += rowCount ?? 0;
          return;
        }
        case "forward":
          this.#counts.clock_jumps += 1;
          return clock.jump(random.pick([1, 60, 600, 4_000, DAY]));
        case "back":
          // As far as a clock that is set right goes back: what is due later than it was is waited for that much longer.
          this.#counts.clock_jumps += 1;
          return clock.jump(-random.between(1, 3));
      }
    }, 400);
  }

  async #killOne(random: Random): Promise<void> {
    const victim = random.pick(this.#victims);
    this.#victims = this.#victims.filter((one) => one !== victim);
    await victim.kill().catch((error) => this.#faults.push(`${error}`));
    this.#counts.kills += 1;
    if (victim.slice === undefined) {
      await this.#replaceVictim(startCliVictim(["work", "--interval", "0.1"], this.#workerUrl, this.#openai));
      return;
    }
    await victim.close();
    await this.#replaceVictim(startEdgeVictim(this.#options.url, this.#openai));
  }

  /** Resumes what a provider's refusal has paused, tries again what has failed, and moves a collection to and fro. */
  async #startOperator(seed: number, odd: OddCollection): Promise<void> {
    const operator = await this.#connect();
    const random = new Random(seed);
    let isLoaded = false;
    this.#actors.start(async () => {
      try {
        await operator.query(
          "select reembed.resume_space(s.id) from reembed.spaces s where s.paused_until is not null",
        );
        await operator.query("select reembed.retry()");
        if (!isLoaded) {
          await load(operator, odd, 2);
          isLoaded = true;
        }
        await operator.query("select reembed.advance($1, n) from generate_series(1, 2) n", [ODD]);
        const isFirst = this.#counts.switches === 0;
        switch (isFirst ? "cutover" : random.weighted({ cutover: 2, rollback: 2, share: 1, reconcile: 1 })) {
          case "cutover":
            await operator.query("select reembed.cutover($1, 2, reason => 'an attack', force => true)", [
              ODD,
            ]);
            this.#counts.switches += 1;
            return;
          case "rollback":
            await operator.query("select reembed.rollback($1)", [ODD]);
            this.#counts.switches += 1;
            return;
          case "share":
            await operator.query("select reembed.set_traffic($1, 2, $2)", [ODD, random.between(0, 100)]);
            return;
          case "reconcile":
            await operator.query("select reembed.reconcile()");
        }
      } catch (error) {
        // A step that is not allowed now, or a table that others hold.
        const code = error instanceof Error && "code" in error ? error.code : undefined;
        if (code !== "RE007" && code !== "RE009" && code !== "55P03")
          this.#faults.push(`the operator: ${error}`);
      }
    }, 300);
  }

  // The end ------------------------------------------------------------------------------------------------------------------------------

  /** No more faults, and time passes until everything is due: works off what is left. */
  async #finish(owner: Client, clock: Clock, mixed: TestCollection): Promise<void> {
    this.#openai.faults.clear();
    const random = new Random(this.#options.seed);
    for (let slices = 0; ; slices += 1) {
      await clock.jump(8 * DAY);
      await owner.query(
        "select reembed.resume_space(s.id) from reembed.spaces s where s.paused_until is not null",
      );
      await owner.query("select reembed.retry()");
      await Promise.all([COURSE, ODD].map((collection) => this.#slice(collection, random)));
      const { rows } = await owner.query(
        "select from reembed.jobs j join reembed.versions v on v.id = j.version_id where v.space_id like 'openai/%' limit 1",
      );
      if (rows.length === 0) break;
      if (slices === 200) {
        this.#faults.push("not worked off after 200 slices");
        return;
      }
    }
    await forgiveFailures(owner, mixed);
    await workOff(owner, { collection: mixed.name });
    await owner.query("select reembed.reconcile()");
  }

  async #report(
    owner: Client,
    { breaches: _breaches, faults: _faults, ...mix }: MixReport,
    mixed: TestCollection,
    odd: OddCollection,
  ): Promise<TogetherReport> {
    const wrong: [what: string, rows: readonly unknown[]][] = [
      ["violations", await violations(owner)],
      [`vectors of ${COURSE} that are not their text's`, await wrongVectors(owner, COURSE_DIMENSIONS)],
    ];
    for (const version of odd.versions) {
      wrong.push([
        `vectors of ${ODD} v${version.number} that are not their text's`,
        await wrongVectors(owner, version.dimensions, { model: version.model, rows: odd.rowsOf(version) }),
      ]);
    }
    for (const { number, id } of mixed.versions) {
      wrong.push([
        `vectors of ${mixed.name} v${number} that are not their text's`,
        await mismatches(owner, mixed, number),
      ]);
      wrong.push([`jobs of ${mixed.name} v${number} that are left`, await jobs(owner, id)]);
    }
    for (const [what, rows] of wrong)
      if (rows.length > 0) this.#faults.push(`${rows.length} ${what}, such as ${JSON.stringify(rows[0])}`);
    const bought = await this.#audit(owner);
    await this.#countDeadlocks(mix.appDeadlocks);
    return { mix, ...this.#counts, ...bought, faults: this.#faults };
  }

  /** Law 5 and law 9: what was billed is in the ledger, and what was bought again is there as lost or as stale. */
  async #audit(owner: Client) {
    const { log, tokensBilled } = this.#openai.stats();
    const { settled, lost, open, stale, lost_inputs } = await readLedger(owner, "openai");
    const delivered = log.filter((entry) => entry.delivered).reduce((sum, entry) => sum + entry.billed, 0);
    const models = Map.groupBy(log, ({ model }) => model);
    const purchases = [...models.values()].flatMap((requests) => [...purchasesOf(requests).values()]);
    const again = purchases.reduce((sum, { times }) => sum + times - 1, 0);
    if (settled > delivered)
      this.#faults.push(`${settled} tokens are settled, and ${delivered} were delivered`);
    if (settled + lost < tokensBilled)
      this.#faults.push(
        `${tokensBilled} tokens were billed, and the ledger has ${settled} settled and ${lost} lost`,
      );
    if (again > lost_inputs + stale)
      this.#faults.push(
        `${again} texts were bought again, and the ledger has ${lost_inputs} lost and ${stale} stale`,
      );
    if (open > 0) this.#faults.push(`${open} reservations are still open`);
    return {
      requests: log.length,
      requests_that_failed: log.filter(
        ({ fault, status }) =>
          (fault !== undefined && fault !== "latency" && fault !== "shuffled") || status !== 200,
      ).length,
      texts_bought: purchases.length,
      bought_again: again,
    };
  }

  /** By PostgreSQL's own count, which knows of none but those that the mix's applications have had among themselves. */
  async #countDeadlocks(ofApps: number): Promise<void> {
    await this.#sessions.close();
    const owner = await this.#connect();
    const { rows } = await owner.query<{ deadlocks: number }>(
      "select deadlocks::int from pg_stat_database where datname = current_database()",
    );
    const deadlocks = rows[0]?.deadlocks ?? Number.NaN;
    if (deadlocks !== ofApps)
      this.#faults.push(`${deadlocks} deadlocks, of which ${ofApps} were the application's own`);
  }
}

/** Everything that an answer may be, each now and then. A text of each kind of trouble is refused always. */
function faultsOf(seed: number): FaultRule[] {
  const now: [FaultRule["fault"], number][] = [
    [{ kind: "rate_limit", retryAfterSeconds: 0 }, 0.03],
    [{ kind: "server_error" }, 0.03],
    [{ kind: "server_error", status: 502 }, 0.02],
    [{ kind: "cut", when: "before_answer" }, 0.03],
    [{ kind: "cut", when: "in_answer" }, 0.03],
    [{ kind: "never" }, 0.01],
    [{ kind: "half_json" }, 0.02],
    [{ kind: "shuffled" }, 0.05],
    [{ kind: "missing_vector" }, 0.02],
    [{ kind: "duplicate_index" }, 0.02],
    [{ kind: "wrong_width" }, 0.02],
    [{ kind: "nan" }, 0.02],
    [{ kind: "zero_vector" }, 0.02],
    [{ kind: "insufficient_quota" }, 0.01],
  ];
  return [
    { fault: { kind: "latency", ms: 20 }, times: "always" },
    // One text in ten is poison: it fails alone, whatever it is sent with.
    { fault: { kind: "bad_request" }, match: "topic 7", times: "always" },
    ...now.map(([fault, probability], at): FaultRule => ({ fault, probability, seed: seed + at })),
  ];
}
