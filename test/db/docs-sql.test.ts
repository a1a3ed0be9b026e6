/** The SQL that the documents tell an operator to paste runs as it stands there, as the owner, on a project's database. */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { expect, test } from "vitest";
import { createDatabase, describePostgres } from "../support/postgres.ts";

/** The SQL blocks of a document, in order. */
const blocksOf = (path: string): string[] =>
  [
    ...readFileSync(new URL(`../../docs/${path}`, import.meta.url), "utf8").matchAll(
      /^```sql\n([\s\S]*?)^```/gm,
    ),
  ].map(([, block = ""]) => block);

async function runAll(client: Client, blocks: readonly string[]): Promise<void> {
  for (const block of blocks) {
    await client.query(block).catch((error: Error) => {
      throw new Error(`${error.message}, in:\n${block}`, { cause: error });
    });
  }
}

describePostgres("the documents' SQL", () => {
  test("operations.md: watch, pause, schedule; a table with vectors is registered, and they are taken as they are", async () => {
    const { url } = await createDatabase({ cron: true });
    const client = new Client(url);
    await client.connect();
    try {
      await client.query(`
        create table public.posts (
          id bigint generated always as identity primary key, title text not null, body text, lang text, embedding extensions.vector(384));
        insert into public.posts (title, body, embedding)
        select 'title ' || n, 'body', array_fill(n::real, array[384])::extensions.vector from generate_series(1, 3) n;`);
      await runAll(client, blocksOf("operations.md"));
      const { rows } = await client.query(
        `select row_id, space_id from reembed.records where version_id = (reembed.version_numbered('posts', 1)).id order by row_id`,
      );
      expect(rows).toEqual(
        ["1", "2", "3"].map((row_id) => ({ row_id, space_id: "external/my-old-model@384" })),
      );
      const { rows: paused } = await client.query(
        "select id from reembed.spaces where paused_until > now() order by id",
      );
      expect(paused).toEqual([{ id: "external/my-old-model@384" }]);
      const found = await client.query("select id from public.match_posts($1, match_count => 2)", [
        `[${Array(384).fill(1)}]`,
      ]);
      expect(found.rows).toHaveLength(2);
      expect((await client.query("select jobname from cron.job")).rows).toEqual([]);
    } finally {
      await client.end();
    }
  });

  test("evaluation.md: the query log is switched on and off, verdicts are read", async () => {
    const client = new Client((await createDatabase()).url);
    await client.connect();
    try {
      await runAll(client, blocksOf("evaluation.md"));
      expect(
        (
          await client.query(
            "select detail -> 'enabled' as enabled from reembed.events where kind = 'query_log' order by id",
          )
        ).rows,
      ).toEqual([{ enabled: true }, { enabled: false }]);
    } finally {
      await client.end();
    }
  });

  test("providers.md: spaces are added, and versions without records take others", async () => {
    const client = new Client((await createDatabase()).url);
    await client.connect();
    try {
      await runAll(client, blocksOf("providers.md"));
      const { rows } = await client.query(
        `select v.number, v.space_id from reembed.versions v join reembed.collections c on c.id = v.collection_id
          where c.name = 'course_content' order by v.number`,
      );
      expect(rows).toEqual([
        { number: 1, space_id: "hash/words-and-ngrams@384" },
        { number: 2, space_id: "hash/words-and-ngrams@1536" },
      ]);
    } finally {
      await client.end();
    }
  });

  test("photo-search.md: vectors restored from elsewhere are adopted, and one of them finds its product", async () => {
    const client = new Client((await createDatabase()).url);
    await client.connect();
    try {
      await client.query(`
        insert into public.products (id, name) values (1, 'Mug');
        insert into public.product_images (id, product_id, image_filename) values (1, 1, 'mug.jpg');
        insert into public.image_embeddings (image_id, image_embedding) values (1, array_fill(1::real, array[512])::extensions.vector)`);
      const [adopt, search] = blocksOf("photo-search.md");
      await runAll(client, [adopt ?? ""]);
      expect((await client.query("select row_id from reembed.records")).rows).toEqual([{ row_id: "1" }]);
      expect((await client.query(search ?? "")).rows).toEqual([
        { product_id: "1", name: "Mug", similarity: 1 },
      ]);
    } finally {
      await client.end();
    }
  });
});
