/** The worker's side of the protocol as tests speak it: claim, complete, fail, release, on whatever connection they choose. */
import type { ClientBase } from "pg";
import { vectorOf } from "./collection.ts";

export interface ClaimedJob {
  readonly row_id: string;
  readonly input: string;
  /** SHA-256 of the input, hex. */
  readonly hash: string;
}

export interface Claim {
  readonly reason: "work" | "again" | "busy" | "budget" | "paused" | "idle";
  readonly version_id: number;
  readonly space: { readonly id: string };
  readonly lease_token: string;
  readonly usage_id: string;
  readonly resolved: { current: number; gone: number; failed: number; deferred: number };
  readonly jobs: readonly ClaimedJob[];
  /** Jobs whose text has a stored vector in the version. */
  readonly copies?: readonly Pick<ClaimedJob, "row_id" | "hash">[];
}

export interface Outcomes {
  readonly done: number;
  readonly stale: readonly string[];
  readonly lost_lease: readonly string[];
  readonly gone: readonly string[];
  readonly busy: readonly string[];
  readonly refused: readonly string[];
}

/** All rows stored, nothing else to tell. */
export const done = (count: number): Outcomes => ({
  done: count,
  stale: [],
  lost_lease: [],
  gone: [],
  busy: [],
  refused: [],
});

export interface ClaimOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly maxRows?: number;
  readonly leaseSeconds?: number;
}

/** Claims. Tests that speak the protocol by hand settle nothing, so that a space soon has no room left: then all reservations have run out. */
export async function claim(client: ClientBase, options: ClaimOptions = {}): Promise<Claim> {
  for (;;) {
    const { rows } = await client.query<{ claim: Claim | { readonly reason: "rate" } }>(
      `select reembed.claim($1, $2, max_rows => $3, lease_seconds => $4) as claim`,
      [options.collection, options.version, options.maxRows ?? 100, options.leaseSeconds ?? 120],
    );
    const { claim } = only(rows);
    if (claim.reason !== "rate") return claim;
    await client.query(
      `update reembed.usage u set lease_until = '-infinity'
        where u.id in (select o.id from reembed.usage o where o.state = 'reserved' for update skip locked)`,
    );
  }
}

/** Stores the vectors of the claimed texts, of all the claim's jobs or of those given. */
export async function complete(
  client: ClientBase,
  lease: Claim,
  options: { jobs?: readonly ClaimedJob[]; wait?: boolean } = {},
): Promise<Outcomes> {
  const claimed = options.jobs ?? lease.jobs;
  const { rows } = await client.query<{ outcomes: Outcomes }>(
    `select reembed.complete($1, $2, $3, $4, $5, $6, $7, wait => $8) as outcomes`,
    [
      lease.version_id,
      lease.space.id,
      lease.lease_token,
      claimed.map((job) => job.row_id),
      claimed.map((job) => job.hash),
      claimed.map((job) => vectorOf(job.hash)),
      claimed.map(() => 1),
      options.wait ?? false,
    ],
  );
  return only(rows).outcomes;
}

/** Copies what a claim need not buy. `missing`: rows whose text has no stored vector any more. */
export async function copy(
  client: ClientBase,
  lease: Claim,
  options: { copies?: Claim["copies"]; wait?: boolean } = {},
): Promise<Outcomes & { readonly missing: readonly string[] }> {
  const copies = options.copies ?? lease.copies ?? [];
  const { rows } = await client.query<{ outcomes: Outcomes & { missing: string[] } }>(
    "select reembed.copy($1, $2, $3, $4, $5, wait => $6) as outcomes",
    [
      lease.version_id,
      lease.space.id,
      lease.lease_token,
      copies.map((job) => job.row_id),
      copies.map((job) => job.hash),
      options.wait ?? false,
    ],
  );
  return only(rows).outcomes;
}

export async function release(client: ClientBase, lease: Claim): Promise<number> {
  const { rows } = await client.query<{ released: number }>(`select reembed.release($1, $2) as released`, [
    lease.version_id,
    lease.lease_token,
  ]);
  return only(rows).released;
}

/** @param retrySeconds null fails the jobs for good */
export async function fail(
  client: ClientBase,
  lease: Claim,
  error: string,
  retrySeconds: number | null,
): Promise<{ failed: number; retried: number }> {
  const { rows } = await client.query<{ result: { failed: number; retried: number } }>(
    `select reembed.fail($1, $2, $3, $4, $5) as result`,
    [lease.version_id, lease.lease_token, lease.jobs.map((job) => job.row_id), error, retrySeconds],
  );
  return only(rows).result;
}

/** As if the leases of a claim (or all of them) had run out a minute ago. */
export async function expireLeases(client: ClientBase, lease?: Claim): Promise<void> {
  await client.query(
    `update reembed.jobs set lease_until = now() - interval '1 minute', run_at = now() - interval '1 minute'
      where lease_token is not null and ($1::uuid is null or lease_token = $1)`,
    [lease?.lease_token],
  );
}

/** Claims and completes until nothing is due; returns how many vectors were stored. No other worker may be about. */
export async function workOff(client: ClientBase, options: ClaimOptions = {}): Promise<number> {
  let stored = 0;
  for (;;) {
    // What identical texts or retries put off is due now.
    await client.query(`update reembed.jobs set run_at = now() where run_at > now() and lease_token is null`);
    const lease = await claim(client, options);
    if (lease.reason === "idle" || lease.reason === "paused" || lease.reason === "budget") return stored;
    if (lease.copies?.length) stored += (await copy(client, lease)).done;
    if (lease.jobs.length > 0) stored += (await complete(client, lease)).done;
  }
}

function only<T>(rows: readonly T[]): T {
  const [row] = rows;
  if (row === undefined) throw new Error("the function returned no row");
  return row;
}
