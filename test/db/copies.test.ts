/** Law 5: a text that has a stored vector in a version is copied there, not bought again; never a vector that is not the text's (law 1). */
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
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";
import {
  type Claim,
  claim,
  complete,
  copy,
  done,
  expireLeases,
  release,
  workOff,
} from "../support/worker.ts";

describePostgres("copies", () => {
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
    let donor: string;
    const mine = () => ({ collection: collection.name });

    beforeEach(async () => {
      const name = placement === "in place" ? "notes" : "papers";
      const { rows } = await app.client.query("select from reembed.collections where name = $1", [name]);
      if (rows.length === 0) collection = await createCollection(app.client, name, placement);
      v1 = versionOf(collection, 1);
      await app.client.query(`truncate ${collection.table} cascade`);
      await app.client.query("delete from reembed.usage");
      donor = await insertRow(app.client, collection, "the same text");
      await workOff(worker.client, mine());
    });

    /** A second row of the same text, claimed. */
    async function claimTwin(): Promise<{ id: string; lease: Claim }> {
      const id = await insertRow(app.client, collection, "the same text");
      const lease = await claim(worker.client, mine());
      expect(lease).toMatchObject({ reason: "work", jobs: [], copies: [{ row_id: id }], usage_id: null });
      return { id, lease };
    }

    /** Whatever became of a copy, a worker that goes on ends with every row right and nothing wrong in between. */
    async function expectAllRight(): Promise<void> {
      expect(await violations(app.client)).toEqual([]);
      await workOff(worker.client, mine());
      expect(await mismatches(app.client, collection)).toEqual([]);
      expect(await violations(app.client)).toEqual([]);
    }

    test("a text that is stored already is copied: no request, no token", async () => {
      const { id, lease } = await claimTwin();
      expect(await copy(worker.client, lease)).toEqual({ ...done(1), missing: [] });
      expect(await jobs(app.client, v1.id)).toEqual([]);
      expect((await recorded(app.client, v1.id)).sort()).toEqual([donor, id].sort());
      const { rows } = await app.client.query("select tokens from reembed.records where row_id = $1", [id]);
      expect(rows).toEqual([{ tokens: 0 }]);
      const { rows: bought } = await app.client.query("select from reembed.usage");
      expect(bought).toHaveLength(1);
      await expectAllRight();
    });

    test("of one claim's jobs the new texts are bought and the stored ones copied", async () => {
      const twin = await insertRow(app.client, collection, "the same text");
      const fresh = await insertRow(app.client, collection, "a new text");
      const lease = await claim(worker.client, mine());
      expect(lease.jobs.map((job) => job.row_id)).toEqual([fresh]);
      expect(lease.copies?.map((job) => job.row_id)).toEqual([twin]);
      const { rows } = await app.client.query("select inputs from reembed.usage where state = 'reserved'");
      expect(rows.at(-1)).toEqual({ inputs: 1 });
      expect(await complete(worker.client, lease)).toEqual(done(1));
      expect(await copy(worker.client, lease)).toMatchObject({ done: 1 });
      await expectAllRight();
    });

    test("what another lease is buying is copied once that has completed", async () => {
      await insertRow(app.client, collection, "a new text");
      const buying = await claim(worker.client, mine());
      const late = await insertRow(app.client, collection, "a new text");
      expect(await claim(observer.client, mine())).toMatchObject({
        reason: "busy",
        resolved: { deferred: 1 },
      });
      await complete(worker.client, buying);
      await app.client.query("update reembed.jobs set run_at = now()");
      const lease = await claim(observer.client, mine());
      expect(lease).toMatchObject({ jobs: [], copies: [{ row_id: late }] });
      expect(await copy(observer.client, lease)).toMatchObject({ done: 1 });
      await expectAllRight();
    });

    test.each([
      { what: "edited", sql: (table: string) => `update ${table} set title = 'another' where id = $1` },
      { what: "deleted", sql: (table: string) => `delete from ${table} where id = $1` },
    ])(
      "a donor that is being $what is still a donor: what was committed is in one piece",
      async ({ sql }) => {
        const { lease } = await claimTwin();
        await app.client.query("begin");
        await app.client.query(sql(collection.table), [donor]);
        expect(await copy(worker.client, lease)).toMatchObject({ done: 1, missing: [] });
        await app.client.query("commit");
        await expectAllRight();
      },
    );

    test("a donor that was edited is none: its record may tell of another row's vector", async () => {
      await app.client.query(`update ${collection.table} set title = 'another text' where id = $1`, [donor]);
      const id = await insertRow(app.client, collection, "the same text");
      const lease = await claim(worker.client, mine());
      expect(lease.copies).toEqual([]);
      expect(lease.jobs.map((job) => job.row_id).sort()).toEqual([donor, id].sort());
      expect(await complete(worker.client, lease)).toEqual(done(2));
      await expectAllRight();
    });

    test("a donor deleted after the claim leaves nothing to copy: the row is missing, given back and bought", async () => {
      const { id, lease } = await claimTwin();
      await app.client.query(`delete from ${collection.table} where id = $1`, [donor]);
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), missing: [id] });
      expect(await release(worker.client, lease)).toBe(1);
      expect(await claim(worker.client, mine())).toMatchObject({ jobs: [{ row_id: id }], copies: [] });
      await expireLeases(app.client);
      await expectAllRight();
    });

    test("a donor whose vector was taken away is none", async () => {
      const { id, lease } = await claimTwin();
      await app.client.query(
        placement === "in place"
          ? `update ${collection.table} set ${v1.vectorColumn} = null where id = $1`
          : `delete from ${v1.vectorTable} where id = $1`,
        [donor],
      );
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), missing: [id] });
      await release(worker.client, lease);
      await expectAllRight();
    });

    test("a donor whose vector another hand changed is none: nobody knows whose it is", async () => {
      const { id, lease } = await claimTwin();
      await app.client.query(
        `update ${v1.vectorTable} set ${v1.vectorColumn} = '[9,9,9,9,9,9,9,9]' where id = $1`,
        [donor],
      );
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), missing: [id] });
      await release(worker.client, lease);
      await expectAllRight();
    });

    test("a vector that went without a trigger seeing it is neither offered nor copied", async () => {
      await insertRow(app.client, collection, "the same text");
      await app.client.query(`alter table ${v1.vectorTable} disable trigger user`);
      await app.client.query(
        placement === "in place"
          ? `update ${collection.table} set ${v1.vectorColumn} = null where id = $1`
          : `delete from ${v1.vectorTable} where id = $1`,
        [donor],
      );
      await app.client.query(`alter table ${v1.vectorTable} enable trigger user`);
      expect(await claim(worker.client, mine())).toMatchObject({ jobs: [{}], copies: [] });
    });

    test("the row's own edit after the claim wins over the copy", async () => {
      const { id, lease } = await claimTwin();
      await app.client.query(`update ${collection.table} set title = 'a newer text' where id = $1`, [id]);
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), stale: [id], missing: [] });
      await expectAllRight();
    });

    test("a row that the app is editing is busy, and stale once the app has committed", async () => {
      const { id, lease } = await claimTwin();
      await app.client.query("begin");
      await app.client.query(`update ${collection.table} set title = 'in flight' where id = $1`, [id]);
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), busy: [id], missing: [] });
      const waiting = copy(worker.client, lease, { wait: true });
      await untilBlocked(observer.client, worker, waiting);
      await app.client.query("commit");
      expect(await waiting).toEqual({ ...done(0), stale: [id], missing: [] });
      await expectAllRight();
    });

    test("a copy whose lease another took over is refused", async () => {
      const { id, lease } = await claimTwin();
      await expireLeases(app.client);
      const taken = await claim(observer.client, mine());
      expect(taken.copies).toHaveLength(1);
      expect(await copy(worker.client, lease)).toEqual({ ...done(0), lost_lease: [id], missing: [] });
      expect(await copy(observer.client, taken)).toMatchObject({ done: 1 });
      await expectAllRight();
    });

    test("texts of another version are not copied into this one", async () => {
      await app.client.query("update reembed.records set version_id = $1 where row_id = $2", [
        versionOf(collection, 2).id,
        donor,
      ]);
      const id = await insertRow(app.client, collection, "the same text");
      expect(await claim(worker.client, mine())).toMatchObject({ jobs: [{ row_id: id }], copies: [] });
      await app.client.query(`truncate ${collection.table} cascade`);
      await app.client.query("delete from reembed.records");
    });
  });
});
