/** Workers against each other, against the app, and against their own death. */
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  createCollection,
  insertRow,
  jobs,
  mismatches,
  PLACEMENTS,
  recorded,
  type TestCollection,
  type TestVersion,
  versionOf,
  violations,
} from "../support/collection.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { kill, type Session, Sessions, untilBlocked } from "../support/sessions.ts";
import {
  type Claim,
  claim,
  complete,
  done,
  expireLeases,
  fail,
  release,
  workOff,
} from "../support/worker.ts";

describePostgres("claims", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let app: Session;
  let worker: Session;
  let observer: Session;

  beforeAll(async () => {
    database = await createDatabase();
  });
  beforeEach(async () => {
    sessions = new Sessions(database.url);
    [app, worker, observer] = await Promise.all([sessions.open(), sessions.open(), sessions.open()]);
  });
  afterEach(() => sessions.close());

  describe.each(PLACEMENTS)("of vectors %s", (placement) => {
    let collection: TestCollection;
    let v1: TestVersion;
    const mine = () => ({ collection: collection.name });

    beforeEach(async () => {
      const name = placement === "in place" ? "notes" : "papers";
      const { rows } = await app.client.query("select from reembed.collections where name = $1", [name]);
      if (rows.length === 0) collection = await createCollection(app.client, name, placement);
      v1 = versionOf(collection, 1);
      await app.client.query(`truncate ${collection.table} cascade`);
      await app.client.query("delete from reembed.usage");
    });

    /** The one row's claim, and its id. */
    async function claimOne(): Promise<{ id: string; lease: Claim }> {
      const id = await insertRow(app.client, collection, "a text");
      const lease = await claim(worker.client, mine());
      expect(lease.jobs.map((job) => job.row_id)).toEqual([id]);
      return { id, lease };
    }

    test("eight workers over 2,000 jobs claim none twice and finish all", async () => {
      await app.client.query(
        `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, 2000) n`,
      );
      const claimed: string[] = [];
      let stored = 0;
      const work = async () => {
        const { client } = await sessions.open();
        for (;;) {
          const lease = await claim(client, { ...mine(), maxRows: 37 });
          if (lease.reason === "idle") return;
          claimed.push(...lease.jobs.map((job) => job.row_id));
          const outcomes = await complete(client, lease);
          stored += outcomes.done;
        }
      };
      await Promise.all(Array.from({ length: 8 }, work));
      expect(new Set(claimed).size).toBe(2000);
      expect({ claimed: claimed.length, stored }).toEqual({ claimed: 2000, stored: 2000 });
      expect(await jobs(app.client, v1.id)).toEqual([]);
      expect(await mismatches(app.client, collection)).toEqual([]);
      expect(await violations(app.client)).toEqual([]);
    });

    test("a lease that another took over is refused, and the other's is good", async () => {
      const { id, lease: late } = await claimOne();
      await expireLeases(app.client);
      const taken = await claim(observer.client, mine());
      expect(taken.jobs.map((job) => job.row_id)).toEqual([id]);
      expect(await complete(worker.client, late)).toEqual({ ...done(0), lost_lease: [id] });
      expect(await recorded(app.client, v1.id)).toEqual([]);
      expect(await complete(observer.client, taken)).toEqual(done(1));
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("an expired lease that nobody took is still good", async () => {
      const { lease } = await claimOne();
      await expireLeases(app.client);
      expect(await complete(worker.client, lease)).toEqual(done(1));
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("a lease that was completed once is no lease", async () => {
      const { id, lease } = await claimOne();
      expect(await complete(worker.client, lease)).toEqual(done(1));
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), lost_lease: [id] });
    });

    test("an edit between claim and complete wins", async () => {
      const { id, lease } = await claimOne();
      await app.client.query(`update ${collection.table} set title = 'a newer text' where id = $1`, [id]);
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), stale: [id] });
      expect(await recorded(app.client, v1.id)).toEqual([]);
      expect(await workOff(worker.client, mine())).toBe(1);
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("an edit and its undoing between claim and complete renew the job: the lease is lost, nothing is wrong", async () => {
      const { id, lease } = await claimOne();
      await app.client.query(`update ${collection.table} set title = 'another' where id = $1`, [id]);
      await app.client.query(`update ${collection.table} set title = 'a text' where id = $1`, [id]);
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), lost_lease: [id] });
      expect(await violations(app.client)).toEqual([]);
    });

    test("a row deleted between claim and complete is gone, with its job", async () => {
      const { id, lease } = await claimOne();
      await app.client.query(`delete from ${collection.table} where id = $1`, [id]);
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), gone: [id] });
      expect(await jobs(app.client, v1.id)).toEqual([]);
      expect(await recorded(app.client, v1.id)).toEqual([]);
    });

    test("a row that the app holds is busy at once, the others are done; waiting for it alone succeeds after the app", async () => {
      const { id, lease: first } = await claimOne();
      await release(worker.client, first);
      await insertRow(app.client, collection, "a free text");
      const lease = await claim(worker.client, mine());
      await app.client.query("begin");
      await app.client.query(`select from ${collection.table} where id = $1 for update`, [id]);
      // Had it waited, its lock time-out would have made both rows busy.
      expect(await complete(worker.client, lease)).toEqual({ ...done(1), busy: [id] });
      const held = lease.jobs.filter((job) => job.row_id === id);
      const waiting = complete(worker.client, lease, { jobs: held, wait: true });
      await untilBlocked(observer.client, worker, waiting);
      await app.client.query("commit");
      expect(await waiting).toEqual(done(1));
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("a row that the app is editing is busy, and stale once the app has committed", async () => {
      const { id, lease } = await claimOne();
      await app.client.query("begin");
      await app.client.query(`update ${collection.table} set title = 'in flight' where id = $1`, [id]);
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), busy: [id] });
      const waiting = complete(worker.client, lease, { wait: true });
      await untilBlocked(observer.client, worker, waiting);
      await app.client.query("commit");
      expect(await waiting).toEqual({ ...done(0), stale: [id] });
      expect(await workOff(worker.client, mine())).toBe(1);
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("waiting takes one row a call", async () => {
      await insertRow(app.client, collection, "one");
      await insertRow(app.client, collection, "two");
      const lease = await claim(worker.client, mine());
      await expect(complete(worker.client, lease, { wait: true })).rejects.toMatchObject({ code: "RE004" });
    });

    test("a text that one worker is buying is not leased to another", async () => {
      await insertRow(app.client, collection, "the same text");
      await insertRow(app.client, collection, "the same text");
      const first = await claim(worker.client, { ...mine(), maxRows: 1 });
      const second = await claim(observer.client, mine());
      expect(first.jobs).toHaveLength(1);
      expect(second).toMatchObject({ reason: "busy", jobs: [], resolved: { deferred: 1 } });
      await complete(worker.client, first);
      expect(await workOff(observer.client, mine())).toBe(1);
      expect(await mismatches(app.client, collection)).toEqual([]);
    });

    test("a release gives the attempt back and is due at once; it frees nothing of another's", async () => {
      const { lease } = await claimOne();
      expect(await jobs(app.client, v1.id)).toMatchObject([{ attempts: 1, leased: true }]);
      expect(await release(worker.client, lease)).toBe(1);
      expect(await jobs(app.client, v1.id)).toMatchObject([{ attempts: 0, leased: false }]);
      const next = await claim(observer.client, mine());
      expect(next.jobs).toHaveLength(1);
      expect(await release(worker.client, lease)).toBe(0);
      expect(await fail(worker.client, lease, "late", null)).toEqual({ failed: 0, retried: 0 });
      expect(await jobs(app.client, v1.id)).toMatchObject([{ attempts: 1, leased: true, failed: false }]);
    });

    describe("at the horizon of attempts", () => {
      // max_attempts is 8. A worker that dies never calls fail: the claim itself must stop a poison row.
      test.each([
        { attempts: 6, minutes: -1, given: 1, failed: 0 },
        { attempts: 7, minutes: -1, given: 1, failed: 0 },
        { attempts: 8, minutes: -1, given: 0, failed: 1 },
        { attempts: 9, minutes: -1, given: 0, failed: 1 },
        { attempts: 7, minutes: 1, given: 0, failed: 0 },
        { attempts: 8, minutes: 1, given: 0, failed: 0 },
      ])(
        "lease over in $minutes minutes after $attempts attempts: $given given, $failed given up",
        async (row) => {
          const { lease } = await claimOne();
          await app.client.query(
            `update reembed.jobs set attempts = $2, lease_until = now() + make_interval(mins => $3), run_at = now() + make_interval(mins => $3)
            where lease_token = $1`,
            [lease.lease_token, row.attempts, row.minutes],
          );
          const next = await claim(observer.client, mine());
          expect(next.jobs).toHaveLength(row.given);
          expect(next.resolved?.failed ?? 0).toBe(row.failed);
          expect(await jobs(app.client, v1.id)).toMatchObject([
            { attempts: row.attempts + row.given, failed: row.failed === 1, leased: row.failed === 0 },
          ]);
        },
      );

      test.each([
        { attempts: 7, retry: 5, result: { failed: 0, retried: 1 } },
        { attempts: 8, retry: 5, result: { failed: 1, retried: 0 } },
        { attempts: 1, retry: null, result: { failed: 1, retried: 0 } },
      ])(
        "fail with retry $retry after $attempts attempts gives $result",
        async ({ attempts, retry, result }) => {
          const { lease } = await claimOne();
          await app.client.query("update reembed.jobs set attempts = $2 where lease_token = $1", [
            lease.lease_token,
            attempts,
          ]);
          expect(await fail(worker.client, lease, "the provider said no", retry)).toEqual(result);
          expect(await jobs(app.client, v1.id)).toMatchObject([
            { failed: result.failed === 1, leased: false, error: "the provider said no" },
          ]);
        },
      );

      test("an edit of a failed row gives it all attempts again", async () => {
        const { id, lease } = await claimOne();
        await fail(worker.client, lease, "poison", null);
        expect(await claim(worker.client, mine())).toMatchObject({ reason: "idle" });
        await app.client.query(`update ${collection.table} set title = 'wholesome' where id = $1`, [id]);
        expect(await jobs(app.client, v1.id)).toMatchObject([{ attempts: 0, failed: false, error: null }]);
        expect(await workOff(worker.client, mine())).toBe(1);
      });
    });

    test("a backend killed at the end of its claim leaves no lease and no reservation", async () => {
      const id = await insertRow(app.client, collection, "a text");
      await app.client.query(`
        create function public.wait_for_test() returns trigger language plpgsql as
          $$ begin perform pg_advisory_xact_lock(1); return new; end $$;
        create trigger wait_for_test before insert on reembed.usage for each row execute function public.wait_for_test()`);
      try {
        await app.client.query("select pg_advisory_lock(1)");
        const claiming = claim(worker.client, mine());
        const killed = expect(claiming).rejects.toThrow();
        await untilBlocked(observer.client, worker, claiming);
        await kill(observer.client, worker);
        await killed;
      } finally {
        await app.client.query("select pg_advisory_unlock_all()");
        await app.client.query("drop function public.wait_for_test() cascade");
      }
      expect(await jobs(app.client, v1.id)).toMatchObject([{ row_id: id, attempts: 0, leased: false }]);
      expect((await app.client.query("select from reembed.usage")).rows).toEqual([]);
      expect(await workOff(observer.client, mine())).toBe(1);
    });

    test("a backend killed after it wrote the vector and before its record leaves neither, and the lease is still good", async () => {
      const { id, lease } = await claimOne();
      // An uncommitted record with the same key: complete waits for it, having written the vector.
      await app.client.query("begin");
      await app.client.query(
        `insert into reembed.records (version_id, row_id, content_hash, space_id) values ($1, $2, '', '')`,
        [v1.id, id],
      );
      const completing = complete(worker.client, lease);
      const killed = expect(completing).rejects.toThrow();
      await untilBlocked(observer.client, worker, completing);
      await kill(observer.client, worker);
      await killed;
      await app.client.query("rollback");
      expect(await recorded(app.client, v1.id)).toEqual([]);
      expect(await mismatches(app.client, collection)).toEqual([id]);
      expect(await jobs(app.client, v1.id)).toMatchObject([{ row_id: id, leased: true }]);
      expect(await violations(app.client)).toEqual([]);
      expect(await complete(observer.client, lease)).toEqual(done(1));
    });
  });
});
