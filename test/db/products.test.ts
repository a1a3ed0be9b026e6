/** The shop's migration over tables that are there already, the order of a backfill, products by their best image, descriptions bought once. */
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { applyMigrations } from "../../scripts/lib/migrations.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { createHashEmbedder } from "../../supabase/functions/_shared/providers/hash.ts";
import { createQueue } from "../../supabase/functions/_shared/queue.ts";
import { workSlice } from "../../supabase/functions/_shared/worker.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, vectorText } from "../support/vectors.ts";

const CLIP = "clip/clip-ViT-B-32@512";
const PRODUCTS = 60;
const WITHOUT_VECTOR = 4;

/** The tables as such a shop has them, with its index. */
const SHOP = `
  create table products (id serial primary key, name varchar(500) not null, article varchar(100), price numeric);
  create table product_images (
    id serial primary key, product_id int not null references products (id), column_number int, image_url text, image_filename varchar(255));
  create table image_embeddings (
    id serial primary key, image_id int, product_id int not null, image_embedding vector(512), image_url text, model_version varchar(50),
    created_at timestamp default now(), updated_at timestamp default now());
  create index on image_embeddings using ivfflat (image_embedding vector_cosine_ops) with (lists = 100);`;

async function existingShop(
  more = "",
): Promise<{ client: Client; vectors: string[]; migrate: () => Promise<unknown> }> {
  const { url } = await createDatabase({ migrated: false });
  const client = await connect(url);
  await client.query(SHOP);
  const vectors = clusteredVectors(PRODUCTS, 512, { clusters: 6 }).map(vectorText);
  await client.query(`insert into products (name) select 'Product ' || n from generate_series(1, $1) n`, [
    PRODUCTS,
  ]);
  await client.query(
    `insert into product_images (product_id, column_number, image_filename) select id, 1, 'p' || id || '.jpg' from products`,
  );
  await client.query(
    `insert into image_embeddings (image_id, product_id, image_embedding, model_version)
     select n, n, vector::vector, 'clip-ViT-B-32' from unnest($1::text[]) with ordinality g(vector, n) where n > $2`,
    [vectors, WITHOUT_VECTOR],
  );
  await client.query(more);
  return { client, vectors, migrate: () => applyMigrations(client) };
}

describePostgres("a shop that has vectors of its own", () => {
  let client: Client;
  let vectors: string[];
  beforeAll(async () => {
    const shop = await existingShop();
    await shop.migrate();
    ({ client, vectors } = shop);
  });
  afterAll(() => client?.end());
  const one = async (sql: string) => (await client.query(sql)).rows[0];

  test("keeps them as they are: records say what they are of, and nothing is bought", async () => {
    expect(
      await one(
        "select count(*)::int as n, bool_and(space_id = 'clip/clip-ViT-B-32@512' and skipped is null) as right from reembed.records",
      ),
    ).toEqual({ n: PRODUCTS - WITHOUT_VECTOR, right: true });
    expect(await one("select count(*)::int as jobs from reembed.jobs")).toEqual({ jobs: WITHOUT_VECTOR });
    expect(await one("select count(*)::int as n from reembed.usage")).toEqual({ n: 0 });
    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
    const { rows } = await client.query<{ vector: string }>(
      "select image_embedding::text as vector from image_embeddings order by image_id",
    );
    expect(rows.map(({ vector }) => vector)).toEqual(
      (
        await client.query("select v::vector::text as vector from unnest($1::text[]) v", [
          vectors.slice(WITHOUT_VECTOR),
        ])
      ).rows.map(({ vector }) => vector),
    );
    expect(await one("select price, name from products where id = 1")).toEqual({
      price: null,
      name: "Product 1",
    });
  });

  test("is searched at once, by an index of its own kind, while its space waits for a server", async () => {
    const found = await asRole(client, "anon", (db) =>
      db.query("select * from public.match_products($1, match_count => 3)", [vectors[20]]),
    );
    expect(found.rows[0]).toMatchObject({ product_id: "21", name: "Product 21", image_filename: "p21.jpg" });
    expect(found.rows).toHaveLength(3);
    const { rows } = await client.query(
      "select m.amname from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam where i.indrelid = 'image_embeddings'::regclass and m.amname <> 'btree'",
    );
    expect(rows).toEqual([{ amname: "hnsw" }]);
    expect(await one(`select pause_reason from reembed.spaces where id = '${CLIP}'`)).toEqual({
      pause_reason: expect.stringContaining("set CLIP_BASE_URL"),
    });
  });

  test("cannot be searched by another model's vector, and is written by the service alone", async () => {
    const ask = (sql: string) => asRole(client, "anon", (db) => db.query(sql));
    await expect(
      ask("select * from public.match_product_images(array_fill(0.1, array[1536])::extensions.vector)"),
    ).rejects.toMatchObject({ code: "RE001" });
    await expect(
      ask(
        "select * from public.match_product_images(array_fill(0.1, array[512])::extensions.vector, query_space => 'openai/text-embedding-3-small@512')",
      ),
    ).rejects.toMatchObject({ code: "RE002" });
    for (const table of ["products", "product_images", "image_embeddings", "image_embeddings_1536"]) {
      await expect(
        asRole(client, "anon", (db) => db.query(`delete from public.${table}`)),
      ).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describePostgres("a shop that does not fit is left as it is:", () => {
  test.each([
    [
      "vectors of another model",
      "update image_embeddings set model_version = 'clip-ViT-L-14' where image_id > 50",
      /10 rows are vectors of the model clip-ViT-L-14/,
    ],
    [
      "two vectors of one image",
      "insert into image_embeddings (image_id, product_id) values (30, 30)",
      /image 30 has 2 vectors/,
    ],
    [
      "a vector of no image",
      "insert into image_embeddings (image_id, product_id) values (999, 1)",
      /image 999 is not in product_images/,
    ],
    [
      "a vector that names none",
      "insert into image_embeddings (image_id, product_id) values (null, 1)",
      /1 rows name no image/,
    ],
    [
      "another width",
      "drop index image_embeddings_image_embedding_idx; alter table image_embeddings alter column image_embedding type vector(256) using null",
      /image_embedding is \S*vector\(256\), not vector\(512\)/,
    ],
    ["no key", "alter table image_embeddings drop column product_id", /product_id is missing/],
  ])("%s", async (_, harm, message) => {
    const { client, migrate } = await existingShop(harm);
    await expect(migrate()).rejects.toMatchObject({ code: "RE008", message: expect.stringMatching(message) });
    const { rows } = await client.query(
      "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relrowsecurity and c.relname in ('products', 'product_images', 'image_embeddings')",
    );
    expect(rows).toEqual([]);
    await client.end();
  });
});

describePostgres("the shop", () => {
  let client: Client;
  let url: string;
  beforeAll(async () => {
    ({ url } = await createDatabase());
    client = await connect(url);
  });
  afterAll(() => client?.end());
  const one = async (sql: string, values: unknown[] = []) => (await client.query(sql, values)).rows[0];
  const ingest = (products: object[]) =>
    one("select reembed.ingest_products($1) as counts", [JSON.stringify(products)]).then(
      ({ counts }) => counts,
    );

  test("a backfill takes each product's main image first: number 1, else the first there is", async () => {
    await ingest([
      {
        id: 1,
        name: "a",
        images: [
          { image_url: "https://x.example/1-1" },
          { image_url: "https://x.example/1-2" },
          { image_url: "https://x.example/1-3" },
        ],
      },
      {
        id: 2,
        name: "b",
        images: [
          { column_number: 4, image_url: "https://x.example/2-4" },
          { column_number: 3, image_url: "https://x.example/2-3" },
        ],
      },
      { id: 3, name: "c", images: [{ column_number: 1, image_url: "https://x.example/3-1" }] },
    ]);
    await client.query(
      "insert into public.product_images (product_id, image_url) values (4 - 1, 'https://x.example/3-none')",
    );
    await client.query("select reembed.start_loading('product_images', 2)");
    await client.query("select reembed.enqueue_missing((reembed.version_numbered('product_images', 2)).id)");
    await client.query("select reembed.finish_enqueueing('product_images', 2)");
    const first = await one("select reembed.claim('product_images', 2, max_rows => 3) as claim");
    const inputs = first.claim.jobs.map(({ input }: { input: string }) =>
      input.replace("https://x.example/", ""),
    );
    expect(inputs.sort()).toEqual(["1-1", "2-3", "3-1"]);
    // An image is taken for the tokens of a description, not for those of its URL.
    expect(first.claim.jobs.map(({ tokens }: { tokens: number }) => tokens)).toEqual([120, 120, 120]);
    expect((await one("select reembed.claim('product_images', 2) as claim")).claim.jobs).toHaveLength(4);
  });

  test("ingest knows an image by its product and number; what is not in a product's list goes, and takes its vector along", async () => {
    const of1 = (images: object[]) => ingest([{ id: 1, name: "a", images }]);
    const before = (
      await client.query("select id from public.product_images where product_id = 1 order by column_number")
    ).rows;
    expect(
      await of1([{ image_url: "https://x.example/1-1" }, { image_url: "https://x.example/new" }]),
    ).toEqual({
      products: { inserted: 0, updated: 0, unchanged: 1 },
      images: { inserted: 0, updated: 1, deleted: 1, unchanged: 1 },
    });
    expect(
      (await client.query("select id from public.product_images where product_id = 1 order by column_number"))
        .rows,
    ).toEqual(before.slice(0, 2));
    expect(await ingest([{ id: 1, name: "renamed" }])).toMatchObject({
      products: { updated: 1 },
      images: { deleted: 0 },
    });
    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
    await client.query(
      "alter table public.products add column price numeric not null default 0; alter table public.products alter column price drop default",
    );
    await expect(ingest([{ id: 9, name: "no price" }])).rejects.toMatchObject({
      code: "RE004",
      message: expect.stringContaining("products.price"),
    });
    await client.query("alter table public.products drop column price");
  });

  test("a product comes once, by its best image, and as many products as were asked for", async () => {
    const near = (n: number) =>
      `[${Array.from({ length: 512 }, (_, axis) => (axis === 0 ? 1 : axis === 1 ? n / 1000 : 0)).join(",")}]`;
    await client.query(`
      insert into public.products (id, name) select n, 'p' || n from generate_series(500, 510) n;
      insert into public.product_images (id, product_id, column_number, image_url)
      select 10000 + n, 500, n, 'https://x.example/many-' || n from generate_series(1, 200) n;
      insert into public.product_images (id, product_id, column_number, image_url)
      select 20000 + n, n, 1, 'https://x.example/one-' || n from generate_series(501, 510) n`);
    await client.query(
      `insert into public.image_embeddings (image_id, product_id, image_embedding)
       select 10000 + n, 500, vector::extensions.vector from unnest($1::text[]) with ordinality g(vector, n)`,
      // The last one is the nearest.
      [Array.from({ length: 200 }, (_, n) => near(199 - n))],
    );
    await client.query(
      `insert into public.image_embeddings (image_id, product_id, image_embedding)
       select 20500 + n, 500 + n, vector::extensions.vector from unnest($1::text[]) with ordinality g(vector, n)`,
      [Array.from({ length: 10 }, (_, n) => near(1_000 + n))],
    );
    const { rows } = await asRole(client, "anon", (db) =>
      db.query("select product_id::int, image_id::int from public.match_products($1, match_count => 5)", [
        near(0),
      ]),
    );
    expect(rows.map(({ product_id }) => product_id)).toEqual([500, 501, 502, 503, 504]);
    expect(rows[0].image_id).toBe(10200);
    await expect(
      client.query("select * from public.match_products($1, match_count => 101)", [near(0)]),
    ).rejects.toMatchObject({ code: "RE004" });
  });

  test("a picture is described by one of those who meet at it, and by another when that one is gone", async () => {
    const hash = "ab".repeat(32);
    const begin = async (seconds: number | null = 120) =>
      (
        await one("select reembed.begin_description('openai/gpt-4.1-mini#1', $1, $2) as answer", [
          hash,
          seconds,
        ])
      ).answer;
    const first = await begin();
    expect(first).toEqual({ ticket: expect.any(String) });
    expect(await begin()).toEqual({ busy: true });
    expect(await begin(null)).toEqual({});
    await client.query("update reembed.image_descriptions set lease_until = now() - interval '1 second'");
    const second = await begin();
    expect(second).toEqual({ ticket: expect.any(String) });
    // The first one's answer comes too late.
    await client.query("select reembed.end_description($1, 'late')", [first.ticket]);
    expect(await begin(null)).toEqual({});
    await client.query("select reembed.end_description($1, null)", [second.ticket]);
    const third = await begin();
    await client.query("select reembed.end_description($1, 'a mug')", [third.ticket]);
    expect(await begin()).toEqual({ description: "a mug" });
    expect(
      (await one("select reembed.begin_description('openai/gpt-4.1-mini#2', $1) as answer", [hash])).answer,
    ).toHaveProperty("ticket");
    await expect(client.query("select reembed.begin_description('x', 'no hash')")).rejects.toMatchObject({
      code: "RE004",
    });
  });

  test("where no server of its model is named, the work on other collections goes on", async () => {
    await client.query("select reembed.resume_space($1)", [CLIP]);
    await client.query(
      "select reembed.set_space('course_content', 1, reembed.add_space('hash', 'words-and-ngrams', 384))",
    );
    await client.query("insert into public.course_content (title, content) values ('A', 'b')");
    // The images are older, and many.
    await client.query(
      "update reembed.jobs set run_at = now() - interval '1 hour' where version_id = (reembed.version_numbered('product_images', 1)).id",
    );
    const db = await openDatabase(url, 1);
    const missing = new ReembedError("provider_unavailable", "CLIP_BASE_URL is not set", "Set it.");
    const slice = workSlice({
      queue: createQueue(db.rpc),
      embedderFor: (space) => {
        if (space.provider !== "hash") throw missing;
        return createHashEmbedder(space);
      },
    });
    await expect(slice).rejects.toBe(missing);
    await db.close();
    expect(await one("select embedding is not null as stored from public.course_content")).toEqual({
      stored: true,
    });
    expect(
      await one(
        "select bool_and(attempts = 0 and lease_token is null) as untouched from reembed.jobs where version_id = (reembed.version_numbered('product_images', 1)).id",
      ),
    ).toEqual({ untouched: true });
  });
});
