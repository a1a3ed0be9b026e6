/**
 * The hammer: a whole move under an application that never rests. Eight readers search as the function `search` does, four writers write, a worker
 * embeds their edits, and an observer asks in snapshot after snapshot whether law 2 holds; meanwhile a version is prepared, loaded, indexed, evaluated,
 * cut over to, rolled back, cut over to again, and the old one finalized: as an operator does it, with the command line.
 */
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, DatabaseError } from "pg";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { type Finished, type Running, runJson, startCli } from "./cli.ts";
import { Actors } from "./hammer/actors.ts";
import {
  cosine,
  type ReaderPorts,
  type Search,
  searchAnonymously,
  searchOwn,
  spaceOf,
} from "./hammer/readers.ts";
import { Switches } from "./hammer/switches.ts";
import {
  COLLECTION,
  COLUMNS,
  createTable,
  inputOf,
  loadVersion,
  MEMBERS,
  memberId,
  Notes,
  PREPARE,
  SPACES,
  WRITERS,
} from "./hammer/table.ts";
import { Writer } from "./hammer/writers.ts";
import { Random } from "./random.ts";

const READERS = 8;
/** Of the readers, those who are signed in. */
const SIGNED_IN = MEMBERS;
const READER_PAUSE_MS = 40;
const WRITER_PAUSE_MS = 120;
const OBSERVER_PAUSE_MS = 200;
const LOCK_NOT_AVAILABLE = "55P03";
const QUERIES_EVALUATED = 30;

export interface HammerOptions {
  /** The database, as the owner of what migrations make. */
  readonly url: string;
  readonly rows: number;
  readonly seed: number;
}

/** A switch that was held open until everybody had begun and ended another round beside it. */
export interface HeldSwitch {
  /** What its locks last at most: the statement and its commit, without the time for which they were held on purpose. */
  readonly locked_ms: number;
  /** From when it was sent until each reader had an answer that was asked for after it; without that time, too. */
  readonly followed_ms: number;
}

export interface Phase {
  readonly seconds: number;
  readonly searches: number;
  readonly search_p95_ms: number;
  readonly search_max_ms: number;
}

export interface HammerReport {
  readonly phases: Readonly<Record<string, Phase>>;
  readonly searches: number;
  readonly writes: number;
  readonly snapshots: number;
  readonly cutover: HeldSwitch;
  readonly rollback: HeldSwitch;
  /** How long the migration that finalizes held the table, its waiting included. */
  readonly finalize_ms: number;
  /** Failed searches and writes, answers that are wrong, what the worker complained of. Must be empty. */
  readonly faults: readonly string[];
  /** What law 2 found in snapshots. Must be empty. */
  readonly violations: readonly unknown[];
  /** By PostgreSQL's own count. Must be 0: no two writers touch one row. */
  readonly deadlocks: number;
  /** The kinds of the move's events, in order. */
  readonly events: readonly string[];
  /** Rows whose vector is not that of their text when all is worked off. Must be 0. */
  readonly wrong_vectors: number;
  /** Vector columns of the table at the end. */
  readonly columns: readonly string[];
}

/** Runs it to its end. Throws when a step of the move is refused. */
export async function runHammer(options: HammerOptions): Promise<HammerReport> {
  const hammer = new Hammer(options);
  try {
    return await hammer.run();
  } finally {
    await hammer.close();
  }
}

class Hammer {
  readonly #url: string;
  readonly #seed: number;
  readonly #notes: Notes;
  readonly #switches = new Switches(1);
  readonly #actors = new Actors();
  readonly #clients: Client[] = [];
  readonly #faults: string[] = [];
  readonly #violations: unknown[] = [];
  readonly #searches: (Search & { readonly reader: number; readonly phase: string })[] = [];
  readonly #phases = new Map<string, number>();
  #phase = { name: "before", began: performance.now() };
  #columns: readonly string[] = [COLUMNS[1] ?? ""];
  #writes = 0;
  #snapshots = 0;
  /** What the observer waits for before it looks again. */
  #altering: Promise<unknown> = Promise.resolve();
  #observing: Promise<void> = Promise.resolve();
  #worker: Running | undefined;
  #project: string | undefined;

  constructor({ url, rows, seed }: HammerOptions) {
    this.#url = url;
    this.#seed = seed;
    this.#notes = new Notes(rows, seed);
  }

  async run(): Promise<HammerReport> {
    const owner = await this.#connect();
    await this.#loadFirst(owner);
    await this.#startEverybody();

    await this.#enter("prepare");
    await this.#prepare(owner);
    this.#columns = Object.values(COLUMNS);
    await this.#enter("load and index");
    await this.#reembed("backfill", "--version", "2");
    await this.#enter("evaluate");
    await this.#evaluate(owner);
    await this.#enter("cutover");
    const cutover = await this.#held(owner, 2, "select reembed.cutover($1, 2)");
    await this.#enter("rollback");
    const rollback = await this.#held(owner, 1, "select reembed.rollback($1)");
    await this.#enter("cutover again");
    const done = this.#switches.begin(2);
    await this.#reembed("cutover", "--version", "2");
    done();
    await this.#enter("finalize");
    // An application stops naming the old column before it goes.
    this.#columns = [COLUMNS[2] ?? ""];
    await this.#actors.oneRound();
    const finalizeMs = await this.#finalize(owner);
    await this.#enter("afterwards");
    await this.#enter("end");

    await this.#actors.stop();
    await this.#untilWorkedOff(owner);
    await this.#stopWorker();
    return this.#report(owner, { cutover, rollback, finalize_ms: finalizeMs });
  }

  async close(): Promise<void> {
    await this.#actors.stop().catch(() => {});
    this.#worker?.child.kill("SIGKILL");
    await this.#worker?.finished;
    await Promise.all(this.#clients.map((client) => client.end().catch(() => {})));
    if (this.#project !== undefined) await rm(this.#project, { recursive: true, force: true });
  }

  // The application --------------------------------------------------------------------------------------------------------------

  async #loadFirst(owner: Client): Promise<void> {
    await createTable(owner, this.#notes);
    await loadVersion(this.#url, 1);
    await owner.query(`analyze public.${COLLECTION}`);
  }

  async #startEverybody(): Promise<void> {
    const onFault = (fault: string) => this.#faults.push(`${this.#phase.name}: ${fault}`);
    this.#worker = startCli(["work", "--interval", "0.1"], { DATABASE_URL: this.#url });
    await this.#worker.said("working");
    for (let reader = 0; reader < READERS; reader += 1) {
      const isSignedIn = reader < SIGNED_IN;
      const ports: ReaderPorts = {
        client: await this.#connect(
          isSignedIn
            ? { role: "authenticated", "request.jwt.claims": JSON.stringify({ sub: memberId(reader) }) }
            : { role: "anon" },
        ),
        notes: this.#notes,
        switches: this.#switches,
        random: new Random(this.#seed + reader),
        onSearch: (answered) => this.#searches.push({ ...answered, reader, phase: this.#phase.name }),
        onFault,
      };
      this.#actors.start(() => (isSignedIn ? searchOwn(ports) : searchAnonymously(ports)), READER_PAUSE_MS);
    }
    for (let writer = 0; writer < WRITERS; writer += 1) {
      const ports = {
        client: await this.#connect({ role: "service_role" }),
        random: new Random(this.#seed + 100 + writer),
        shelves: this.#notes.shelves,
        columns: () => this.#columns,
        onFault,
      };
      const actor = new Writer(ports, this.#notes.ofWriter(writer));
      this.#actors.start(async () => {
        await actor.write();
        this.#writes += 1;
      }, WRITER_PAUSE_MS);
    }
    const observer = await this.#connect();
    this.#actors.start(async () => {
      await this.#altering;
      this.#observing = this.#observe(observer);
      await this.#observing;
    }, OBSERVER_PAUSE_MS);
  }

  /** A connection with these settings, with the time limits that the API gives its callers. */
  async #connect(settings: Readonly<Record<string, string>> = {}): Promise<Client> {
    const client = new Client({ connectionString: this.#url });
    client.on("error", () => {});
    await client.connect();
    this.#clients.push(client);
    if (Object.keys(settings).length === 0) return client;
    for (const [name, value] of Object.entries({ statement_timeout: "8s", lock_timeout: "8s", ...settings }))
      await client.query("select set_config($1, $2, false)", [name, value]);
    return client;
  }

  async #observe(observer: Client): Promise<void> {
    const { rows } = await observer.query("select * from reembed.violations()");
    this.#violations.push(...rows);
    this.#snapshots += 1;
  }

  // The move ------------------------------------------------------------------------------------------------------------------------

  /** Ends a phase when everybody has gone another round in it, and begins the next. */
  async #enter(name: string): Promise<void> {
    await this.#actors.oneRound();
    this.#phases.set(this.#phase.name, (performance.now() - this.#phase.began) / 1000);
    this.#phase = { name, began: performance.now() };
  }

  async #prepare(owner: Client): Promise<void> {
    for (;;) {
      try {
        return await this.#apply(owner, PREPARE);
      } catch (error) {
        if (!(error instanceof DatabaseError && error.code === LOCK_NOT_AVAILABLE)) throw error;
      }
    }
  }

  /** As a migration is applied: in one transaction. */
  async #apply(owner: Client, sql: string): Promise<void> {
    await owner.query("begin");
    try {
      await owner.query(sql);
      await owner.query("commit");
    } catch (error) {
      await owner.query("rollback");
      throw error;
    }
  }

  /**
   * Evaluates; and while its index finds too little of these texts, which are noise and as hard for an index as texts get, has the version search farther and
   * evaluates again, as the gate says.
   */
  async #evaluate(owner: Client): Promise<void> {
    for (let efSearch = 100; ; efSearch *= 2) {
      await this.#reembed("evaluate", "--limit", String(QUERIES_EVALUATED));
      const { rows } = await owner.query<{ passes: boolean }>(
        "select (g ->> 'passes')::boolean as passes from jsonb_array_elements(reembed.gates($1, 2)) g where g ->> 'gate' = 'index_recall'",
        [COLLECTION],
      );
      if (rows[0]?.passes || efSearch >= 1000) return;
      await owner.query("select reembed.set_ef_search($1, 2, $2)", [
        COLLECTION,
        Math.min(1000, 2 * efSearch),
      ]);
    }
  }

  async #reembed(command: string, ...args: string[]): Promise<Record<string, unknown>> {
    const { code, answer, stderr } = await runJson([command, "--collection", COLLECTION, ...args], {
      DATABASE_URL: this.#url,
    });
    if (code !== 0) throw new Error(`${command} ended with ${code}: ${JSON.stringify(answer)}\n${stderr}`);
    return answer;
  }

  /**
   * Switches, and holds the switch open, with all its locks, until everybody has begun and ended another round beside it: it makes nobody wait,
   * however long it takes.
   */
  async #held(owner: Client, to: number, sql: string): Promise<HeldSwitch> {
    const began = performance.now();
    await owner.query("begin");
    await owner.query(sql, [COLLECTION]);
    const stated = performance.now();
    await this.#actors.oneRound();
    const done = this.#switches.begin(to);
    const sent = performance.now();
    await owner.query("commit");
    const committed = done();
    await this.#actors.oneRound();
    const locked = stated - began + committed - sent;
    const since = this.#searches.filter(({ began: asked }) => asked >= committed);
    const firsts = Array.from(
      { length: READERS },
      (_, reader) => since.find((search) => search.reader === reader)?.ended ?? Number.NaN,
    );
    const followed = Math.max(...firsts) - committed;
    return { locked_ms: round(locked), followed_ms: round(locked + followed) };
  }

  /** Writes the migration, then applies it. Returns how long that took. */
  async #finalize(owner: Client): Promise<number> {
    this.#project = await mkdtemp(join(tmpdir(), "reembed-hammer-"));
    await mkdir(join(this.#project, "supabase", "migrations"), { recursive: true });
    const { migration } = await this.#reembed("finalize", "--project", this.#project);
    const sql = await readFile(join(this.#project, String(migration)), "utf8");
    // The observer looks away: its snapshot of before would ask for a column that is gone.
    const altered = this.#observing.then(() => {
      const began = performance.now();
      return this.#apply(owner, sql).then(() => performance.now() - began);
    });
    this.#altering = altered;
    return round(await altered);
  }

  // The end ---------------------------------------------------------------------------------------------------------------------------

  async #untilWorkedOff(owner: Client): Promise<void> {
    for (;;) {
      const { rows } = await owner.query("select from reembed.jobs where failed_at is null limit 1");
      if (rows.length === 0) return;
      await this.#observe(owner);
    }
  }

  async #stopWorker(): Promise<void> {
    const worker = this.#worker;
    if (worker === undefined) return;
    worker.child.kill("SIGTERM");
    const { code, stderr }: Finished = await worker.finished;
    if (code !== 0) this.#faults.push(`the worker ended with ${code}: ${stderr}`);
  }

  async #report(
    owner: Client,
    figures: Pick<HammerReport, "cutover" | "rollback" | "finalize_ms">,
  ): Promise<HammerReport> {
    await this.#observe(owner);
    const events = await owner.query<{ kind: string; version: number }>(
      "select kind, version from reembed.events where collection = $1 and not (kind in ('add', 'load', 'indexing', 'ready') and version = 1) order by id",
      [COLLECTION],
    );
    const { rows: columns } = await owner.query<{ name: string }>(
      `select attname as name from pg_attribute where attrelid = $1::regclass and atttypid = 'extensions.vector'::regtype and not attisdropped`,
      [`public.${COLLECTION}`],
    );
    const { rows: counted } = await owner.query<{ deadlocks: number }>(
      "select deadlocks::int from pg_stat_database where datname = current_database()",
    );
    return {
      ...figures,
      phases: Object.fromEntries(
        [...this.#phases].flatMap(([name, seconds]) =>
          name === "before" ? [] : [[name, this.#phaseOf(name, seconds)]],
        ),
      ),
      searches: this.#searches.length,
      writes: this.#writes,
      snapshots: this.#snapshots,
      faults: this.#faults,
      violations: this.#violations,
      deadlocks: counted[0]?.deadlocks ?? Number.NaN,
      events: events.rows.map(({ kind, version }) => `${kind} v${version}`),
      wrong_vectors: await this.#wrongVectors(owner),
      columns: columns.map(({ name }) => name),
    };
  }

  #phaseOf(phase: string, seconds: number): Phase {
    const times = this.#searches
      .filter((search) => search.phase === phase)
      .map(({ began, ended }) => ended - began)
      .sort((a, b) => a - b);
    return {
      seconds: round(seconds),
      searches: times.length,
      search_p95_ms: round(times[Math.ceil(times.length * 0.95) - 1] ?? 0),
      search_max_ms: round(times.at(-1) ?? 0),
    };
  }

  /** Law 1, told by computing every vector anew. */
  async #wrongVectors(owner: Client): Promise<number> {
    const embedder = createEmbedder(spaceOf(SPACES[2] ?? ""), {});
    let wrong = 0;
    let after = "00000000-0000-0000-0000-000000000000";
    for (;;) {
      const { rows } = await owner.query<{ id: string; title: string; body: string; vector: string | null }>(
        `select id, title, body, ${COLUMNS[2]}::text as vector from public.${COLLECTION} where id > $1 order by id limit 1000`,
        [after],
      );
      const last = rows.at(-1);
      if (last === undefined) return wrong;
      after = last.id;
      const { vectors } = await embedder.embed(rows.map(inputOf), { purpose: "document" });
      wrong += rows.filter(({ vector }, index) => {
        const stored: number[] = vector === null ? [] : JSON.parse(vector);
        return !(cosine(vectors[index] ?? [], stored) > 1 - 1e-5);
      }).length;
    }
  }
}

const round = (value: number): number => Math.round(value * 100) / 100;
