/**
 * Connections that one caller holds at a time. postgres.js 3.4.9 has them too (`reserve`), and does not survive a server that ends one: the next statement of its holder, a
 * rollback as a rule, writes to a socket that is no more and throws where nobody can catch it, which ends the process; and who waits for a connection then may wait for ever.
 * What was told to a lost
 * connection it tells the first statement of the next one. So each session here is a postgres.js of one connection and is thrown away with it, and a holder whose connection was
 * lost gets no further statement: it would run outside of the transaction that was lost, too.
 */
import postgres from "postgres";

/** What Kysely's dialect for postgres.js uses of a held connection. */
interface Held {
  unsafe(sql: string, parameters: never[]): Promise<unknown>;
  release(): void;
}

interface Session {
  readonly sql: postgres.Sql;
  isLost: boolean;
}

export class ConnectionLost extends Error {
  /** connection_failure */
  readonly code = "08006";
  constructor() {
    super("the connection to the database was lost");
    this.name = "ConnectionLost";
  }
}

/** A driver whose connections can be reserved: postgres.js's, of which the options and `reserve` count here. */
interface Driver {
  readonly options: postgres.ParsedOptions;
  reserve(): Promise<unknown>;
}

/**
 * Replaces the driver's `reserve` by sessions of the same options, at most `max` of them.
 * @returns what ends them; a statement whose answer does not come is cut after a second
 */
export function reserveSessions(driver: Driver): () => Promise<void> {
  const sessions = new Set<Session>();
  const free: Session[] = [];
  const waiting: ((session: Session) => void)[] = [];

  const open = (): Session => {
    const session: Session = {
      // As postgres.js itself makes the connection that listens.
      sql: postgres({
        ...(driver.options as unknown as postgres.Options<Record<string, postgres.PostgresType>>),
        max: 1,
        idle_timeout: 0,
        // Its end could come between two statements of a transaction.
        max_lifetime: null,
        onclose: () => {
          session.isLost = true;
        },
      }),
      isLost: false,
    };
    sessions.add(session);
    return session;
  };

  /** The session, or a new one in its place where its connection was lost. */
  const renewed = (session: Session): Session => {
    if (!session.isLost) return session;
    sessions.delete(session);
    void session.sql.end({ timeout: 0 });
    return open();
  };

  const take = (): Promise<Session> => {
    const session = free.pop();
    if (session) return Promise.resolve(renewed(session));
    if (sessions.size < driver.options.max) return Promise.resolve(open());
    return new Promise((resolve) => waiting.push(resolve));
  };

  driver.reserve = async (): Promise<Held> => {
    const session = await take();
    return {
      async unsafe(sql, parameters) {
        if (session.isLost) throw new ConnectionLost();
        try {
          return await session.sql.unsafe(sql, parameters);
        } catch (error) {
          throw session.isLost ? new ConnectionLost() : error;
        }
      },
      release() {
        const next = waiting.shift();
        if (next) next(renewed(session));
        else free.push(session);
      },
    };
  };

  return async () => {
    await Promise.all(Array.from(sessions, ({ sql }) => sql.end({ timeout: 1 })));
  };
}
