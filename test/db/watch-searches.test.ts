/** What a worker learns of the searches that it has to spare. */
import { describe, expect, test } from "vitest";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

interface Sample {
  readonly searches: number | null;
  readonly search_ms: number | null;
}

describePostgres("watching searches", () => {
  describe("of a collection with an old and a new version", () => {
    async function moved(rows: number, type: "vector" | "halfvec" = "vector") {
      const database = await createDatabase();
      const client = await connect(database.url);
      await client.query(`
        create table public.notes (id bigint primary key, title text, old extensions.${type}(4), new extensions.vector(4));
        create function public.notes_input(r public.notes) returns text language sql immutable as $$ select r.title $$;
        select reembed.add_space('test', 'old', 4), reembed.add_space('test', 'new', 4);
        select reembed.add_collection('notes', 'public.notes', array['id', 'title']);
        select reembed.add_version('notes', 'test/old@4', 'old', 'public.notes_input');
        select reembed.add_version('notes', 'test/new@4', 'new', 'public.notes_input');
        insert into public.notes select n, 'note ' || n, array[n, 1, 1, 1]::extensions.${type}(4) from generate_series(1, ${rows}) n`);
      const watch = async (number = 2) =>
        (
          await client.query<{ sample: Sample }>(
            `select reembed.watch_searches((reembed.version_numbered('notes', $1)).id) as sample`,
            [number],
          )
        ).rows[0]?.sample;
      return { client, watch };
    }

    test("there is nothing to spare where the active version has no index", async () => {
      const { watch } = await moved(10);
      expect(await watch()).toEqual({ searches: null, search_ms: null });
    });

    test("a sample searches the active version by its index, three times", async () => {
      const { client, watch } = await moved(500);
      await client.query("create index on public.notes using hnsw (old extensions.vector_cosine_ops)");
      const scans = async () =>
        (
          await client.query<{ scans: number }>(
            "select idx_scan::int as scans from pg_stat_user_indexes where indexrelname = 'notes_old_idx'",
          )
        ).rows[0]?.scans;
      expect(await watch()).toEqual({ searches: 0, search_ms: expect.any(Number) });
      await client.query("select pg_stat_force_next_flush()");
      expect(await scans()).toBe(3);
      expect((await watch())?.searches).toBe(3);
    });

    test("it does so for vectors of half precision, and for an empty table", async () => {
      const { client, watch } = await moved(0, "halfvec");
      await client.query("create index on public.notes using hnsw (old extensions.halfvec_cosine_ops)");
      expect(await watch()).toEqual({ searches: 0, search_ms: expect.any(Number) });
    });
  });
});
