/**
 * Whatever names an app has given to its tables, columns and functions, and whatever types its key has: they are quoted everywhere, name the rows that they
 * should, and are never taken for SQL.
 */
import fc from "fast-check";
import type { Client } from "pg";
import { escapeIdentifier } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createQuoter, literal, nameArray } from "../../../scripts/lib/add/quote.ts";
import { vectorOf } from "../../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../../support/postgres.ts";
import { anyName, anyText, holds, hostileText } from "../../support/properties.ts";
import { claim, complete } from "../../support/worker.ts";

/** What add_collection refuses by name, each with a message of its own: names that a search RPC uses, and the end of a function's body. */
const TAKEN = new Set([
  "query_embedding",
  "match_threshold",
  "match_count",
  "query_space",
  "similarity",
  "found_rows",
  "_distance",
  "ctid",
  "xmin",
  "xmax",
  "cmin",
  "cmax",
  "tableoid",
]);
const columnName = anyName.filter(
  (name) => !TAKEN.has(name) && !/^\$\d+$/.test(name) && !name.includes("$body$"),
);
/** An argument of the RPC is called filter_<column>. */
const filterName = columnName.filter((name) => Buffer.byteLength(name) <= 56);

/** Each type that may be a key, with values of it as text; equal values are left out by the table's own unique index. */
const KEY_TYPES: Readonly<Record<string, fc.Arbitrary<string>>> = {
  int2: fc.integer({ min: -32768, max: 32767 }).map(String),
  int4: fc.integer().map(String),
  int8: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String),
  numeric: fc.oneof(
    fc.integer().map(String),
    fc.constantFrom("0.10", "1e3", "-0.000", "NaN", "Infinity", "123456789012345678901234567890.5"),
  ),
  bool: fc.boolean().map(String),
  uuid: fc.uuid(),
  inet: fc.oneof(fc.ipV4(), fc.ipV6()),
  cidr: fc.ipV4().map((address) => `${address}/32`),
  macaddr: fc.integer({ min: 0, max: 0xffffff }).map(
    (n) =>
      `00:00:00:${n
        .toString(16)
        .padStart(6, "0")
        .replace(/(..)(..)(..)/, "$1:$2:$3")}`,
  ),
  text: fc.oneof(hostileText(), anyText(60)),
  "varchar(80)": hostileText(),
  "char(12)": hostileText(4).filter((text) => [...text].length <= 12),
  mood: fc.constantFrom("so so", 'it\'s "fine"', "ü,{}"),
  short_text: hostileText(3),
};

const key = fc
  .array(fc.record({ name: columnName, type: fc.constantFrom(...Object.keys(KEY_TYPES)) }), {
    minLength: 1,
    maxLength: 3,
  })
  .filter((columns) => new Set(columns.map(({ name }) => name)).size === columns.length)
  .chain((columns) =>
    fc.record({
      columns: fc.constant(columns),
      rows: fc.array(fc.tuple(...columns.map(({ type }) => KEY_TYPES[type] ?? fc.constant(""))), {
        minLength: 1,
        maxLength: 5,
      }),
    }),
  );

describePostgres("names and keys of any kind", () => {
  let client: Client;
  beforeAll(async () => {
    client = await connect((await createDatabase()).url);
    await client.query(`create type public.mood as enum ('so so', 'it''s "fine"', 'ü,{}'); create domain public.short_text as text;
      create function public.test_vector(hash bytea) returns extensions.vector language sql immutable as
        $$ select array_agg(get_byte(hash, n) + 1 order by n)::extensions.vector(8) from generate_series(0, 7) n $$;
      select reembed.add_space('test', 'model-1', 8)`);
    await client.query(`set search_path = "$user", public, extensions`);
  });
  afterAll(() => client?.end());

  const rolledBack = async (work: () => Promise<void>) => {
    await client.query("begin");
    try {
      await work();
    } finally {
      await client.query("rollback");
    }
  };
  const qualified = (name: string) => `public.${escapeIdentifier(name)}`;

  // A row_id that finds no row forgets it; one that finds two gives one's vector to the other.
  holds(
    "a row's id finds that row and no other, in the order of the keys",
    fc.asyncProperty(key, anyName, ({ columns, rows }, table) =>
      rolledBack(async () => {
        const names = columns.map(({ name }) => name);
        const typeOf = (type: string) => (/^(mood|short_text)$/.test(type) ? `public.${type}` : type);
        await client.query(`create table ${qualified(table)} (
          ${columns.map(({ name, type }) => `${escapeIdentifier(name)} ${typeOf(type)} not null`).join(", ")}, ${escapeIdentifier(freeName(names))} text,
          unique (${names.map((name) => escapeIdentifier(name)).join(", ")}))`);
        for (const row of rows) {
          const list = columns.map(({ type }, n) => `$${n + 1}::${typeOf(type)}`).join(", ");
          await client.query(`insert into ${qualified(table)} values (${list}) on conflict do nothing`, row);
        }
        await client.query("select reembed.add_collection('anything', $1::regclass, $2, key_columns => $2)", [
          qualified(table),
          names,
        ]);
        const { rows: sql } = await client.query<{ id: string; match: string; list: string; after: string }>(
          `select reembed.key_of(c.key_columns, 't') as id, reembed.key_match(c, c.key_columns, 't', 'g.id') as match,
                  reembed.key_list(c, 't') as list, reembed.key_after(c, 't', 'g.id', '>') as after
             from reembed.collections c where c.name = 'anything'`,
        );
        const { id = "", match = "", list = "", after = "" } = sql[0] ?? {};
        const { rows: found } = await client.query<{
          found: number;
          same: boolean;
          later: number;
          place: number;
          total: number;
        }>(
          `with g as (select ${id} as id, t.ctid as place, row_number() over (order by ${list}) as n from ${qualified(table)} t)
           select (select count(*)::int from ${qualified(table)} t where ${match}) as found,
                  (select bool_and(t.ctid = g.place) from ${qualified(table)} t where ${match}) as same,
                  (select count(*)::int from ${qualified(table)} t where ${after}) as later, g.n::int as place, (select count(*)::int from g) as total
             from g`,
        );
        for (const { found: times, same, later, place, total } of found)
          expect({ times, same, later }).toEqual({ times: 1, same: true, later: total - place });
      }),
    ),
    40,
  );

  // Quoting that is forgotten in one of a dozen generated functions shows when somebody's column is called so.
  holds(
    "a collection with any names is loaded, embedded, searched and kept current",
    fc.asyncProperty(
      fc.uniqueArray(columnName, { minLength: 4, maxLength: 4 }),
      filterName,
      anyName,
      anyName,
      fc.boolean(),
      ([id = "", text = "", vector = "", other = ""], filter, table, input, inPlace) =>
        rolledBack(async () => {
          fc.pre(
            table !== input &&
              text !== "a" &&
              ![id, text, vector, other, `filter_${id}`].includes(filter) &&
              ![id, text].includes(`filter_${filter}`),
          );
          const vectors = inPlace ? qualified(table) : qualified(`${table.slice(0, 10)} v`);
          const q = (name: string) => escapeIdentifier(name);
          await client.query(`
            create table ${qualified(table)} (${q(id)} text primary key, ${q(text)} text, ${q(filter)} text, ${inPlace ? `${q(vector)} extensions.vector(8)` : `${q(other)} int`});
            create function ${qualified(input)} (r ${qualified(table)}) returns text language sql immutable set search_path = pg_catalog, pg_temp
              as $input$ select r.${q(text)} $input$;
            create index on ${qualified(table)} using gin (to_tsvector('simple', ${q(text)}));
            create index on ${qualified(table)} using gin (public.fold_spelling((${q(text)})) extensions.gin_trgm_ops);`);
          if (!inPlace)
            await client.query(
              `create table ${vectors} (${q(id)} text primary key, ${q(vector)} extensions.vector(8) not null)`,
            );
          await client.query("select reembed.add_collection('anything', $1::regclass, $2, $3)", [
            qualified(table),
            [id, text],
            [filter],
          ]);
          await client.query(
            "select reembed.add_version('anything', 'test/model-1@8', $1, $2, vector_table => $3::regclass)",
            [vector, qualified(input), vectors],
          );
          await client.query(
            "select reembed.start_loading('anything', 1), reembed.finish_enqueueing('anything', 1)",
          );
          await client.query(
            `insert into ${qualified(table)} (${q(id)}, ${q(text)}, ${q(filter)}) values ('a', 'one', 'x'), ($1, 'two', $2)`,
            [text, filter],
          );
          const lease = await claim(client, { collection: "anything" });
          expect(await complete(client, lease)).toMatchObject({ done: 2 });
          await client.query(`update ${qualified(table)} set ${q(text)} = 'three' where ${q(id)} = 'a'`);
          const again = await claim(client, { collection: "anything" });
          expect(again.jobs.map(({ row_id, input: asked }) => [row_id, asked])).toEqual([["a", "three"]]);
          expect(await complete(client, again)).toMatchObject({ done: 1 });
          expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
          const { rows } = await client.query(
            `select * from public.match_anything($1, null, 2, ${q(`filter_${filter}`)} => $2)`,
            [vectorOf("00".repeat(32)), filter],
          );
          expect(rows.map((row) => row[id])).toEqual([text]);
          await client.query(
            "select reembed.set_lexical_search('anything', $1, 'simple'), reembed.set_spelling_search('anything', $2), reembed.set_recency('anything', $3)",
            [`to_tsvector('simple', ${q(text)})`, q(text), "timestamptz '2026-01-01'"],
          );
          for (const call of ["hybrid_anything('two', $1, 2", "recent_anything($1, 2"]) {
            const { rows: found } = await client.query(
              `select * from public.${call}, ${q(`filter_${filter}`)} => $2)`,
              [vectorOf("00".repeat(32)), filter],
            );
            expect(found.map((row) => row[id])).toEqual([text]);
          }
          await client.query("select reembed.reconcile('anything')");
          await client.query(`delete from ${qualified(table)}`);
          expect((await client.query("select from reembed.records")).rows).toEqual([]);
          await client.query("select reembed.remove_collection('anything')");
        }),
    ),
    25,
  );

  test("hybrid and recent searches carry keys of each type", () =>
    rolledBack(async () => {
      const types = Object.keys(KEY_TYPES).map((type) =>
        /^(mood|short_text)$/.test(type) ? `public.${type}` : type,
      );
      const values =
        "1|2|3|0.10|true|00000000-0000-4000-8000-000000000001|10.0.0.1|10.0.0.0/8|00:00:00:00:00:01|a|b b|long text|so so|c".split(
          "|",
        );
      const names = types.map((_, n) => `k${n}`);
      expect(values).toHaveLength(types.length);
      await client.query(`
        create table public.keyed (${types.map((type, n) => `k${n} ${type}`).join(", ")}, body text, embedding extensions.vector(8), primary key (${names.join(", ")}));
        create index on public.keyed using gin (to_tsvector('simple', body));
        create function public.keyed_input(r public.keyed) returns text language sql immutable set search_path = pg_catalog, pg_temp as 'select r.body';
        select reembed.add_collection('keyed', 'public.keyed', array['k11', 'body']);
        select reembed.add_version('keyed', 'test/model-1@8', 'embedding', 'public.keyed_input');
        select reembed.set_lexical_search('keyed', 'to_tsvector(''simple'', body)', 'simple'), reembed.set_recency('keyed', 'timestamptz ''2026-01-01''');`);
      await client.query(
        `insert into public.keyed values (${values.map((_, n) => `$${n + 1}`).join(", ")}, 'word', '[1,1,1,1,1,1,1,1]')`,
        values,
      );
      for (const call of ["hybrid_keyed('word', '[1,1,1,1,1,1,1,2]')", "recent_keyed('[1,1,1,1,1,1,1,2]')"]) {
        const { rows } = await client.query(`select k11, body, similarity from public.${call}`);
        expect(rows).toEqual([
          {
            k11: expect.stringMatching(/^long text +$/),
            body: "word",
            similarity: expect.closeTo(0.9594, 3),
          },
        ]);
      }
    }));

  test.each([
    ["a public column", ["id", "$1"], ["id"], "public_columns"],
    ["a filter", ["id"], ["f".repeat(57)], "filter_columns"],
  ])("%s whose name a function could not hold is refused by its name", (_, returned, filters, named) =>
    rolledBack(async () => {
      const columns = new Set([...returned, ...filters]);
      await client.query(
        `create table public.refused (${[...columns].map((name) => `${escapeIdentifier(name)} text`).join(", ")}, primary key (id))`,
      );
      await expect(
        client.query("select reembed.add_collection('refused', 'public.refused', $1, $2)", [
          returned,
          filters,
        ]),
      ).rejects.toMatchObject({ code: "RE008", message: expect.stringContaining(named) });
    }),
  );

  // What `reembed add` writes is a file that is applied to a live database.
  holds(
    "names and texts that `add` quotes come out of PostgreSQL as they went in",
    fc.asyncProperty(
      anyName,
      fc.oneof(anyText(), hostileText(20)),
      fc.array(anyName, { maxLength: 4 }),
      async (name, text, names) => {
        const { rows: words } = await client.query<{ word: string }>("select word from pg_get_keywords()");
        const quoter = createQuoter(new Set(words.map(({ word }) => word)));
        const { rows, fields } = await client.query(
          `select ${literal(text)} as ${quoter.id(name)}, ${nameArray(names)}::name[]::text[] as names`,
        );
        expect(fields[0]?.name).toBe(name);
        if (name !== "names") expect(rows[0]).toEqual({ [name]: text, names });
      },
    ),
  );
});

/** A name that is none of these. */
function freeName(names: readonly string[]): string {
  let name = "input";
  while (names.includes(name)) name += "_";
  return name;
}
