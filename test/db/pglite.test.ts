/** The embedded default: every migration applies on PGlite, and the whole cycle runs there. It is one connection; races are tested elsewhere. */

import { PGlite } from "@electric-sql/pglite";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readMigrations } from "../../scripts/lib/migrations.ts";
import { PGLITE_EXTENSIONS } from "../../scripts/stack/database.ts";
import { vectorOf } from "../support/collection.ts";
import type { Claim } from "../support/worker.ts";

const V1 = 1;
const V2 = 2;

let db: PGlite;

beforeAll(async () => {
  db = await PGlite.create("memory://", { extensions: PGLITE_EXTENSIONS });
  for (const { version, name, sql } of await readMigrations()) {
    await db.exec(`begin; ${sql}; commit;`).catch((error: Error) => {
      throw new Error(`${version}_${name}: ${error.message}`, { cause: error });
    });
  }
  // Short vectors: an index of wide ones takes seconds here.
  await db.exec(`
    create table public.notes (id uuid primary key default gen_random_uuid(), title text not null,
                               embedding extensions.vector(8), embedding_2 extensions.vector(8));
    create function public.notes_input(r public.notes) returns text language sql immutable as $$ select r.title $$;
    begin;
    select reembed.add_collection('notes', 'public.notes', array['id', 'title']);
    select reembed.add_space('test', 'old', 8), reembed.add_space('test', 'new', 8);
    select reembed.add_version('notes', 'test/old@8', 'embedding', 'public.notes_input');
    select reembed.add_version('notes', 'test/new@8', 'embedding_2', 'public.notes_input');
    commit;`);
}, 120_000);
afterAll(() => db.close());

async function one<T>(sql: string, values: unknown[] = []): Promise<T> {
  const { rows } = await db.query<{ value: T }>(`select ${sql} as value`, values);
  const [row] = rows;
  if (row === undefined) throw new Error(`${sql} returned no row`);
  return row.value;
}

/** Works off what is due of `notes` and returns how many vectors were stored. */
async function workOff(): Promise<number> {
  const lease = await one<Claim>("reembed.claim('notes')");
  if (lease.jobs.length === 0) return 0;
  const outcomes = await one<{ done: number }>("reembed.complete($1, $2, $3, $4, $5, $6, $7)", [
    lease.version_id,
    lease.space.id,
    lease.lease_token,
    lease.jobs.map((job) => job.row_id),
    lease.jobs.map((job) => job.hash),
    lease.jobs.map((job) => vectorOf(job.hash)),
    lease.jobs.map(() => 1),
  ]);
  return outcomes.done;
}

async function loadVersion(number: number): Promise<void> {
  await db.query("select reembed.start_loading('notes', $1)", [number]);
  await db.query(
    `select reembed.enqueue_missing(v.id) from reembed.versions v join reembed.collections c on c.id = v.collection_id
      where c.name = 'notes' and v.number = $1`,
    [number],
  );
  await db.query("select reembed.finish_enqueueing('notes', $1)", [number]);
}

const activeVersion = () => one<number>("(public.embedding_route('notes') ->> 'version')::int");
const violations = async () => (await db.query("select * from reembed.violations()")).rows;

/** The titles nearest to a stored title's vector, in a version. */
async function match(version: number, title: string): Promise<string[]> {
  const { rows } = await db.query<{ title: string }>(
    `select m.title from public.match_notes${version === V1 ? "" : "_v2"}(
       (select ${version === V1 ? "embedding" : "embedding_2"} from public.notes where title = $1), null, 2, query_space => $2) m`,
    [title, version === V1 ? "test/old@8" : "test/new@8"],
  );
  return rows.map((row) => row.title);
}

test("course_content stands, searched by anybody", async () => {
  const { rows } = await db.query("select * from public.match_course_content($1::extensions.vector)", [
    `[${Array(384).fill(0.1).join(",")}]`,
  ]);
  expect(rows).toEqual([]);
  expect(await one("public.embedding_route('course_content') ->> 'function'")).toBe("match_course_content");
});

test("rows are inserted, embedded, searched, moved to a new version, switched, edited and switched back", async () => {
  await loadVersion(V1);
  await db.query("insert into public.notes (title) values ('first'), ('second'), ('third')");
  expect(await workOff()).toBe(3);
  expect((await match(V1, "second"))[0]).toBe("second");

  await loadVersion(V2);
  expect(await one("reembed.advance('notes', 2)")).toBe("loading");
  expect(await workOff()).toBe(3);
  await db.exec(await one<string>("reembed.index_sql('notes', 2, build_concurrently => false)"));
  expect(await one("reembed.advance('notes', 2)")).toBe("ready");
  expect((await match(V2, "third"))[0]).toBe("third");

  expect(await one("reembed.cutover('notes', 2, 'a test', force => true)")).toMatchObject({
    from: V1,
    to: V2,
    stale: 0,
  });
  expect(await activeVersion()).toBe(V2);

  await db.query("update public.notes set title = 'first, edited' where title = 'first'");
  await db.query("delete from public.notes where title = 'second'");
  expect(await violations()).toEqual([]);
  // One row, out of date in both versions.
  expect((await workOff()) + (await workOff())).toBe(2);
  for (const version of [V1, V2]) expect((await match(version, "first, edited"))[0]).toBe("first, edited");

  expect(await one("reembed.rollback('notes', 'to see that it works')")).toMatchObject({
    from: V2,
    to: V1,
    stale: 0,
  });
  expect(await activeVersion()).toBe(V1);
  expect(await one("reembed.reconcile()")).toEqual({ enqueued: 0, orphans_removed: 0, busy: 0 });
  expect(await violations()).toEqual([]);
});
