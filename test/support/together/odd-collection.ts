/**
 * A collection whose names need quoting everywhere, with a key of two columns and the vectors in tables of their own: in two versions of the fake's
 * models, the second of which is to be moved to.
 */
import type { ClientBase } from "pg";
import { load, type TestCollection, type TestVersion } from "../collection.ts";

export const ODD = "odd";
/** What stands between the quotes of an identifier. */
const TABLE = `public."Odd ""table"".of $1 Übel; --"`;
const PART = `"p a.r""t"`;
const SPACES = [
  { model: "text-embedding-3-large", dimensions: 64 },
  { model: "text-embedding-3-small", dimensions: 48 },
] as const;

export interface OddVersion extends TestVersion {
  readonly model: string;
  readonly dimensions: number;
}

export interface OddCollection extends TestCollection {
  readonly versions: readonly OddVersion[];
  /** SQL that answers id, text and vector of each row in a version. */
  rowsOf(version: OddVersion): string;
}

/** Makes it, its first version maintained. */
export async function createOddCollection(client: ClientBase): Promise<OddCollection> {
  await client.query(`
    create table ${TABLE} (
      ${PART} text not null default 'a "part", with a \\ and a ''', id uuid not null default gen_random_uuid(),
      title text, content text, primary key (${PART}, id));
    alter table ${TABLE} enable row level security;
    create policy "anyone reads" on ${TABLE} for select to anon, authenticated using (true);
    grant select on ${TABLE} to anon, authenticated;
    create function public."odd $input""" (r ${TABLE}) returns text language sql immutable set search_path = pg_catalog, pg_temp
      as $$ select coalesce(r.title, '') || E'\\n' || coalesce(r.content, '') $$;`);
  await client.query("begin");
  await client.query("select reembed.add_collection($1, $2::regclass, array['title', 'content'])", [
    ODD,
    TABLE,
  ]);
  const versions: OddVersion[] = [];
  for (const [index, { model, dimensions }] of SPACES.entries()) {
    const number = index + 1;
    const vectorTable = `public."Odd vectors ""${number}"""`;
    const vectorColumn = "the vector";
    await client.query(`
      create table ${vectorTable} (
        ${PART} text, id uuid, "${vectorColumn}" extensions.vector(${dimensions}) not null, primary key (${PART}, id),
        foreign key (${PART}, id) references ${TABLE} on delete cascade on update cascade);
      grant select on ${vectorTable} to anon, authenticated`);
    const { rows: spaces } = await client.query<{ id: string }>(
      "select reembed.add_space('openai', $1, $2, 0.02) as id",
      [model, dimensions],
    );
    const space = spaces[0]?.id ?? "";
    const { rows } = await client.query<{ id: number }>(
      "select reembed.add_version($1, $2, $3, $4, vector_table => $5::regclass) as id",
      [ODD, space, vectorColumn, `public."odd $input"""`, vectorTable],
    );
    versions.push({ id: rows[0]?.id ?? 0, number, space, vectorTable, vectorColumn, model, dimensions });
  }
  await client.query("commit");
  const collection: OddCollection = {
    name: ODD,
    table: TABLE,
    placement: "table of its own",
    versions,
    rowsOf: ({ vectorTable, vectorColumn }) =>
      `select t.id::text as id, public."odd $input"""(t) as text, e."${vectorColumn}"::text as vector
         from ${TABLE} t left join ${vectorTable} e on e.${PART} = t.${PART} and e.id = t.id`,
  };
  await load(client, collection, 1);
  return collection;
}
