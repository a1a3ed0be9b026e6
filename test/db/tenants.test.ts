/**
 * One tenant never sees another's rows, by any door of the API, and always its own: every table, view and function that a role may reach, the function search,
 * counts and error texts, over every collection whose policies tell callers apart.
 */
import { type Client, DatabaseError } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { databaseError, type Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { MODES, search } from "../../supabase/functions/_shared/search.ts";
import { type ApiRole, asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import {
  doorsFor,
  fillFor,
  SHARED,
  TENANTS,
  type TenantCollection,
  tenantCollections,
  vectorOfWidth,
} from "../support/tenants.ts";

/** Two collections of the test's own, one for each place of the vectors, found by meaning and by words. */
const OWN_COLLECTIONS = `
  create table public.diary (id uuid primary key default gen_random_uuid(), owner uuid not null, title text not null, words tsvector generated always as (to_tsvector('simple', title)) stored,
    embedding extensions.vector(8), embedding_2 extensions.vector(12));
  create index on public.diary using gin (words);
  create table public.letters (id bigint generated always as identity primary key, user_id uuid not null, body text not null);
  create table public.letter_vectors (id bigint primary key references public.letters on delete cascade, embedding extensions.vector(8) not null);
  alter table public.diary enable row level security;
  alter table public.letters enable row level security;
  alter table public.letter_vectors enable row level security;
  revoke all on public.diary, public.letters, public.letter_vectors from public, anon, authenticated;
  grant select, insert, update, delete on public.diary, public.letters to authenticated;
  grant select on public.letter_vectors to authenticated;
  create policy "own pages" on public.diary to authenticated using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
  create policy "own letters" on public.letters to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
  create policy "vectors of own letters" on public.letter_vectors for select to authenticated using ((select true from public.letters l where l.id = letter_vectors.id));
  create function reembed.diary_input(d public.diary) returns text language sql immutable set search_path = pg_catalog, pg_temp as 'select d.title';
  create function reembed.letters_input(l public.letters) returns text language sql immutable set search_path = pg_catalog, pg_temp as 'select l.body';
  select reembed.add_space('test', 'm', 8), reembed.add_space('test', 'm', 12);
  select reembed.add_collection('diary', 'public.diary', array['id', 'title']), reembed.add_collection('letters', 'public.letters', array['id', 'body']);
  select reembed.add_version('diary', 'test/m@8', 'embedding', 'reembed.diary_input'), reembed.add_version('diary', 'test/m@12', 'embedding_2', 'reembed.diary_input'),
         reembed.add_version('letters', 'test/m@8', 'embedding', 'reembed.letters_input', vector_table => 'public.letter_vectors');
  select reembed.set_lexical_search('diary', 'words', 'simple');
  select reembed.start_loading('diary', 1), reembed.start_loading('letters', 1);`;

describePostgres("two tenants", () => {
  let client: Client;
  let collections: TenantCollection[];
  let widths: number[];
  beforeAll(async () => {
    const database = await createDatabase();
    client = await connect(database.url);
    await client.query(OWN_COLLECTIONS);
    collections = await tenantCollections(client);
    widths = [
      ...new Set(collections.flatMap(({ versions }) => versions.map(({ dimensions }) => dimensions))),
    ];
    for (const { id, secret } of Object.values(TENANTS))
      await client.query("insert into auth.users (id, email) values ($1, $2)", [id, `${secret}@example.org`]);
    for (const tenant of Object.values(TENANTS))
      for (const collection of collections) await fillFor(client, collection, tenant);
  });
  afterAll(() => client?.end());

  const as = <T>(
    role: ApiRole,
    sub: string | undefined,
    work: (client: Pick<Client, "query">) => Promise<T>,
  ) => asRole(client, role, work, sub === undefined ? {} : { sub });

  /** What a door shows, be it rows or an error's texts. */
  async function look(
    role: ApiRole,
    sub: string | undefined,
    sql: string,
    values: readonly unknown[],
  ): Promise<string> {
    try {
      return await as(role, sub, async (caller) =>
        JSON.stringify((await caller.query(sql, [...values])).rows),
      );
    } catch (error) {
      if (!(error instanceof DatabaseError)) throw error;
      return [error.message, error.detail, error.hint].join(" ");
    }
  }

  test("the collections whose policies tell callers apart are all here", () => {
    expect(collections.map(({ name }) => name)).toEqual(expect.arrayContaining(["diary", "letters"]));
  });

  /** What of the others' secrets a role is shown by any door. */
  async function seenBy(
    role: ApiRole,
    sub: string | undefined,
    others: readonly { readonly secret: string }[],
  ): Promise<string[]> {
    const seen: string[] = [];
    const names = collections.map(({ name }) => name);
    for (const { name, sql, values } of await doorsFor(client, role, widths, names)) {
      const shown = await look(role, sub, sql, values);
      for (const { secret } of others)
        if (shown.includes(secret)) seen.push(`${name}: ${shown.slice(0, 300)}`);
    }
    return seen;
  }

  test("a door that is open is found: a view and a function with their owner's rights", async () => {
    await client.query(`
      create view public.open_view as select * from public.diary;
      create function public.open_function(query_text text) returns setof public.letters language sql security definer set search_path = pg_catalog, pg_temp
        as 'select * from public.letters';
      grant select on public.open_view to authenticated; grant execute on function public.open_function to authenticated;`);
    const seen = await seenBy("authenticated", TENANTS.other.id, [TENANTS.owner]);
    await client.query("drop view public.open_view; drop function public.open_function");
    expect(new Set(seen.map((line) => line.split(/[:,]/)[0]))).toEqual(
      new Set(["select from open_view", "open_function"]),
    );
  });

  describe.each([
    ["anon", undefined, Object.values(TENANTS)],
    ["authenticated", undefined, Object.values(TENANTS)],
    ["authenticated", TENANTS.other.id, [TENANTS.owner]],
    ["authenticated", TENANTS.owner.id, [TENANTS.other]],
  ] as const)("as %s %s", (role, sub, others) => {
    test("no door shows another's text", async () => {
      expect(await seenBy(role, sub, others)).toEqual([]);
    });

    test("a count is of what is seen", async () => {
      for (const { table } of collections) {
        const counted = await look(role, sub, `select count(*)::int as n from ${table}`, []);
        if (sub === undefined) expect(counted).not.toMatch(/"n":[1-9]/);
        else expect(counted).toBe('[{"n":1}]');
      }
    });
  });

  describe.each(Object.values(TENANTS))("$secret", ({ id, secret }) => {
    // One transaction at a time on the one connection, though a search makes several calls at once.
    let last: Promise<unknown> = Promise.resolve();
    const rpcAs =
      (role: ApiRole, sub?: string): Rpc =>
      (name, args) => {
        const call = async () => {
          const list = Object.keys(args).map((argument, n) => `${argument} => $${n + 1}`);
          const sql = `select to_jsonb(f) as value from public.${name}(${list.join(", ")}) f`;
          try {
            const { rows } = await as(role, sub, (caller) => caller.query(sql, Object.values(args)));
            return /^(match|hybrid)_/.test(name) ? rows.map(({ value }) => value) : rows[0]?.value;
          } catch (error) {
            throw error instanceof DatabaseError ? databaseError(error) : error;
          }
        };
        const answered = last.then(call, call);
        last = answered;
        return answered;
      };

    test("finds its own row, all of it and nothing else, by every search of every version", async () => {
      for (const { name, versions } of collections) {
        for (const [at, { dimensions }] of versions.entries()) {
          for (const mode of MODES) {
            const answer = await search(
              {
                caller: rpcAs("authenticated", id),
                service: rpcAs("service_role"),
                callerHash: null,
                embedderFor: (space) => ({
                  space,
                  embed: async (inputs) => ({
                    vectors: inputs.map(() => JSON.parse(vectorOfWidth(dimensions))),
                    usage: { tokens: 1 },
                  }),
                }),
              },
              { collection: name, version: at + 1, mode, query: SHARED, match_count: 100 },
            ).catch((error: unknown) => {
              // A collection may have no lexical side.
              if (error instanceof ReembedError && error.code === "invalid_request" && mode !== "semantic")
                return null;
              throw error;
            });
            if (answer === null) continue;
            expect({ name, mode, rows: answer.results.length }).toEqual({ name, mode, rows: 1 });
            const [other] = Object.values(TENANTS).filter((tenant) => tenant.id !== id);
            expect(JSON.stringify(answer)).not.toContain(other?.secret);
          }
        }
      }
    });

    test("changes and removes no row of the other, and writes none in its name", async () => {
      const [other] = Object.values(TENANTS).filter((tenant) => tenant.id !== id);
      const stored = async (table: string) =>
        (
          await client.query(`select count(*)::int as n from ${table} t where t::text like $1`, [
            `%${other?.secret}%`,
          ])
        ).rows[0]?.n;
      for (const { table } of collections) {
        const before = await stored(table);
        expect(before).toBeGreaterThan(0);
        const { rows } = await client.query<{ name: string }>(
          "select quote_ident(attname) as name from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = '' and attidentity = ''",
          [table],
        );
        const list = rows.map(({ name }) => name).join(", ");
        await look(
          "authenticated",
          id,
          `update ${table} set ${rows.map(({ name }) => `${name} = ${name}`).join(", ")} where true`,
          [],
        );
        await look("authenticated", id, `delete from ${table} where not (${table}::text like $1)`, [
          `%${secret}%`,
        ]);
        expect(await stored(table)).toBe(before);
        // The other's row as a stranger would send it.
        const { rows: taken } = await client.query(
          `select to_jsonb(t) as row from ${table} t where t::text like $1 limit 1`,
          [`%${other?.secret}%`],
        );
        await look(
          "authenticated",
          id,
          `insert into ${table} (${list}) select ${list} from jsonb_populate_record(null::${table}, $1) on conflict do nothing`,
          [JSON.stringify({ ...taken[0]?.row, id: undefined })],
        );
        expect(await stored(table)).toBe(before);
      }
    });
  });
});
