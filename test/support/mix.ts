/**
 * The concurrent mix: an app that does everything an app may do, workers that do everything a worker may do (late, twice, never), and a
 * version that becomes maintained in the middle; while an observer asks, snapshot after snapshot, whether the laws hold.
 */
import type { Client } from "pg";
import { DatabaseError } from "pg";
import {
  load,
  type Placement,
  type TestCollection,
  type TestVersion,
  vectorOf,
  versionOf,
  violations,
} from "./collection.ts";
import { Random } from "./random.ts";
import type { Session, Sessions } from "./sessions.ts";
import { type Claim, claim, complete, copy, fail, type Outcomes, release } from "./worker.ts";

const APPS = 7;
const WORKERS = 4;
/** Few enough that everybody meets everybody, many enough that the app seldom deadlocks with itself: each of those costs a second. */
const KEYS = Array.from({ length: 400 }, (_, n) => `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`);
const TEXTS = Array.from({ length: 25 }, (_, n) => `text ${n}`);
const SERIALIZATION_FAILURE = "40001";
const DEADLOCK = "40P01";
const LOCK_NOT_AVAILABLE = "55P03";
const TABLE_STAYED_LOCKED = "RE009";
/** A key that is taken, or a vector whose row is gone: the app's own mistakes. */
const APP_MISTAKES = new Set(["23505", "23503"]);

export interface MixOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly placement: Placement;
  /** How many connections write (7), and how many claim and complete (4). */
  readonly apps?: number;
  readonly workers?: number;
}

export interface MixReport {
  readonly committed: number;
  readonly retried: number;
  readonly appDeadlocks: number;
  readonly claims: number;
  /** `copied` of those done. */
  readonly outcomes: Record<keyof Outcomes | "copied", number>;
  readonly snapshots: number;
  /** Each breach of law 1 or 2 that a snapshot showed. Must be empty. */
  readonly breaches: unknown[];
  /** Each deadlock in which anybody but the app's own connections took part, and each error that a worker met. Must be empty. */
  readonly faults: string[];
}

/** Runs the mix for so many seconds and returns when all actors have stopped; what is queued is left to the caller. */
export async function runMix(
  sessions: Sessions,
  collection: TestCollection,
  options: MixOptions,
): Promise<MixReport> {
  const mix = new Mix(collection, options);
  const openAll = (count: number) => Promise.all(Array.from({ length: count }, () => sessions.open()));
  const [apps, workers, [keeper, observer]] = await Promise.all([
    openAll(options.apps ?? APPS),
    openAll(options.workers ?? WORKERS),
    openAll(2),
  ]);
  if (keeper === undefined || observer === undefined) throw new Error("no connection");
  mix.noteApps(apps);
  await Promise.all([
    ...apps.map((session, n) => mix.app(session.client, new Random(options.seed + n))),
    ...workers.map((session, n) => mix.worker(session.client, new Random(options.seed + 100 + n))),
    mix.keeper(keeper.client),
    mix.observer(observer.client),
  ]);
  return mix.report();
}

class Mix {
  readonly #collection: TestCollection;
  readonly #startedAt = Date.now();
  readonly #milliseconds: number;
  readonly #appPids = new Set<string>();
  readonly #breaches: unknown[] = [];
  readonly #faults: string[] = [];
  readonly #outcomes = { done: 0, stale: 0, lost_lease: 0, gone: 0, busy: 0, refused: 0, copied: 0 };
  #committed = 0;
  #retried = 0;
  #appDeadlocks = 0;
  #claims = 0;
  #snapshots = 0;

  constructor(collection: TestCollection, options: MixOptions) {
    this.#collection = collection;
    this.#milliseconds = options.seconds * 1000;
  }

  report(): MixReport {
    return {
      committed: this.#committed,
      retried: this.#retried,
      appDeadlocks: this.#appDeadlocks,
      claims: this.#claims,
      outcomes: this.#outcomes,
      snapshots: this.#snapshots,
      breaches: this.#breaches,
      faults: this.#faults,
    };
  }

  noteApps(sessions: readonly Session[]): void {
    for (const { pid } of sessions) this.#appPids.add(String(pid));
  }

  /** The share of the time that has passed; a breach ends the run, so that what led to it can still be seen. */
  get #passed(): number {
    return this.#breaches.length + this.#faults.length > 0
      ? 1
      : (Date.now() - this.#startedAt) / this.#milliseconds;
  }

  // The app ------------------------------------------------------------------------------------------------------------------------

  async app(client: Client, random: Random): Promise<void> {
    while (this.#passed < 1) {
      const isolation = random.chance(0.3) ? "repeatable read" : "read committed";
      const statements = Array.from({ length: random.between(1, 4) }, () => this.#statement(random));
      const ending = random.chance(0.1) ? "rollback" : "commit";
      await this.#transact(client, isolation, statements, ending);
    }
  }

  async #transact(
    client: Client,
    isolation: string,
    statements: readonly { sql: string; values: unknown[] }[],
    ending: string,
  ): Promise<void> {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        await client.query(`begin isolation level ${isolation}`);
        for (const { sql, values } of statements) await client.query(sql, values);
        await client.query(ending);
        this.#committed++;
        return;
      } catch (error) {
        await client.query("rollback");
        if (!(error instanceof DatabaseError)) throw error;
        if (error.code === DEADLOCK) this.#noteDeadlock("the app", error);
        else if (error.code === SERIALIZATION_FAILURE) this.#retried++;
        else if (APP_MISTAKES.has(error.code ?? "")) return;
        else {
          this.#faults.push(`the app: ${error.code} ${error.message}`);
          return;
        }
      }
    }
  }

  #statement(random: Random): { sql: string; values: unknown[] } {
    const { table } = this.#collection;
    const version = random.pick(this.#collection.versions);
    const keys = Array.from({ length: random.between(1, 3) }, () => random.pick(KEYS));
    const text = random.pick(TEXTS);
    switch (
      random.weighted({
        insert: 3,
        upsert: 3,
        edit: 4,
        editSeveral: 2,
        plain: 1,
        lock: 1,
        delete: 2,
        rekey: 2,
        vector: 2,
        truncate: 0.02,
      })
    ) {
      case "insert":
        return {
          sql: `insert into ${table} (id, title) select unnest($1::uuid[]), $2 on conflict do nothing`,
          values: [keys, text],
        };
      case "upsert":
        return this.#upsert(version, [...new Set(keys)], text);
      case "edit":
        return { sql: `update ${table} set title = $2 where id = $1`, values: [keys[0], text] };
      case "editSeveral":
        return { sql: `update ${table} set title = $2, body = $2 where id = any ($1)`, values: [keys, text] };
      case "plain":
        return { sql: `update ${table} set note = $2 where id = any ($1)`, values: [keys, text] };
      case "lock":
        return { sql: `select from ${table} where id = any ($1) for update`, values: [keys] };
      case "delete":
        return { sql: `delete from ${table} where id = any ($1)`, values: [keys] };
      case "rekey":
        return {
          sql: `update ${table} set id = $2 where id = $1 and not exists (select from ${table} where id = $2)`,
          values: [keys[0], random.pick(KEYS)],
        };
      case "vector":
        return this.#handWrittenVector(version, keys[0], random);
      case "truncate":
        return { sql: `truncate ${table} cascade`, values: [] };
    }
  }

  /** As an API client sends whole rows back: with the vector null where it stands in the row. */
  #upsert(version: TestVersion, keys: readonly string[], text: string): { sql: string; values: unknown[] } {
    const { table, placement } = this.#collection;
    const column = placement === "in place" ? version.vectorColumn : "note";
    return {
      sql: `insert into ${table} (id, title, ${column}) select unnest($1::uuid[]), $2, null
            on conflict (id) do update set title = excluded.title, ${column} = excluded.${column}`,
      values: [keys, text],
    };
  }

  #handWrittenVector(version: TestVersion, key: unknown, random: Random): { sql: string; values: unknown[] } {
    const { vectorTable, vectorColumn } = version;
    const vector = vectorOf(random.pick(["00", "7f", "ff"]).repeat(32));
    if (this.#collection.placement === "in place") {
      return { sql: `update ${vectorTable} set ${vectorColumn} = $2 where id = $1`, values: [key, vector] };
    }
    return random.chance(0.3)
      ? { sql: `delete from ${vectorTable} where id = $1`, values: [key] }
      : {
          sql: `insert into ${vectorTable} (id, ${vectorColumn}) values ($1, $2)
                on conflict (id) do update set ${vectorColumn} = excluded.${vectorColumn}`,
          values: [key, vector],
        };
  }

  #noteDeadlock(who: string, error: DatabaseError): void {
    const pids = (error.detail ?? "").match(/(?<=[Pp]rocess )\d+/g) ?? [];
    if (pids.length > 0 && pids.every((pid) => this.#appPids.has(pid))) this.#appDeadlocks++;
    else this.#faults.push(`deadlock met by ${who}: ${error.detail}`);
  }

  // The workers --------------------------------------------------------------------------------------------------------------------

  async worker(client: Client, random: Random): Promise<void> {
    const late: Claim[] = [];
    try {
      while (this.#passed < 1) {
        if (random.chance(0.1)) await this.#backdateLeases(client);
        const lease = await claim(client, {
          collection: this.#collection.name,
          maxRows: random.between(1, 20),
          leaseSeconds: random.between(1, 60),
        });
        this.#claims++;
        if (lease.reason === "work") await this.#dealWith(client, lease, late, random);
        const overdue = random.chance(0.5) ? late.shift() : undefined;
        if (overdue !== undefined) await this.#complete(client, overdue);
      }
      for (const lease of late) await this.#complete(client, lease);
    } catch (error) {
      this.#faults.push(`a worker: ${describe(error)}`);
    }
  }

  async #dealWith(client: Client, lease: Claim, late: Claim[], random: Random): Promise<void> {
    switch (random.weighted({ complete: 60, late: 20, abandon: 8, release: 6, fail: 6 })) {
      case "complete":
        return this.#complete(client, lease);
      case "late":
        late.push(lease);
        return;
      case "release":
        await release(client, lease);
        return;
      case "fail":
        await fail(client, lease, "the provider said no", random.chance(0.5) ? 0 : null);
        return;
      case "abandon":
        return;
    }
  }

  async #complete(client: Client, lease: Claim): Promise<void> {
    const outcomes = await complete(client, lease);
    this.#count(outcomes);
    for (const job of lease.jobs.filter(({ row_id }) => outcomes.busy.includes(row_id))) {
      this.#count(await complete(client, lease, { jobs: [job], wait: true }));
    }
    if (!lease.copies?.length) return;
    const copied = await copy(client, lease);
    this.#count(copied);
    this.#outcomes.copied += copied.done;
    for (const job of lease.copies.filter(({ row_id }) => copied.busy.includes(row_id))) {
      this.#count(await copy(client, lease, { copies: [job], wait: true }));
    }
    // Whose donor is gone is bought by another claim.
    await release(client, lease);
  }

  #count(outcomes: Outcomes): void {
    this.#outcomes.done += outcomes.done;
    for (const key of ["stale", "lost_lease", "gone", "busy", "refused"] as const)
      this.#outcomes[key] += outcomes[key].length;
  }

  /** Some leases run out early, some retries and duplicates are due at once. It waits for nobody, as no worker may. */
  async #backdateLeases(client: Client): Promise<void> {
    await client.query(
      `update reembed.jobs j set lease_until = now() - interval '1 second', run_at = now() - interval '1 second'
         from (select version_id, row_id from reembed.jobs where run_at > now() order by random() limit 15 for update skip locked) late
        where (j.version_id, j.row_id) = (late.version_id, late.row_id)`,
    );
  }

  // The lifecycle and the observer -----------------------------------------------------------------------------------------------------

  /** Reconciles now and then; a third of the way in, makes version 2 maintained. */
  async keeper(client: Client): Promise<void> {
    let isLoaded = false;
    let reconciledAt = 0;
    while (this.#passed < 1 || (!isLoaded && this.#breaches.length + this.#faults.length === 0)) {
      try {
        if (!isLoaded && this.#passed > 1 / 3) {
          await load(client, this.#collection, 2);
          isLoaded = true;
        } else if (this.#snapshots >= reconciledAt + 20) {
          reconciledAt = this.#snapshots;
          await client.query("select reembed.reconcile($1)", [this.#collection.name]);
        } else {
          await client.query("select pg_sleep(0.01)");
        }
      } catch (error) {
        const code = error instanceof DatabaseError ? error.code : undefined;
        if (code !== LOCK_NOT_AVAILABLE && code !== TABLE_STAYED_LOCKED) {
          this.#faults.push(`the lifecycle: ${describe(error)}`);
        }
      }
    }
  }

  async observer(client: Client): Promise<void> {
    while (this.#passed < 1) {
      this.#breaches.push(...(await violations(client)));
      for (const version of this.#collection.versions)
        this.#breaches.push(...(await this.#wrongVectors(client, version)));
      this.#snapshots++;
    }
  }

  /** Law 1: a row whose vector is not its text's, though nothing is queued for it. */
  async #wrongVectors(client: Client, version: TestVersion): Promise<unknown[]> {
    const { vectorTable, vectorColumn, id } = version;
    const { rows } = await client.query(
      `select t.id as row_id, 'the vector is another text''s' as problem, $1::int as version
         from ${this.#collection.table} t join ${vectorTable} v on v.id = t.id
        where exists (select from reembed.versions x where x.id = $1 and x.enqueued_at is not null)
          and v.${vectorColumn} <> public.test_vector(sha256(convert_to(coalesce(t.title, '') || E'\\n' || coalesce(t.body, ''), 'UTF8')))
          and not exists (select from reembed.jobs j where j.version_id = $1 and j.row_id = t.id::text)`,
      [id],
    );
    return rows;
  }
}

function describe(error: unknown): string {
  if (!(error instanceof DatabaseError)) return String(error);
  return [error.code, error.message, error.detail, error.where].filter(Boolean).join(" | ");
}

/** After the mix: nothing failed stays failed, so that all can be worked off. */
export async function forgiveFailures(client: Client, collection: TestCollection): Promise<void> {
  const ids = collection.versions.map((version) => versionOf(collection, version.number).id);
  await client.query(
    `update reembed.jobs set failed_at = null, attempts = 0, run_at = now(), lease_token = null, lease_until = null, lease_hash = null
      where version_id = any ($1)`,
    [ids],
  );
}
