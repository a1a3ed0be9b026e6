/**
 * The queue in memory, for tests of the worker alone: leases, attempts, hashes and the ledger behave by the protocol, on a clock that only the test
 * (and the work it costs) moves. What the real one guarantees under concurrency is tested on the database.
 */
import { createHash } from "node:crypto";
import type { Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { LongTextPolicy } from "../../supabase/functions/_shared/long-text.ts";
import type { SearchSample } from "../../supabase/functions/_shared/pace.ts";
import type {
  Claim,
  ClaimOptions,
  Hold,
  Job,
  Lease,
  LedgerEntry,
  Outcomes,
  ProviderAnswer,
  Queue,
  Result,
} from "../../supabase/functions/_shared/queue.ts";

export const TEST_SPACE: Space = {
  id: "test/model@2",
  provider: "test",
  model: "model",
  dimensions: 2,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 100,
};

interface StoredJob {
  runAt: number;
  token: string | null;
  attempts: number;
  failed: boolean;
  error: string | null;
}

export interface StoredRecord {
  readonly hash: string;
  readonly vector: readonly number[] | null;
  readonly skipped: string | null;
  readonly truncated: boolean;
  readonly tokens: number;
}

export const hashOf = (text: string): string => createHash("sha256").update(text).digest("hex");

export class MemoryQueue implements Queue {
  space: Space = TEST_SPACE;
  readonly texts = new Map<string, string>();
  readonly jobs = new Map<string, StoredJob>();
  readonly records = new Map<string, StoredRecord>();
  /** What the claims' reservations became; undefined while one is open. */
  readonly ledger = new Map<number, readonly LedgerEntry[] | undefined>();
  /** The rows of each complete, in order. */
  readonly completes: { readonly rows: readonly string[]; readonly wait: boolean }[] = [];
  /** Rows whose lock the application holds, and for how many waits of half a second still. */
  readonly locked = new Map<string, number>();
  /** Milliseconds that a complete takes for each row. */
  completeMsPerRow = 0;
  /** What the next calls of these methods throw, one each. */
  readonly failures = new Map<keyof Queue, Error[]>();
  paused: string | null = null;
  /** What the provider's answers said about its rate, in the order in which claims were settled. */
  readonly answers: ProviderAnswer[] = [];
  /** The space waits until this time. */
  waitsUntil = 0;
  longText: LongTextPolicy = "truncate";
  /** Another lease holds whatever is due. */
  heldElsewhere = false;
  /** Milliseconds. */
  time = 0;
  #claims = 0;

  constructor(texts: Readonly<Record<string, string>> = {}) {
    for (const [id, text] of Object.entries(texts)) this.write(id, text);
  }

  readonly now = (): number => this.time;

  readonly wait = async (milliseconds: number): Promise<void> => {
    this.time += milliseconds;
  };

  /** As the triggers do it: the job is new, and whatever lease it had is gone. */
  write(id: string, text: string): void {
    this.texts.set(id, text);
    this.jobs.set(id, { runAt: this.time, token: null, attempts: 0, failed: false, error: null });
  }

  remove(id: string): void {
    this.texts.delete(id);
    this.records.delete(id);
  }

  /** As if another worker had taken the job over. */
  takeOver(id: string): void {
    const job = this.jobs.get(id);
    if (job) job.token = "another's";
  }

  /** All entries of settled claims. */
  get entries(): LedgerEntry[] {
    return [...this.ledger.values()].flatMap((entries) => entries ?? []);
  }

  get leased(): string[] {
    return [...this.jobs].filter(([, { token }]) => token !== null).map(([id]) => id);
  }

  async claim({ maxRows, exceptSpaces }: ClaimOptions): Promise<Claim> {
    this.#fail("claim");
    if (this.paused !== null)
      return { reason: "paused", space: this.space.id, pause_reason: this.paused, jobs: [] };
    if (this.waitsUntil > this.time)
      return { reason: "rate", space: this.space.id, wait_ms: this.waitsUntil - this.time, jobs: [] };
    if (exceptSpaces?.includes(this.space.id)) return { reason: "idle", jobs: [] };
    if (this.heldElsewhere) return { reason: "busy", jobs: [] };
    const due = [...this.jobs]
      .filter(([, job]) => !job.failed && job.token === null && job.runAt <= this.time)
      .slice(0, maxRows);
    if (due.length === 0) return { reason: "idle", jobs: [] };
    this.#claims += 1;
    const lease_token = `lease ${this.#claims}`;
    const jobs: Job[] = due.map(([row_id, job]) => {
      const input = this.texts.get(row_id) ?? "";
      job.token = lease_token;
      job.attempts += 1;
      return { row_id, input, hash: hashOf(input), tokens: input.length, attempts: job.attempts };
    });
    this.ledger.set(this.#claims, undefined);
    const { space, longText: long_text } = this;
    return { reason: "work", jobs, version_id: 1, lease_token, usage_id: this.#claims, space, long_text };
  }

  async complete(lease: Lease, results: readonly Result[], { wait } = { wait: false }): Promise<Outcomes> {
    this.#fail("complete");
    if (wait && results.length !== 1) throw new Error("wait is for one row");
    this.completes.push({ rows: results.map(({ row_id }) => row_id), wait });
    this.time += results.length * this.completeMsPerRow;
    const outcomes: Outcomes = { done: 0, stale: [], lost_lease: [], gone: [], busy: [], refused: [] };
    for (const { row_id, ...record } of results) {
      const text = this.texts.get(row_id);
      const held = this.#held(lease, row_id);
      if (text === undefined) {
        if (held) this.jobs.delete(row_id);
        outcomes.gone.push(row_id);
      } else if (this.#isLocked(row_id, wait)) outcomes.busy.push(row_id);
      else if (hashOf(text) !== record.hash) outcomes.stale.push(row_id);
      else if (held === undefined) outcomes.lost_lease.push(row_id);
      else {
        this.jobs.delete(row_id);
        this.records.set(row_id, record);
        outcomes.done += 1;
      }
    }
    return outcomes;
  }

  /** What the searches of this queue's collection are like; by default it has none that anyone would have to spare. */
  searches: () => SearchSample = () => ({ searches: null, search_ms: null });
  /** How often somebody looked. */
  looks = 0;

  async watchSearches(): Promise<SearchSample> {
    this.looks += 1;
    return this.searches();
  }

  /** Nothing here is claimed as a copy: what may be one only the database knows. */
  async copy(): Promise<never> {
    throw new Error("no claim of this queue has copies");
  }

  async fail(lease: Lease, rowIds: readonly string[], error: string, retrySeconds: number | null) {
    this.#fail("fail");
    const counts = { failed: 0, retried: 0 };
    for (const job of rowIds.flatMap((id) => this.#held(lease, id) ?? [])) {
      job.failed = retrySeconds === null || job.attempts >= 8;
      Object.assign(job, { token: null, error, runAt: this.time + (retrySeconds ?? 0) * 1000 });
      counts[job.failed ? "failed" : "retried"] += 1;
    }
    return counts;
  }

  async release(lease: Hold, rowIds: readonly string[], delaySeconds: number): Promise<number> {
    this.#fail("release");
    if (delaySeconds < 0 || delaySeconds > 86_400)
      throw new ReembedError("invalid_request", "delay_seconds is out of range", "");
    const held = rowIds.flatMap((id) => this.#held(lease, id) ?? []);
    for (const job of held) {
      Object.assign(job, {
        token: null,
        attempts: job.attempts - 1,
        runAt: this.time + delaySeconds * 1000,
      });
    }
    return held.length;
  }

  async settle(
    { usage_id }: Lease,
    entries: readonly LedgerEntry[],
    answer: ProviderAnswer | undefined,
  ): Promise<void> {
    this.#fail("settle");
    if (this.ledger.get(usage_id) !== undefined || !this.ledger.has(usage_id)) {
      throw new ReembedError("invalid_request", "usage_id is not an open reservation", "");
    }
    this.ledger.set(usage_id, entries);
    if (answer === undefined) return;
    this.answers.push(answer);
    if (answer.refused) this.waitsUntil = this.time + (answer.retryAfterMs ?? 1000);
  }

  async pauseSpace(_: string, reason: string): Promise<void> {
    this.#fail("pauseSpace");
    this.paused = reason;
  }

  #held({ lease_token }: Hold, id: string): StoredJob | undefined {
    const job = this.jobs.get(id);
    return job?.token === lease_token ? job : undefined;
  }

  #isLocked(id: string, wait: boolean): boolean {
    const left = this.locked.get(id) ?? 0;
    if (left === 0) return false;
    if (wait) {
      this.time += 500;
      this.locked.set(id, left - 1);
    }
    return true;
  }

  #fail(method: keyof Queue): void {
    const error = this.failures.get(method)?.shift();
    if (error) throw error;
  }
}
