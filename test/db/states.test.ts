/** The states of a version: the diagram, the ways back from every failure, moves one after another, and the end of a version. */
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli, runJson } from "../support/cli.ts";
import {
  createCollection,
  insertRow,
  load,
  PLACEMENTS,
  type Placement,
  SPACES,
  type TestCollection,
  vectorOf,
  violations,
} from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim, complete, workOff } from "../support/worker.ts";

describePostgres("the states of a version", () => {
  let client: Client;
  let url: string;

  beforeAll(async () => {
    ({ url } = await createDatabase());
    client = await connect(url);
  });
  afterAll(() => client?.end());

  const value = async <T = unknown>(sql: string, values: unknown[] = []) =>
    Object.values((await client.query(sql, values)).rows[0] ?? {})[0] as T;
  const stateOf = (name: string, number: number) =>
    value("select reembed.state_of(reembed.version_numbered($1, $2))", [name, number]);
  const index = async (name: string, number: number) => {
    await client.query(await value<string>("select reembed.index_sql($1, $2, false)", [name, number]));
    await client.query("select reembed.advance($1, $2)", [name, number]);
  };
  const cutover = (name: string, number: number) =>
    client.query("select reembed.cutover($1, $2, 'a test', force => true)", [name, number]);
  const search = async (collection: TestCollection, number: number, hash: string, count = 10) => {
    const { rows } = await client.query<{ id: string }>(
      `select id from public.${number === 1 ? `match_${collection.name}` : `match_${collection.name}_v${number}`}($1::extensions.vector, null, $2, query_space => $3)`,
      [vectorOf(hash), count, collection.versions[number - 1]?.space ?? "test/model-3@8"],
    );
    return rows.map(({ id }) => id);
  };
  /** A collection of some rows whose second version is ready. */
  const ready = async (name: string, rows = 3, placement: Placement = "in place") => {
    const collection = await createCollection(client, name, placement);
    for (let n = 0; n < rows; n += 1) await insertRow(client, collection, `row ${n}`);
    await load(client, collection, 2);
    await workOff(client, { collection: name });
    for (const number of [1, 2]) await index(name, number);
    return collection;
  };

  test("a table whose readers always take longer than a short wait is waited for longer, and given up", async () => {
    await ready("read_much");
    const [reader, owner] = [await connect(url), await connect(url)];
    try {
      await reader.query("begin; select from public.read_much");
      const given = owner.query("select reembed.abandon('read_much', 2)");
      let waited = 0;
      while (waited < 300) {
        const { rows } = await client.query<{ ms: number }>(
          `select extract(epoch from clock_timestamp() - l.waitstart)::float8 * 1000 as ms from pg_locks l
            where not l.granted and l.relation = 'public.read_much'::regclass`,
        );
        waited = rows[0]?.ms ?? 0;
      }
      await reader.query("commit");
      await given;
      expect(await stateOf("read_much", 2)).toBe("prepared");
    } finally {
      await Promise.all([reader.end(), owner.end()]);
    }
  });

  test("an autovacuum of the table is sent away, and readers and writers go on meanwhile", async () => {
    const collection = await ready("vacuumed");
    const [vacuum, owner] = [await connect(url), await connect(url)];
    try {
      // The lock that a vacuum holds; in a session, which nobody sends away: it goes when it has been waited for longer than deadlock_timeout.
      await vacuum.query("begin; lock table public.vacuumed in share update exclusive mode");
      const given = owner.query("select reembed.abandon('vacuumed', 2)");
      let waited = 0;
      while (waited <= 1_000) {
        const { rows } = await client.query<{ ms: number; mode: string }>(
          `select extract(epoch from clock_timestamp() - l.waitstart)::float8 * 1000 as ms, l.mode from pg_locks l
            where not l.granted and l.relation = 'public.vacuumed'::regclass`,
        );
        for (const { mode } of rows) expect(mode).toBe("ShareUpdateExclusiveLock");
        waited = rows[0]?.ms ?? 0;
        await insertRow(client, collection, "written beside it");
      }
      await vacuum.query("commit");
      await given;
      expect(await stateOf("vacuumed", 2)).toBe("prepared");
    } finally {
      await Promise.all([vacuum.end(), owner.end()]);
    }
  });

  test("the diagram in the documents shows the transitions, all of them and nothing else", async () => {
    const document = await readFile(new URL("../../docs/architecture.md", import.meta.url), "utf8");
    const diagram = /```mermaid\nstateDiagram-v2\n([\s\S]*?)```/.exec(document)?.[1] ?? "";
    const drawn = [...diagram.matchAll(/^ {2}(\S+) --> (\S+): ([\w, ]+)$/gm)].map(
      ([, from, to, actions]) => ({
        from: from === "[*]" ? null : from,
        to,
        actions: actions?.split(", ").sort(),
      }),
    );
    expect(drawn).toHaveLength(
      diagram
        .trim()
        .split("\n")
        .filter((line) => line.includes("-->")).length,
    );
    const { rows } = await client.query(
      `select from_state as "from", to_state as "to", array_agg(action order by action) as actions from reembed.transitions group by 1, 2`,
    );
    const sorted = (edges: readonly object[]) => edges.map((edge) => JSON.stringify(edge)).sort();
    expect(sorted(drawn)).toEqual(sorted(rows));
    const events = await client.query(
      "select action, event from reembed.transitions where event not in (select unnest($1::text[]))",
      [["add", "load", "loading", "indexing", "ready", "abandon", "cutover", "rollback", "finalize"]],
    );
    expect(events.rows).toEqual([]);
  });

  test("facts that change send a version back, and it comes to be ready again", async () => {
    const collection = await ready("backwards");
    await client.query("drop index backwards_embedding_2_hnsw");
    expect(await value("select reembed.advance('backwards', 2)")).toBe("indexing");
    await client.query(
      "insert into reembed.jobs (version_id, row_id, priority) select $1, id::text, 1 from backwards limit 1",
      [collection.versions[1]?.id],
    );
    expect(await value("select reembed.advance('backwards', 2)")).toBe("loading");
    await workOff(client, { collection: "backwards" });
    expect(await value("select reembed.advance('backwards', 2)")).toBe("indexing");
    await index("backwards", 2);
    expect(await stateOf("backwards", 2)).toBe("ready");
    const { rows } = await client.query(
      "select kind, actor, reason from reembed.events where collection = 'backwards' and version = 2 order by id",
    );
    expect(rows.map(({ kind }) => kind)).toEqual([
      "add",
      "load",
      "indexing",
      "ready",
      "indexing",
      "loading",
      "indexing",
      "ready",
    ]);
    expect(rows.slice(1).every(({ actor, reason }) => actor === "postgres" && reason !== null)).toBe(true);
  });

  test.each(PLACEMENTS)(
    "a load that is given up leaves nothing behind but what was paid, vectors %s",
    async (placement) => {
      const name = `given_up_${PLACEMENTS.indexOf(placement)}`;
      const collection = await createCollection(client, name, placement);
      for (let n = 0; n < 5; n += 1) await insertRow(client, collection, `row ${n}`);
      await load(client, collection, 2);
      await workOff(client, { collection: name, version: 1 });
      const lease = await claim(client, { collection: name, version: 2, maxRows: 3 });
      expect(await complete(client, lease)).toMatchObject({ done: 3 });
      const late = await claim(client, { collection: name, version: 2 });
      expect(late.jobs).toHaveLength(2);

      expect(await value("select reembed.abandon($1, 2, 'the wrong model', 'tester')", [name])).toBe(
        "prepared",
      );
      expect(await complete(client, late)).toMatchObject({
        done: 0,
        lost_lease: late.jobs.map(({ row_id }) => row_id),
      });
      expect(
        await value("select count(*)::int from reembed.jobs where version_id = $1", [
          collection.versions[1]?.id,
        ]),
      ).toBe(0);
      const [edited] = lease.jobs;
      await client.query(`update ${collection.table} set title = 'edited meanwhile' where id = $1`, [
        edited?.row_id,
      ]);
      await insertRow(client, collection, "written meanwhile");
      expect(await violations(client)).toEqual([]);
      await expect(client.query("select reembed.abandon($1, 2)", [name])).rejects.toMatchObject({
        code: "RE007",
        hint: "Possible now: finalize, start_loading.",
      });

      await load(client, collection, 2);
      // Two that were not stored, one that was edited, one that is new: the two others were paid for.
      expect(await workOff(client, { collection: name, version: 2 })).toBe(4);
      expect(await violations(client)).toEqual([]);
    },
  );

  test("the whole move twice: v3 after v2, and a rollback goes to the version left", async () => {
    const collection = await ready("thrice");
    await cutover("thrice", 2);
    await client.query("alter table thrice add column embedding_3 extensions.vector(8)");
    await client.query("select reembed.add_space('test', 'model-3', 8)");
    const id = await value<number>(
      "select reembed.add_version('thrice', 'test/model-3@8', 'embedding_3', 'public.thrice_input')",
    );
    const third = {
      id,
      number: 3,
      space: "test/model-3@8",
      vectorTable: collection.table,
      vectorColumn: "embedding_3",
    };
    const whole = { ...collection, versions: [...collection.versions, third] };
    await load(client, whole, 3);
    await workOff(client, { collection: "thrice" });
    await index("thrice", 3);
    expect([await stateOf("thrice", 1), await stateOf("thrice", 2), await stateOf("thrice", 3)]).toEqual([
      "standby",
      "ready",
      "ready",
    ]);
    await cutover("thrice", 3);
    expect([await stateOf("thrice", 1), await stateOf("thrice", 2), await stateOf("thrice", 3)]).toEqual([
      "standby",
      "standby",
      "ready",
    ]);
    expect(await value("select reembed.rollback('thrice')")).toMatchObject({
      from: 3,
      to: 2,
      stale: 0,
      left: { version: 3, maintained: true },
    });
    expect(await value("select reembed.rollback('thrice')")).toMatchObject({ from: 2, to: 1 });
    await cutover("thrice", 3);
    expect(await value("select reembed.rollback('thrice')")).toMatchObject({ from: 3, to: 1 });
    expect(await violations(client)).toEqual([]);
  });

  test("equal widths: each version answers its own space alone, before and after the switch", async () => {
    const collection = await ready("equals");
    const hash = "01".repeat(32);
    const unnamed = (number: number) =>
      client.query(`select * from public.match_equals${number === 1 ? "" : "_v2"}($1::extensions.vector)`, [
        vectorOf(hash),
      ]);
    for (const switched of [false, true]) {
      if (switched) await cutover("equals", 2);
      for (const number of [1, 2]) {
        expect(await search(collection, number, hash)).toHaveLength(3);
        await expect(unnamed(number)).rejects.toMatchObject({ code: "RE002" });
        const other = SPACES[2 - number];
        await expect(
          client.query(
            `select * from public.match_equals${number === 1 ? "" : "_v2"}($1::extensions.vector, query_space => $2)`,
            [vectorOf(hash), other],
          ),
        ).rejects.toMatchObject({ code: "RE002" });
      }
    }
    // Once the other is gone a vector of that width can only be of one space.
    await client.query("select reembed.finalize('equals', 1)");
    expect((await unnamed(2)).rows).toHaveLength(3);
  });

  test("the way back after a thousand edits returns what a v1 that was never left returns", async () => {
    const moved = await ready("moved", 300);
    const kept = await createCollection(client, "kept");
    await client.query(`insert into ${kept.table} (id, title) select id, title from ${moved.table}`);
    await workOff(client, { collection: "kept" });
    await index("kept", 1);
    await cutover("moved", 2);
    for (let hundred = 0; hundred < 10; hundred += 1) {
      for (const { name } of [moved, kept]) {
        // Each edit a statement of its own: of ten, eight change a text, one is a new row, one takes a row away.
        await client.query(`do $$
          declare
            chosen uuid;
          begin
            for edit in ${hundred * 100}..${hundred * 100 + 99} loop
              select id into chosen from public.${name} order by md5(id::text || edit) limit 1;
              case edit % 10
                when 8 then insert into public.${name} (id, title) values (md5('new ' || edit)::uuid, 'new ' || edit);
                when 9 then delete from public.${name} where id = chosen;
                else update public.${name} set body = 'edit ' || edit where id = chosen;
              end case;
            end loop;
          end $$`);
        await workOff(client, { collection: name });
      }
    }
    expect(await value("select reembed.rollback('moved')")).toMatchObject({ from: 2, to: 1, stale: 0 });
    expect(await value("select count(*)::int from moved")).toBe(
      await value("select count(*)::int from kept"),
    );
    for (let query = 0; query < 20; query += 1) {
      const hash = Buffer.from(`query ${query}`.padEnd(32, "#")).toString("hex");
      expect(await search(moved, 1, hash, 50)).toEqual(await search(kept, 1, hash, 50));
    }
    expect(await violations(client)).toEqual([]);
  });

  test("a version whose provider cannot be called is left with a warning, and its staleness is its edits", async () => {
    const collection = await ready("unreachable");
    await client.query("select reembed.pause_space($1, 'brought from elsewhere')", [SPACES[0]]);
    const args = ["--collection", "unreachable", "--db-url", url];
    try {
      const { stdout, stderr, code } = await runCli([
        "cutover",
        "--version",
        "2",
        "--force",
        "--reason",
        "a test",
        ...args,
      ]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const warning =
        /^warning: nothing can be embedded for v1 now \(the space is paused: brought from elsewhere\): .*; now 0$/gm;
      // Before and after.
      expect(stdout.match(warning)).toHaveLength(2);
      expect(stdout).toMatch(/^v1 stays maintained in test\/model-1@8 until it is finalized/m);
      await client.query(`update ${collection.table} set body = 'edited'`);
      await workOff(client, { collection: "unreachable" });
      expect(await runJson(["rollback", ...args])).toMatchObject({
        code: 0,
        answer: { to: 1, stale: 3, left: { version: 2, jobs: 0 } },
      });
    } finally {
      await client.query("select reembed.resume_space($1)", [SPACES[0]]);
    }
  });

  test("the command lists each gate and refuses with 1", async () => {
    await ready("listed");
    const args = ["cutover", "--collection", "listed", "--version", "2", "--db-url", url];
    const person = await runCli(args);
    expect(person.code).toBe(1);
    for (const gate of [
      "state",
      "backfill",
      "edits",
      "failed",
      "evaluation",
      "index_recall",
      "index_used",
      "ndcg_drop",
    ])
      expect(person.stdout).toMatch(new RegExp(`^${gate} `, "m"));
    expect(person.stderr).toMatch(
      /^error: version 2 of listed cannot be made active: no evaluation compares v2 with v1/,
    );
    expect(await runJson(args)).toMatchObject({
      code: 1,
      answer: {
        error: { code: "refused" },
        gates: [
          { gate: "state", passes: true },
          {},
          {},
          {},
          { gate: "evaluation", passes: false },
          {},
          {},
          {},
        ],
      },
    });
  });

  test.each([
    { placement: "in place", keep: false },
    { placement: "in place", keep: true },
    { placement: "table of its own", keep: false },
  ] as const)(
    "finalize writes a migration, and after it all goes on: vectors $placement, RPC kept: $keep",
    async ({ placement, keep }) => {
      const name = `final_${PLACEMENTS.indexOf(placement)}_${keep}`;
      const collection = await ready(name, 4, placement);
      const [v1] = collection.versions;
      const args = ["--collection", name, "--db-url", url];
      const project = await mkdtemp(join(tmpdir(), "reembed-finalize-"));
      try {
        await mkdir(join(project, "supabase", "migrations"), { recursive: true });
        const finalize = (...more: string[]) => runJson(["finalize", ...args, "--project", project, ...more]);
        expect(await finalize("--version", "1")).toMatchObject({
          code: 1,
          answer: { error: { code: "refused" } },
        });
        await cutover(name, 2);
        const lease = await (async () => {
          await client.query(`update ${collection.table} set body = 'edited' where title = 'row 0'`);
          return claim(client, { collection: name, version: 1 });
        })();
        const written = await finalize(...(keep ? ["--keep-rpc"] : []), "--reason", "moved for good");
        expect(written).toMatchObject({
          code: 0,
          answer: { version: 1, active: 2, index_bytes: expect.any(Number) },
        });
        expect(written.answer.rewrite).toBe(placement === "in place" ? `vacuum full public.${name}` : null);
        // Written and not applied, nothing has changed: the way back is there.
        expect(await value("select reembed.rollback($1)", [name])).toMatchObject({ to: 1 });
        const sql = await readFile(join(project, String(written.answer.migration)), "utf8");
        const apply = async () => {
          await client.query("begin");
          try {
            await client.query(sql);
            await client.query("commit");
          } catch (error) {
            await client.query("rollback");
            throw error;
          }
        };
        await expect(apply()).rejects.toMatchObject({ code: "RE007" });
        expect(await stateOf(name, 1)).toBe("ready");
        await cutover(name, 2);

        await apply();
        expect(await stateOf(name, 1)).toBe("retired");
        expect(
          await value(
            "select count(*)::int from pg_attribute where attrelid = to_regclass($1) and attname = 'embedding_1' and not attisdropped",
            [v1?.vectorTable],
          ),
        ).toBe(0);
        // A worker that was at it loses.
        expect(await complete(client, lease)).toMatchObject({
          done: 0,
          lost_lease: lease.jobs.map(({ row_id }) => row_id),
        });
        await expect(client.query("select reembed.rollback($1)", [name])).rejects.toMatchObject({
          code: "RE007",
          message: `version 1 of ${name} was finalized: there is no way back to it`,
        });
        await expect(search(collection, 1, "02".repeat(32))).rejects.toMatchObject({
          code: keep ? "RE010" : "42883",
        });
        await expect(apply()).rejects.toMatchObject({ code: "RE010" });

        await client.query(`update ${collection.table} set body = 'edited again'`);
        await insertRow(client, collection, "new");
        await client.query(`delete from ${collection.table} where title = 'row 1'`);
        expect(await workOff(client, { collection: name })).toBe(4);
        expect(await search(collection, 2, "02".repeat(32))).toHaveLength(4);
        expect(await violations(client)).toEqual([]);
        expect(await value("select reembed.reconcile($1)", [name])).toMatchObject({
          enqueued: 0,
          orphans_removed: 0,
        });
        expect(await value("select count(*)::int from reembed.records where version_id = $1", [v1?.id])).toBe(
          0,
        );
        expect((await runCli(["status", "--db-url", url])).stdout).toMatch(/^ {2}v1 .* retired /m);
        expect(await finalize()).toMatchObject({ code: 1, answer: { error: { code: "refused" } } });
      } finally {
        await rm(project, { recursive: true, force: true });
      }
    },
  );

  test("what a large version leaves is swept a part at a time", async () => {
    const collection = await ready("swept");
    await cutover("swept", 2);
    await client.query(
      "insert into reembed.records (version_id, row_id, content_hash, space_id) select $1, 'r' || n, '', $2 from generate_series(1, 12000) n",
      [collection.versions[0]?.id, SPACES[0]],
    );
    await client.query("select reembed.finalize('swept', 1)");
    const left = () =>
      value<number>("select count(*)::int from reembed.records where version_id = $1", [
        collection.versions[0]?.id,
      ]);
    expect(await left()).toBe(2003);
    await client.query("select reembed.poke()");
    expect(await left()).toBe(0);
  });
});
