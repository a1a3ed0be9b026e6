/**
 * PGlite is one session. pglite-socket queues its clients' messages one by one and keeps a client in front only while a transaction
 * block is open, so outside of one a client's Parse can be followed by another's, and its Bind then runs the other's statement:
 * with six clients two answers in three belonged to somebody else, without an error. Its queue asks `isInTransaction()`
 * whether it must stay with the client; answering yes until the exchange's Sync keeps every exchange whole.
 */
import type { PGlite } from "@electric-sql/pglite";

/** Frontend messages of the extended query protocol, which a Sync ends: Parse, Bind, Describe, Execute, Close, Flush. */
const EXTENDED = new Set(["P", "B", "D", "E", "C", "H"].map((letter) => letter.charCodeAt(0)));
const SYNC = new Uint8Array([0x53, 0, 0, 0, 4]);

/** The same database for pglite-socket, with each client's exchange kept whole. */
export function wholeExchanges(db: PGlite): PGlite {
  let inExchange = false;

  const execProtocolRawStream: PGlite["execProtocolRawStream"] = async (message, options) => {
    await db.execProtocolRawStream(message, options);
    inExchange = EXTENDED.has(message[0] ?? 0);
  };

  // The socket server calls exec only to roll back what a client that went away has left open.
  const exec: PGlite["exec"] = async (query, options) => {
    if (inExchange) {
      await db.runExclusive(() => db.execProtocolRawStream(SYNC, { onRawData: () => {} }));
      inExchange = false;
    }
    return db.isInTransaction() ? db.exec(query, options) : [];
  };

  const replaced: Partial<PGlite> = {
    execProtocolRawStream,
    exec,
    isInTransaction: () => inExchange || db.isInTransaction(),
  };
  return new Proxy(db, {
    get(target, property) {
      const value = Reflect.get(property in replaced ? replaced : target, property);
      // PGlite keeps its state in private fields, which a proxy does not have.
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
