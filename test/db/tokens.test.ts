/** The database and the worker estimate tokens by one rule: what a claim reserves is what the worker would settle without the provider's count. */
import type { Client } from "pg";
import { beforeAll, expect, test } from "vitest";
import { estimateTokens, UTF8_BYTES_PER_TOKEN } from "../../supabase/functions/_shared/tokens.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

const TEXTS = [
  "",
  "a",
  "abcd",
  "abcde",
  "a".repeat(8),
  "ä".repeat(6),
  "日本語の文章",
  "🜂🜄",
  "An ordinary sentence of English prose, with a few commas.",
];

describePostgres("the estimate of tokens", () => {
  let client: Client;

  beforeAll(async () => {
    const database = await createDatabase();
    client = await connect(database.url);
    await client.query(`
      create table public.measured (id int primary key, body text not null, embedding extensions.vector(3));
      create function public.measured_input(m public.measured) returns text language sql immutable as $$ select m.body $$;
      select reembed.add_space('test', 'three', 3);
      do $$ begin
        perform reembed.add_collection('measured', 'public.measured', array['id']);
        perform reembed.add_version('measured', 'test/three@3', 'embedding', 'public.measured_input');
        perform reembed.start_loading('measured', 1);
      end $$`);
    return () => client.end();
  });

  test("has one figure", async () => {
    const { rows } = await client.query<{ bytes: number }>("select reembed.bytes_per_token() as bytes");
    expect(rows).toEqual([{ bytes: UTF8_BYTES_PER_TOKEN }]);
  });

  test("is the worker's in a claim, for every length", async () => {
    await client.query(
      "insert into public.measured select n, body from unnest($1::text[]) with ordinality u(body, n)",
      [TEXTS],
    );
    const { rows } = await client.query<{ claim: { jobs: { input: string; tokens: number }[] } }>(
      "select reembed.claim('measured') as claim",
    );
    const jobs = rows[0]?.claim.jobs ?? [];
    expect(jobs.map(({ input }) => input).sort()).toEqual([...TEXTS].sort());
    expect(jobs.map(({ tokens }) => tokens)).toEqual(jobs.map(({ input }) => estimateTokens(input)));
  });
});
