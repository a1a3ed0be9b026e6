/**
 * Vectors that an app keeps as texts: taken without buying them when a version's rows are enqueued for the first time, and kept in step while that is
 * wanted.
 */
import type { Client } from "pg";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { startLoading } from "../../scripts/lib/move.ts";
import { runCli, runJson } from "../support/cli.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim, complete, workOff } from "../support/worker.ts";

const SCHEMA = `
  create table public.notes (id bigint primary key, body text, legacy text, embedding extensions.vector(8), embedding_2 extensions.halfvec(8));
  grant select, insert, update, delete on public.notes to service_role;
  alter table public.notes enable row level security;
  create function reembed.notes_input(r public.notes) returns text language sql immutable set search_path = '' as $$ select r.body $$;
  select reembed.add_space('test', 'old', 8), reembed.add_space('test', 'new', 8);
  begin;
  select reembed.add_collection('notes', 'public.notes', array['id', 'body']);
  select reembed.add_version('notes', 'test/old@8', 'embedding', 'reembed.notes_input', adopts => true);
  select reembed.add_version('notes', 'test/new@8', 'embedding_2', 'reembed.notes_input');
  commit;`;

const GOOD = "[1, 2.5, -3e-1, 4, 5, 6, 7, 8]";

/** What may stand in such a column, and what is wrong with it. */
const TEXTS: readonly (readonly [text: string | null, fault: string | undefined])[] = [
  [GOOD, undefined],
  ["[8,7,6,5,4,3,2,1]", undefined],
  [null, undefined],
  ["[1, 2,", "no JSON array of numbers"],
  ["not even that", "no JSON array of numbers"],
  ['{"embedding": [1]}', "no JSON array of numbers"],
  ["[1,2,3,4,5,6,7,null]", "no JSON array of numbers"],
  ["", "no JSON array of numbers"],
  ["[]", "another width"],
  ["[1,2,3]", "another width"],
  [`[${Array(16_001).fill(1)}]`, "another width"],
  ["[NaN,2,3,4,5,6,7,8]", "a number that is not finite"],
  ["[1,2,3,4,5,6,7,-Infinity]", "a number that is not finite"],
  ["[1e400,2,3,4,5,6,7,8]", "a number that is not finite"],
  ["[0,0,0,0,0,0,0,0]", "no direction: its length is zero, or overflows"],
];

describePostgres("vectors that stand as texts", () => {
  let client: Client;
  let db: Database;
  let url: string;
  beforeEach(async () => {
    ({ url } = await createDatabase());
    client = await connect(url);
    db = await openDatabase(url, 1);
    await client.query(SCHEMA);
  });
  afterEach(async () => {
    await db?.close();
    await client?.end();
  });

  const rowsOf = async <Row extends object>(sql: string, values: readonly unknown[] = []) =>
    (await client.query<Row>(sql, [...values])).rows;
  const write = (texts: readonly (string | null)[]) =>
    client.query(
      "insert into public.notes (id, body, legacy) select n, 'body ' || n, t from unnest($1::text[]) with ordinality u(t, n)",
      [texts],
    );
  const V1 = "(reembed.version_numbered('notes', 1)).id";
  const state = () =>
    rowsOf<{ id: number; has: string; why: string | null }>(
      `select t.id::int, case when r.row_id is not null then 'record' when j.row_id is not null then 'job' end as has, j.error as why
         from public.notes t
         left join reembed.records r on r.version_id = ${V1} and r.row_id = t.id::text
         left join reembed.jobs j on j.version_id = ${V1} and j.row_id = t.id::text order by t.id`,
    );
  const violations = () => rowsOf("select * from reembed.violations()");
  const setTextColumn = (keep = false) =>
    client.query("select reembed.set_text_column('notes', 1, 'legacy', $1)", [keep]);

  describe("are taken as they are", () => {
    beforeEach(() => setTextColumn());

    test("where they are vectors of the space; the others are enqueued, and their jobs say why", async () => {
      await write(TEXTS.map(([text]) => text));
      const { code, answer } = await runJson(["adopt", "--collection", "notes"], { DATABASE_URL: url });
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: {
          adopted: 2,
          enqueued: TEXTS.length - 2,
          unreadable: {
            "no JSON array of numbers": 5,
            "another width": 3,
            "a number that is not finite": 3,
            "no direction: its length is zero, or overflows": 1,
          },
        },
      });
      expect(await state()).toEqual(
        TEXTS.map(([text, fault], n) => ({
          id: n + 1,
          has: text !== null && fault === undefined ? "record" : "job",
          why: fault === undefined ? null : `legacy holds ${fault}`,
        })),
      );
      expect(await violations()).toEqual([]);
      expect(await rowsOf("select from reembed.usage")).toEqual([]);
      const [first] = await rowsOf<{ embedding: string }>("select embedding from public.notes where id = 1");
      expect(first).toEqual({ embedding: "[1,2.5,-0.3,4,5,6,7,8]" });
      // The texts themselves are nobody's to change here.
      expect(await rowsOf("select legacy from public.notes order by id")).toEqual(
        TEXTS.map(([legacy]) => ({ legacy })),
      );

      // What was enqueued is bought, and then nothing tells of its text any more.
      expect(await workOff(client, { collection: "notes" })).toBe(TEXTS.length - 2);
      expect(await rowsOf("select reembed.unreadable_texts('notes', 1) as left")).toEqual([{ left: {} }]);
      expect(await violations()).toEqual([]);
    });

    test("a vector that is there is not overwritten by its text", async () => {
      await client.query(
        "insert into public.notes (id, body, legacy, embedding) values (1, 'a', $1, '[9,9,9,9,9,9,9,9]')",
        [GOOD],
      );
      await startLoading(db, { collection: "notes", version: 1 });
      expect(await state()).toEqual([{ id: 1, has: "record", why: null }]);
      expect(await rowsOf("select embedding from public.notes")).toEqual([
        { embedding: "[9,9,9,9,9,9,9,9]" },
      ]);
    });

    test("a row that was edited since the triggers stand is embedded anew", async () => {
      await write([GOOD, GOOD]);
      await client.query("select reembed.start_loading('notes', 1)");
      await client.query("update public.notes set body = 'another' where id = 2");
      await startLoading(db, { collection: "notes", version: 1 });
      expect((await state()).map(({ has }) => has)).toEqual(["record", "job"]);
      expect(await violations()).toEqual([]);
    });

    test("a part at a time, going on where a run ended, around rows that others write", async () => {
      await write(Array(30).fill(GOOD));
      await client.query("select reembed.start_loading('notes', 1)");
      const writer = await connect(url);
      await writer.query("begin");
      await writer.query("update public.notes set body = 'mine' where id = 3");
      const [step] = await rowsOf<{ step: { busy: string[]; last: string } }>(
        `select reembed.enqueue_missing(${V1}, null, 10) as step`,
      );
      expect(step?.step).toMatchObject({ enqueued: 0, busy: ["3"], last: "10" });
      await writer.query("commit");
      await writer.end();
      expect((await state()).filter(({ has }) => has === "record")).toHaveLength(9);
      await startLoading(db, { collection: "notes", version: 1 }, 7);
      const after = await state();
      expect(after.filter(({ has }) => has === "record")).toHaveLength(29);
      expect(after[2]).toMatchObject({ has: "job" });
      expect(await violations()).toEqual([]);
    });

    test("into half precision, where the text fits it", async () => {
      await client.query(`
        select reembed.set_text_column('notes', 1, null);
        update reembed.versions set adopts = true where id = (reembed.version_numbered('notes', 2)).id;
        select reembed.set_text_column('notes', 2, 'legacy')`);
      await write([GOOD, "[1e-9,0,0,0,0,0,0,0]", "[70000,1,1,1,1,1,1,1]"]);
      await startLoading(db, { collection: "notes", version: 2 });
      expect(await rowsOf("select embedding_2 is not null as there from public.notes order by id")).toEqual([
        { there: true },
        { there: false },
        { there: false },
      ]);
      expect(await rowsOf("select reembed.unreadable_texts('notes', 2) as faults")).toEqual([
        { faults: { "no direction in half precision": 1, "a number that is not finite": 1 } },
      ]);
    });
  });

  describe("are kept in step", () => {
    beforeEach(async () => {
      await setTextColumn(true);
      await startLoading(db, { collection: "notes", version: 1 });
      await startLoading(db, { collection: "notes", version: 2 });
    });
    const texts = () =>
      rowsOf("select id::int, legacy, embedding::text as embedding from public.notes order by id");

    test("a worker's vector stands in both, in one update that makes no job", async () => {
      await asRole(client, "service_role", (caller) =>
        caller.query("insert into public.notes (id, body) values (1, 'a'), (2, 'b')"),
      );
      expect(await workOff(client, { collection: "notes" })).toBe(4);
      const rows = await texts();
      expect(rows).toHaveLength(2);
      for (const row of rows) expect(row).toMatchObject({ legacy: expect.stringMatching(/^\[\d/) });
      expect(rows).toEqual(rows.map((row) => ({ ...row, legacy: (row as { embedding: string }).embedding })));
      expect(await rowsOf("select from reembed.jobs")).toEqual([]);
      expect(await violations()).toEqual([]);
    });

    test("a late worker's vector reaches neither", async () => {
      await client.query("insert into public.notes (id, body) values (1, 'a')");
      const lease = await claim(client, { collection: "notes", version: 1 });
      await client.query("update public.notes set body = 'edited' where id = 1");
      expect((await complete(client, lease)).done).toBe(0);
      expect(await texts()).toEqual([{ id: 1, legacy: null, embedding: null }]);
    });

    test("a text that another hand writes is the vector's again; one without a vector is left", async () => {
      await client.query("insert into public.notes (id, body) values (1, 'a')");
      await workOff(client, { collection: "notes" });
      const before = await texts();
      await client.query("update public.notes set legacy = 'mine' where id = 1");
      expect(await texts()).toEqual(before);
      await client.query("insert into public.notes (id, body, legacy) values (2, 'b', $1)", [GOOD]);
      await client.query("update public.notes set legacy = $1 where id = 2", [`${GOOD} `]);
      expect((await texts())[1]).toEqual({ id: 2, legacy: `${GOOD} `, embedding: null });
    });

    test("a wiped vector wipes its text, and both come back", async () => {
      await client.query("insert into public.notes (id, body) values (1, 'a')");
      await workOff(client, { collection: "notes" });
      const before = await texts();
      await client.query("update public.notes set embedding = null where id = 1");
      expect(await texts()).toEqual([{ id: 1, legacy: null, embedding: null }]);
      await workOff(client, { collection: "notes" });
      expect(await texts()).toEqual(before);
      expect(await violations()).toEqual([]);
    });

    test("what was written before is brought up a part at a time", async () => {
      await client.query("select reembed.set_text_column('notes', 1, 'legacy', false)");
      await client.query(
        "insert into public.notes (id, body) select n, 'body ' || n from generate_series(1, 5) n",
      );
      await workOff(client, { collection: "notes" });
      expect(await rowsOf("select from public.notes where legacy is not null")).toEqual([]);
      await expect(client.query("select reembed.refresh_texts('notes', 1)")).rejects.toMatchObject({
        code: "RE007",
      });
      await client.query("select reembed.set_text_column('notes', 1, 'legacy', true)");
      const step = async (after: string | null) =>
        (
          await rowsOf<{ step: object }>("select reembed.refresh_texts('notes', 1, $1, 3) as step", [after])
        )[0]?.step;
      expect(await step(null)).toEqual({ written: 3, busy: 0, last: "3" });
      expect(await step("3")).toEqual({ written: 2, busy: 0, last: null });
      expect(await step(null)).toEqual({ written: 0, busy: 0, last: "3" });
      expect(await rowsOf("select from public.notes where legacy <> embedding::text")).toEqual([]);
      expect(await rowsOf("select from reembed.jobs")).toEqual([]);
    });

    test("until the version is finalized, or the collection taken out", async () => {
      await client.query("insert into public.notes (id, body) values (1, 'a')");
      await workOff(client, { collection: "notes" });
      await client.query("select reembed.advance('notes', 2)");
      await client.query("select reembed.cutover('notes', 2, force => true, reason => 'a test')");
      await client.query(
        `begin; select reembed.finalize('notes', 1); alter table public.notes drop column embedding; commit`,
      );
      await client.query("update public.notes set body = 'edited', legacy = 'mine'");
      expect(await rowsOf("select legacy from public.notes")).toEqual([{ legacy: "mine" }]);
      await client.query("select reembed.remove_collection('notes')");
      expect(
        await rowsOf(
          "select tgname from pg_trigger where tgrelid = 'public.notes'::regclass and not tgisinternal",
        ),
      ).toEqual([]);
    });
  });

  test.each([
    ["a column that is not there", "select reembed.set_text_column('notes', 1, 'nowhere')", "RE008"],
    ["a column that is no text", "select reembed.set_text_column('notes', 1, 'embedding')", "RE008"],
    ["no column to keep", "select reembed.set_text_column('notes', 1, null, true)", "RE004"],
    ["an unknown version", "select reembed.set_text_column('notes', 9, 'legacy')", "RE006"],
  ])("%s is refused", async (_, sql, code) => {
    await expect(client.query(sql)).rejects.toMatchObject({ code });
  });

  test("the command says what it left", async () => {
    await setTextColumn();
    await write([GOOD, "[1"]);
    const { stdout } = await runCli(["adopt", "--collection", "notes"], { DATABASE_URL: url });
    expect(stdout).toContain("1 rows have a vector, 1 wait for one");
    expect(stdout).toContain("1 texts could not be taken: no JSON array of numbers");
  });
});
