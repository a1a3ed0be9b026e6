/** What a hostile table, row, role or session does to the core: each of these broke it once. */
import type { Client } from "pg";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Session, Sessions } from "../support/sessions.ts";

describePostgres("hostile surroundings", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let app: Session;
  let owner: Client;

  beforeAll(async () => {
    database = await createDatabase();
    sessions = new Sessions(database.url);
    const { client } = await sessions.open();
    await client.query(
      "select reembed.add_space('test', 'one', 4), reembed.add_space('test', 'two', 4), reembed.add_space('test', 'three', 4)",
    );
    await sessions.close();
  });
  beforeEach(async () => {
    sessions = new Sessions(database.url);
    app = await sessions.open();
    owner = app.client;
  });
  afterEach(() => sessions.close());

  interface Table {
    readonly columns?: string;
    /** The input function's body, of a row r. */
    readonly input?: string;
    readonly publicColumns?: string;
    readonly filters?: string;
    readonly keys?: string;
    readonly space?: string;
    /** After `create table`: what else to make. */
    readonly extra?: string;
  }

  /** A table `name` with a bigint key, a body and a vector, as a collection whose version 1 is maintained. */
  async function adopt(name: string, table: Table = {}): Promise<number> {
    await owner.query(`
      create table public.${name} (${table.columns ?? "id bigint primary key, body text"}, embedding extensions.vector(4));
      create function public.${name}_input(r public.${name}) returns text language sql immutable as $$ select ${table.input ?? "r.body"} $$;
      ${table.extra ?? ""}`);
    await owner.query("begin");
    try {
      await owner.query("select reembed.add_collection($1, $2::regclass, $3, $4, $5)", [
        name,
        `public.${name}`,
        table.publicColumns ?? "{id,body}",
        table.filters ?? "{}",
        table.keys ?? null,
      ]);
      await owner.query("select reembed.add_version($1, $2, 'embedding', $3)", [
        name,
        table.space ?? "test/one@4",
        `public.${name}_input`,
      ]);
      await owner.query("commit");
    } catch (error) {
      await owner.query("rollback");
      throw error;
    }
    await owner.query("select reembed.start_loading($1, 1)", [name]);
    await owner.query("select reembed.finish_enqueueing($1, 1)", [name]);
    return value("select (reembed.version_numbered($1, 1)).id", [name]);
  }

  /** The one value of a statement's one row. */
  async function value<T>(sql: string, values: readonly unknown[] = [], client = owner): Promise<T> {
    const { rows } = await client.query({ text: sql, values: [...values], rowMode: "array" });
    return (rows as unknown as [T][])[0]?.[0] as T;
  }

  const rejection = (work: Promise<unknown>) =>
    work.then(
      () => ({ code: "none", message: "" }),
      (error: { code: string; message: string }) => ({ code: error.code, message: error.message }),
    );

  describe("a role that may write rows", () => {
    test("runs nothing with the owner's rights through types of its own", async () => {
      await adopt("diary", {
        extra: `
          create table public.seen (who text);
          grant insert on public.seen to public;
          create function public.spy() returns boolean language plpgsql as
            $spy$ begin insert into public.seen values (current_user); return true; end $spy$;
          grant insert, update, delete, select on public.diary to authenticated;`,
      });
      const { client } = await sessions.open();
      await client.query("set role authenticated");
      for (const type of ["text", "jsonb", "uuid", "bytea", "name", "regclass"]) {
        await client.query(`create domain pg_temp.${type} as pg_catalog.${type} check (public.spy())`);
      }
      await client.query("insert into public.diary values (1, 'a'), (2, 'b')");
      await client.query("update public.diary set body = 'c', id = id + 10");
      await client.query("delete from public.diary");
      await client.query("select public.embedding_route('diary'), public.embedding_route('diary', 1)");
      await rejection(client.query("select public.embedding_route('diary', 2)"));
      await rejection(client.query("select public.embedding_route('none')"));
      expect(
        await value("select array_agg(distinct who) from public.seen where who <> 'authenticated'"),
      ).toBe(null);
    });
  });
});
