/**
 * Small collections for tests: vectors of eight dimensions that follow from the text's hash, so that whether a stored vector matches
 * its text can be asked of the database alone.
 */
import { type ClientBase, escapeIdentifier } from "pg";

/** Where a version's vectors stand. */
export type Placement = "in place" | "table of its own";
export const PLACEMENTS: readonly Placement[] = ["in place", "table of its own"];

export const SPACES = ["test/model-1@8", "test/model-2@8"] as const;

export interface TestCollection {
  readonly name: string;
  /** Quoted and qualified: `id uuid`, `title`, `body` (the input is both) and `note`, which is no input. */
  readonly table: string;
  readonly placement: Placement;
  readonly versions: readonly TestVersion[];
}

export interface TestVersion {
  readonly id: number;
  readonly number: number;
  readonly space: string;
  /** Quoted and qualified table of the vectors, keyed by `id`. */
  readonly vectorTable: string;
  readonly vectorColumn: string;
}

/** The vector that the tests' provider gives the text with this hash (hex), as pgvector's text. `public.test_vector` is its twin in SQL. */
export function vectorOf(hash: string): string {
  return `[${Array.from(Buffer.from(hash, "hex").subarray(0, 8), (byte) => byte + 1).join(",")}]`;
}

/**
 * Makes a table with two versions, each in a space of its own. Version 1 is maintained; of an empty table nothing is left to enqueue.
 * @param client the owner (`postgres`), outside any transaction
 */
export async function createCollection(
  client: ClientBase,
  name: string,
  placement: Placement = "in place",
): Promise<TestCollection> {
  const table = `public.${escapeIdentifier(name)}`;
  await client.query(`
    create or replace function public.test_vector(hash bytea) returns extensions.vector language sql immutable as
      $$ select array_agg(get_byte(hash, n) + 1 order by n)::extensions.vector(8) from generate_series(0, 7) n $$;
    create table ${table} (
      id uuid primary key default gen_random_uuid(), title text, body text, note text,
      embedding_1 extensions.vector(8), embedding_2 extensions.vector(8));
    create function public.${escapeIdentifier(`${name}_input`)}(r ${table}) returns text language sql immutable as
      $$ select coalesce(r.title, '') || E'\\n' || coalesce(r.body, '') $$;`);
  await client.query("begin");
  await client.query(`select reembed.add_collection($1, $2::regclass, array['id', 'title'])`, [name, table]);
  const versions: TestVersion[] = [];
  for (const [index, space] of SPACES.entries()) {
    const number = index + 1;
    const vectorTable =
      placement === "in place" ? table : `public.${escapeIdentifier(`${name}_vectors_${number}`)}`;
    const vectorColumn = `embedding_${number}`;
    if (placement === "table of its own") {
      await client.query(`create table ${vectorTable} (
        id uuid primary key references ${table} on delete cascade on update cascade,
        ${vectorColumn} extensions.vector(8) not null)`);
    }
    await client.query(`select reembed.add_space('test', $1, 8)`, [`model-${number}`]);
    const { rows } = await client.query<{ id: number }>(
      `select reembed.add_version($1, $2, $3, $4, vector_table => $5::regclass) as id`,
      [name, space, vectorColumn, `public.${escapeIdentifier(`${name}_input`)}`, vectorTable],
    );
    versions.push({ id: rows[0]?.id ?? 0, number, space, vectorTable, vectorColumn });
  }
  await client.query("commit");
  const collection = { name, table, placement, versions };
  await load(client, collection, 1);
  return collection;
}

/** Takes the systems' collections out of the registry, all but course_content: for tests that count what there is. */
export async function removeOtherSystems(client: ClientBase): Promise<void> {
  await client.query(
    "select reembed.remove_collection(c.name) from reembed.collections c where c.name <> 'course_content'",
  );
}

/** Makes a version maintained and enqueues its rows, as the lifecycle does it: each step a transaction of its own. */
export async function load(client: ClientBase, collection: TestCollection, number: number): Promise<void> {
  const version = versionOf(collection, number);
  await client.query(`select reembed.start_loading($1, $2)`, [collection.name, number]);
  let last: string | null = null;
  do {
    const chunk: { step: { last: string | null; busy: string[] } }[] = (
      await client.query(`select reembed.enqueue_missing($1, $2, 100) as step`, [version.id, last])
    ).rows;
    const busy = chunk[0]?.step.busy ?? [];
    for (const rowId of busy) await enqueueBusyRow(client, version.id, rowId);
    last = chunk[0]?.step.last ?? null;
  } while (last !== null);
  await client.query(`select reembed.finish_enqueueing($1, $2)`, [collection.name, number]);
}

/** Asks again until whoever writes the row has committed. */
async function enqueueBusyRow(client: ClientBase, versionId: number, rowId: string): Promise<void> {
  for (;;) {
    try {
      await client.query(`select reembed.enqueue_row($1, $2)`, [versionId, rowId]);
      return;
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "55P03")) throw error;
    }
  }
}

export function versionOf(collection: TestCollection, number: number): TestVersion {
  const version = collection.versions.find((candidate) => candidate.number === number);
  if (version === undefined) throw new Error(`${collection.name} has no version ${number}`);
  return version;
}

/** Inserts one row and returns its id. */
export async function insertRow(
  client: ClientBase,
  collection: Pick<TestCollection, "table">,
  title: string,
): Promise<string> {
  const { rows } = await client.query<{ id: string }>(
    `insert into ${collection.table} (title) values ($1) returning id`,
    [title],
  );
  return rows[0]?.id ?? "";
}

/** What law 2 finds wrong, in one snapshot. */
export async function violations(client: ClientBase): Promise<unknown[]> {
  return (await client.query(`select * from reembed.violations()`)).rows;
}

/** The row ids whose stored vector in a version is not the one of its present text, rows without a vector included. */
export async function mismatches(
  client: ClientBase,
  collection: TestCollection,
  number = 1,
): Promise<string[]> {
  const { vectorTable, vectorColumn } = versionOf(collection, number);
  const { rows } = await client.query<{ id: string }>(`
    select t.id from ${collection.table} t left join ${vectorTable} v on v.id = t.id
     where v.${vectorColumn} is distinct from
       public.test_vector(sha256(convert_to(coalesce(t.title, '') || E'\\n' || coalesce(t.body, ''), 'UTF8')))`);
  return rows.map((row) => row.id);
}

/** A version's jobs, by row id. */
export async function jobs(
  client: ClientBase,
  versionId: number,
): Promise<{ row_id: string; attempts: number; leased: boolean; failed: boolean; error: string | null }[]> {
  const { rows } = await client.query(
    `select row_id, attempts, lease_token is not null as leased, failed_at is not null as failed, error
       from reembed.jobs where version_id = $1 order by row_id`,
    [versionId],
  );
  return rows;
}

/** The row ids of a version's records. */
export async function recorded(client: ClientBase, versionId: number): Promise<string[]> {
  const { rows } = await client.query<{ row_id: string }>(
    `select row_id from reembed.records where version_id = $1 order by row_id`,
    [versionId],
  );
  return rows.map((row) => row.row_id);
}
