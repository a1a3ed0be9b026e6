/** Vectors that are taken as they are, a few rows at a time, and a collection that is taken out again, while the app goes on writing. */
import type { Client } from "pg";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { startLoading } from "../../scripts/lib/move.ts";
import { PLACEMENTS, type Placement } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Sessions, untilBlocked } from "../support/sessions.ts";

const TARGET = { collection: "tales", version: 1 };
/** Row 5's input cannot be made, row 10 has no vector. */
const ADOPTABLE = ["1", "2", "3", "4", "6", "7", "8", "9"];

describePostgres("adopting in chunks", () => {
  let client: Client;
  let sessions: Sessions;
  let url: string;

  beforeEach(async () => {
    ({ url } = await createDatabase());
    client = await connect(url);
    sessions = new Sessions(url);
  });
  afterEach(async () => {
    await sessions.close();
    await client.end();
  });

  async function createTales(placement: Placement): Promise<string> {
    const vectors = placement === "in place" ? "public.tales" : "public.tale_vectors";
    await client.query(`
      create table public.tales (id int primary key, body text, embedding extensions.vector(3));
      insert into public.tales select n, case when n = 5 then 'poison' else 'tale ' || n end from generate_series(1, 10) n;
      create table public.tale_vectors (id int primary key references public.tales on delete cascade, embedding extensions.vector(3));
      insert into ${vectors} (id, embedding) select n, array[n, 1, 1]::extensions.vector from generate_series(1, 9) n
        on conflict (id) do update set embedding = excluded.embedding;
      create function public.tale_input(t public.tales) returns text language sql immutable as
        $$ select case when t.body = 'poison' then (1 / (length(t.body) - 6))::text else t.body end $$;
      select reembed.add_space('test', 'three', 3);
      do $$ begin
        perform reembed.add_collection('tales', 'public.tales', array['id', 'body']);
        perform reembed.add_version('tales', 'test/three@3', 'embedding', 'public.tale_input', vector_table => '${vectors}',
                                    vector_key => array['id'], adopts => true);
        perform reembed.start_loading('tales', 1);
      end $$;`);
    return vectors;
  }

  async function adopt(pid?: (pid: number) => void): Promise<void> {
    const db = await openDatabase(url, 1);
    try {
      const [row] = await db.query<{ pid: number }>("select pg_backend_pid() as pid");
      pid?.(row?.pid ?? 0);
      await startLoading(db, TARGET, 4);
    } finally {
      await db.close();
    }
  }

  const state = async () => {
    const { rows } = await client.query<{ records: string[]; jobs: string[] }>(
      `select (select coalesce(array_agg(r.row_id order by r.row_id::int), '{}') from reembed.records r, reembed.version_numbered('tales', 1) v where r.version_id = v.id) as records,
              (select coalesce(array_agg(j.row_id order by j.row_id::int), '{}') from reembed.jobs j, reembed.version_numbered('tales', 1) v where j.version_id = v.id) as jobs`,
    );
    return rows[0];
  };

  describe.each(PLACEMENTS)("vectors %s", (placement) => {
    test("takes what has a vector, once, and enqueues the rest", async () => {
      await createTales(placement);
      await adopt();
      expect(await state()).toEqual({ records: ADOPTABLE, jobs: ["5", "10"] });
      await client.query("update public.tales set body = 'another' where id = 2");
      await adopt();
      const after = await state();
      expect(after?.records).toEqual(ADOPTABLE);
      expect(after?.jobs).toContain("2");
      // Only the first time: a vector that appears later is nobody's that we know.
      await client.query("delete from reembed.records where row_id = '7'");
      await adopt();
      expect((await state())?.jobs).toContain("7");
    });

    test("waits for a row that the app is editing, and does not take its vector", async () => {
      await createTales(placement);
      const app = await sessions.open();
      await app.client.query("begin; update public.tales set body = 'new' where id = 3");
      let pid = 0;
      const adopting = adopt((own) => {
        pid = own;
      });
      await untilBlocked(
        client,
        {
          client,
          get pid() {
            return pid;
          },
        },
        adopting,
      );
      await app.client.query("commit");
      await adopting;
      expect(await state()).toEqual({
        records: ADOPTABLE.filter((id) => id !== "3"),
        jobs: ["3", "5", "10"],
      });
    });
  });

  test("leaves a vector alone that the app is writing in a table of its own", async () => {
    const vectors = await createTales("table of its own");
    const app = await sessions.open();
    await app.client.query(`begin; update ${vectors} set embedding = '[9,9,9]' where id = 4`);
    let pid = 0;
    const adopting = adopt((own) => {
      pid = own;
    });
    await untilBlocked(
      client,
      {
        client,
        get pid() {
          return pid;
        },
      },
      adopting,
    );
    await app.client.query("commit");
    await adopting;
    const after = await state();
    expect(after?.records).toEqual(ADOPTABLE.filter((id) => id !== "4"));
    expect(after?.jobs).toEqual(["4", "5", "10"]);
  });

  test("a collection is taken out while the app writes, between two of its transactions", async () => {
    await createTales("in place");
    await adopt();
    const [app, operator] = [await sessions.open(), await sessions.open()];
    await app.client.query("begin; update public.tales set body = 'new' where id = 3");
    const removing = operator.client.query("select reembed.remove_collection('tales')");
    await untilBlocked(client, operator, removing);
    await app.client.query("update public.tales set body = 'newer' where id = 4; commit");
    await removing;
    await app.client.query("update public.tales set body = 'free' where id = 5");
    const { rows } = await client.query("select from reembed.jobs where row_id in ('3', '4')");
    expect(rows).toEqual([]);
  });
});
