/** Several connections that step on each other on purpose: open them, see who waits for whom, let them go. */
import type { Client } from "pg";
import { connect } from "./postgres.ts";

export interface Session {
  readonly client: Client;
  readonly pid: number;
}

/** Connections to one database that are closed together. */
export class Sessions {
  readonly #url: string;
  readonly #open: Client[] = [];

  constructor(url: string) {
    this.#url = url;
  }

  async open(): Promise<Session> {
    const client = await connect(this.#url);
    this.#open.push(client);
    const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
    return { client, pid: rows[0]?.pid ?? 0 };
  }

  /** Ends all connections; a transaction that a failed test left open is rolled back by that. */
  async close(): Promise<void> {
    await Promise.all(this.#open.splice(0).map((client) => client.end().catch(() => {})));
  }
}

/**
 * Whether the session's statement came to an end or waits for another session's lock: the signal that it has come as far as it can.
 * @throws when it does neither within ten seconds
 */
export async function settlesOrBlocks(
  observer: Client,
  session: Session,
  statement: Promise<unknown>,
): Promise<"settled" | "blocked"> {
  let settled = false;
  const noteSettled = () => {
    settled = true;
  };
  statement.then(noteSettled, noteSettled);
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const { rows } = await observer.query<{ blocked: boolean }>(
      "select cardinality(pg_blocking_pids($1)) > 0 as blocked",
      [session.pid],
    );
    if (settled) return "settled";
    if (rows[0]?.blocked) return "blocked";
  }
  throw new Error("the statement neither ended nor waited for a lock");
}

/**
 * Resolves when the session waits for a lock.
 * @throws when its statement ends instead
 */
export async function untilBlocked(
  observer: Client,
  session: Session,
  statement: Promise<unknown>,
): Promise<void> {
  if ((await settlesOrBlocks(observer, session, statement)) === "settled") {
    throw new Error("the statement ended without waiting for anybody");
  }
}

/** Ends a session's backend as a crash would and resolves when it is gone. */
export async function kill(observer: Client, session: Session): Promise<void> {
  await observer.query("select pg_terminate_backend($1, 10000)", [session.pid]);
}
