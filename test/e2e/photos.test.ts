/**
 * The shop with photo search, end to end: supabase-js unchanged, the functions in Deno, a CLIP server and OpenAI over HTTP, and the real photos of
 * examples/product-photos. In the fake CLIP's space the photos lie as their real vectors do: those are projected to its width.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { FunctionsHttpError, type SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { startCli } from "../support/cli.ts";
import { type FakeClip, startFakeClip } from "../support/fake-clip.ts";
import type { FakeOpenAI } from "../support/fake-openai.ts";
import { type FileServer, png, pngOfSize, startFileServer, webp } from "../support/pictures.ts";
import { Random } from "../support/random.ts";
import {
  clientOf,
  describeStack,
  type StackDatabase,
  startTestStack,
  type TestStack,
  wakeWorker,
} from "../support/stack.ts";

const EXAMPLES = new URL("../../examples/product-photos/", import.meta.url);
const DESCRIBED = "described/gpt-4.1-mini+text-embedding-3-small@1536";
const CLIP = "clip/clip-ViT-B-32@512";
const PHOTOS = 37;
const PRODUCTS = 35;

interface Found {
  readonly product_id: number;
  readonly name: string;
  readonly image_filename: string;
  readonly similarity: number;
}

interface Answer {
  readonly success: boolean;
  readonly search_id: string;
  readonly count: number;
  readonly version: number;
  readonly space: string;
  readonly results: readonly Found[];
}

describeStack(photosAreFound);

/** A fixed projection of 1,024 dimensions to 512, which keeps what is near. */
function projection(): (vector: readonly number[]) => number[] {
  const random = new Random(1);
  const rows = Array.from({ length: 512 }, () => Array.from({ length: 1_024 }, () => random.next() - 0.5));
  return (vector) =>
    rows.map((row) => row.reduce((sum, weight, axis) => sum + weight * (vector[axis] ?? 0), 0));
}

function photosAreFound(database: () => Promise<StackDatabase>): void {
  let openai: FakeOpenAI;
  let clip: FakeClip;
  let files: FileServer;
  let stack: Stack;
  let db: Client;
  let running: TestStack;
  /** By file name. */
  const photos = new Map<string, Uint8Array<ArrayBuffer>>();
  const real = new Map<string, readonly number[]>();

  beforeAll(async () => {
    const vectors = JSON.parse(await readFile(new URL("ai-vision-1024.json", EXAMPLES), "utf8"));
    const project = projection();
    clip = await startFakeClip({ apiKey: "clip-key" });
    files = await startFileServer();
    for (const [name, vector] of Object.entries<number[]>(vectors)) {
      const bytes = new Uint8Array(await readFile(new URL(name, EXAMPLES)));
      photos.set(name, bytes);
      real.set(name, vector);
      clip.teach(bytes, project(vector));
      files.files.set(`/images/${name}`, bytes);
    }
    running = await startTestStack({
      database: await database(),
      servers: { clip: { baseURL: clip.url, apiKey: "clip-key" } },
      imageFilesUrl: `${files.origin}/images/`,
    });
    ({ stack, openai, db } = running);
    // What a model that sees says of a photo here is what its file's name says.
    const nameOf = new Map(
      [...photos].map(([name, bytes]) => [Buffer.from(bytes).toString("base64"), name] as const),
    );
    openai.chat.script(({ images }) => {
      const name = nameOf.get(images[0]?.split(",")[1] ?? "") ?? "nothing known";
      return `A ${name.replace(/[0-9_.]|jpg|png|fullshot/g, " ")} made by hand`;
    });
    await db.query("select reembed.set_query_rate(60000, 10000)");
  });
  afterAll(async () => {
    await running?.stop();
    await Promise.all([clip?.close(), files?.close()]);
  });

  const shop = () => clientOf(stack);
  const env = () => ({
    DATABASE_URL: stack.databaseUrl,
    OPENAI_API_KEY: openai.apiKey,
    OPENAI_BASE_URL: openai.url,
    CLIP_BASE_URL: clip.url,
    CLIP_API_KEY: "clip-key",
    IMAGE_FILES_URL: `${files.origin}/images/`,
  });
  const cli = async (...args: string[]) => {
    const { code, stdout, stderr } = await startCli([...args, "--json"], env()).finished;
    return { code, stderr, answer: JSON.parse(stdout || "null") };
  };
  const backfill = async () => {
    await db.query(
      "update reembed.jobs set run_at = now() where lease_token is null and failed_at is null and run_at > now()",
    );
    return wakeWorker(stack);
  };
  const upload = (photo: Uint8Array<ArrayBuffer> | undefined, fields: Record<string, string> = {}) => {
    const form = new FormData();
    form.append("image", new Blob([photo ?? new Uint8Array()]), "photo");
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    return form;
  };
  const search = async (client: SupabaseClient, body: FormData): Promise<Answer> => {
    const { data, error } = await client.functions.invoke<Answer>("search-by-image", { body });
    if (error instanceof FunctionsHttpError) throw new Error(await error.context.text());
    if (error || data === null) throw error;
    return data;
  };
  const refusal = async (body: FormData | string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${stack.url}/functions/v1/search-by-image`, {
      method: "POST",
      headers: { apikey: stack.publishableKey, ...headers },
      body,
    });
    const { error } = await response.json();
    expect(error.request_id).toBe(response.headers.get("x-request-id"));
    return [response.status, error.code];
  };
  const violations = async () => (await db.query("select * from reembed.violations()")).rows;
  const one = async (sql: string) => (await db.query(sql)).rows[0];
  const coverage = async () => (await cli("coverage")).answer;

  test("products come in from a file, and an image that cannot be had is a failed job with its reason", async () => {
    const file = fileURLToPath(new URL("products.jsonl", EXAMPLES));
    expect(await cli("ingest-products", file)).toMatchObject({
      code: 0,
      answer: { products: { inserted: PRODUCTS }, images: { inserted: PHOTOS } },
    });
    expect(await cli("ingest-products", file)).toMatchObject({
      answer: { products: { unchanged: PRODUCTS }, images: { unchanged: PHOTOS } },
    });
    files.files.set("/images/page.jpg", Buffer.from("<html>moved</html>"));
    await db.query(`
      insert into public.products (id, name) values (101, 'Without an image'), (102, 'Its images are gone'), (103, 'Not a picture'), (104, 'Somewhere inside'), (105, 'Unnamed');
      insert into public.product_images (product_id, column_number, image_url, image_filename)
      values (102, 1, null, 'gone-1.jpg'), (102, 2, '${files.origin}/images/gone-2.jpg', null), (103, 1, null, 'page.jpg'),
             (104, 1, 'http://169.254.169.254/latest/meta-data', null), (105, 1, ' ', null)`);

    const report = await backfill();
    expect(report).toMatchObject({ ended: "idle", done: PHOTOS, failed: 4, skipped: 1 });
    expect(await coverage()).toMatchObject({
      products: PRODUCTS + 5,
      products_without_image: 1,
      images: PHOTOS + 5,
      versions: [
        {
          version: 1,
          space: CLIP,
          active: true,
          embedded: PHOTOS,
          skipped: 1,
          failed: 4,
          waiting: 0,
          products_embedded: PRODUCTS,
          reasons: [
            { reason: "picture: its host answers that it is not there (404)", images: 2 },
            { reason: "picture: it is not a JPEG, PNG or WebP picture", images: 1 },
            { reason: "picture: its host is not on the public internet", images: 1 },
          ],
        },
        { version: 2, space: DESCRIBED, embedded: 0 },
      ],
    });
    expect(await violations()).toEqual([]);
    expect(
      await one("select product_id, model_version from public.image_embeddings order by image_id limit 1"),
    ).toEqual({
      product_id: expect.any(Number),
      model_version: "clip-ViT-B-32",
    });
  });

  test("a photo finds itself and its like", async () => {
    const client = shop();
    for (const [name, photo] of photos) {
      const { success, search_id, count, results, version, space } = await search(
        client,
        upload(photo, { match_count: "5" }),
      );
      expect({ success, count, version, space }).toEqual({
        success: true,
        count: 5,
        version: 1,
        space: CLIP,
      });
      expect(search_id).toMatch(/^[0-9a-f-]{36}$/);
      expect(results[0]?.image_filename).toBe(name);
      expect(results[0]?.similarity).toBeCloseTo(1, 4);
      // A product once, whatever it has of images.
      expect(new Set(results.map(({ product_id }) => product_id)).size).toBe(5);
    }
    const amulets = await search(client, upload(photos.get("amulet6_fullshot.jpg"), { match_count: "6" }));
    expect(amulets.results.filter(({ name }) => name.startsWith("Amulet")).length).toBeGreaterThanOrEqual(5);
    const holders = await search(client, upload(photos.get("incenseholder4_side.jpg"), { match_count: "2" }));
    expect(holders.results.map(({ name }) => name).sort()).toEqual(["Incense holder 4", "Incense holder 5"]);
    // The same photo again is not embedded again.
    const before = clip.log.length;
    await search(client, upload(photos.get("amulet6_fullshot.jpg")));
    expect(clip.log.length).toBe(before);
    expect(
      (await search(client, upload(photos.get("amulet6_fullshot.jpg"), { match_threshold: "0.999" }))).count,
    ).toBe(1);
  });

  test("words find photos in CLIP's own space, through CLIP", async () => {
    clip.teach("a candle in a glass", clip.vectorOf(photos.get("glasscandle_side.jpg") ?? ""));
    const { data } = await shop().functions.invoke("search", {
      body: { collection: "product_images", query: "a candle in a glass", match_count: 1 },
    });
    expect(data).toMatchObject({
      version: 1,
      space: CLIP,
      results: [{ image_filename: "glasscandle_side.jpg" }],
    });
  });

  test("a vector of OpenAI's cannot search CLIP's: the database refuses it by width, and by space", async () => {
    const wide = await shop().rpc("match_product_images", { query_embedding: Array(1_536).fill(0.1) });
    expect(wide.error).toMatchObject({ code: "RE001", hint: expect.stringContaining("clip-ViT-B-32") });
    // As wide as CLIP's, and of another space all the same.
    for (const rpc of ["match_product_images", "match_products"]) {
      const cut = await shop().rpc(rpc, {
        query_embedding: Array(512).fill(0.1),
        query_space: "openai/text-embedding-3-small@512",
      });
      expect(cut.error).toMatchObject({ code: "RE002" });
    }
  });

  test("what is no photo is refused by its kind", async () => {
    expect(await refusal(upload(new Uint8Array(Buffer.from("%PDF-1.7"))))).toEqual([
      415,
      "unsupported_media_type",
    ]);
    expect(await refusal("{}", { "content-type": "application/json" })).toEqual([
      415,
      "unsupported_media_type",
    ]);
    expect(await refusal(upload(pngOfSize(30_000, 30_000)))).toEqual([422, "invalid_image"]);
    expect(await refusal(upload(png(1).slice(0, 20)))).toEqual([422, "invalid_image"]);
    expect(await refusal(upload(new Uint8Array(11 * 1024 * 1024)))).toEqual([413, "body_too_large"]);
    expect(await refusal(new FormData())).toEqual([400, "invalid_request"]);
    expect(await refusal(upload(png(1), { match_count: "0" }))).toEqual([400, "invalid_request"]);
    expect(await refusal(upload(png(1), { image_url: "http://127.0.0.1/" }))).toEqual([
      400,
      "invalid_request",
    ]);
    expect(await refusal(upload(png(1), { version: "9" }))).toEqual([404, "unknown_version"]);
    expect(await refusal(upload(png(1)), { apikey: "another" })).toEqual([401, "unauthorized"]);
    clip.stumbleAt(png(13), 400);
    expect(await refusal(upload(png(13)))).toEqual([422, "invalid_image"]);
    clip.failNext({ status: 503 });
    expect(await refusal(upload(png(14)))).toEqual([503, "provider_unavailable"]);
    // The file's own name and type say nothing.
    const named = new FormData();
    named.append("image", new Blob([webp(40, 30)], { type: "text/html" }), "x.exe");
    expect((await search(shop(), named)).count).toBe(25);
  });

  test("the move: photos are described, once each, and found by their descriptions; and the way back", async () => {
    await db.query("select reembed.set_budget('product_images', 'day', 1)");
    const estimate = (await cli("estimate", "--collection", "product_images", "--version", "2")).answer;
    expect(estimate).toMatchObject({ texts: PHOTOS + 4, tokens: (PHOTOS + 4) * 120, blank: 1 });
    const loaded = await cli("backfill", "--collection", "product_images", "--version", "2");
    // Its failed jobs are those of images that cannot be had.
    expect(loaded.answer).toMatchObject({ done: PHOTOS, failed: 4 });
    expect(openai.chat.log.filter(({ images }) => images.length === 1)).toHaveLength(PHOTOS);
    expect(
      await one(
        "select count(*)::int as n, min(length(description)) > 10 as said from reembed.image_descriptions",
      ),
    ).toEqual({
      n: PHOTOS,
      said: true,
    });
    expect(
      await one(`select count(*)::int as n, bool_and(state = 'settled' and cost_usd > 0 and purpose = 'describe' and collection = 'product_images') as paid
                   from reembed.completions`),
    ).toEqual({ n: PHOTOS, paid: true });
    const { spent } = await one("select sum(cost_usd)::float8 as spent from reembed.completions");
    expect(estimate.descriptions_at_most_usd).toBeGreaterThan(spent);
    expect(
      await one(`select round(b.spent_usd, 9) = round((select sum(cost_usd) from reembed.completions) + (select sum(u.cost_usd) from reembed.usage u where u.space_id = '${DESCRIBED}'), 9) as counted, b.reserved_usd::float8 as reserved
                   from reembed.budgets b`),
    ).toEqual({ counted: true, reserved: 0 });
    expect(await violations()).toEqual([]);

    // Failed rows are no reason to keep it from answering: the operator has looked at them.
    const moved = await cli(
      "cutover",
      "--collection",
      "product_images",
      "--version",
      "2",
      "--force",
      "--reason",
      "four images are gone",
    );
    expect(moved.code).toBe(0);
    const photo = photos.get("driftwoodearrings1.jpg");
    const asked = openai.chat.log.length;
    const found = await search(shop(), upload(photo, { match_count: "3" }));
    expect(found).toMatchObject({ version: 2, space: DESCRIBED });
    expect(found.results.map(({ name }) => name.replace(/ \d+$/, ""))).toEqual(
      Array(3).fill("Driftwood earrings"),
    );
    // The shop's own photo is described already; a customer's is described, and its description is not kept.
    expect(openai.chat.log.length).toBe(asked);
    const customers = png(77);
    expect((await search(shop(), upload(customers))).count).toBe(25);
    await search(shop(), upload(customers));
    expect(openai.chat.log.length).toBe(asked + 1);
    expect(await one("select count(*)::int as n from reembed.image_descriptions")).toEqual({ n: PHOTOS });
    const { data } = await shop().functions.invoke("search", {
      body: { collection: "product_images", query: "driftwood earrings", match_count: 1 },
    });
    expect(data).toMatchObject({
      space: DESCRIBED,
      results: [{ image_filename: expect.stringMatching(/^driftwood/) }],
    });
    expect((await search(shop(), upload(photo, { version: "1", match_count: "1" }))).space).toBe(CLIP);

    // An edit keeps both versions current; the same picture under another name is not described again.
    files.files.set("/images/renamed.jpg", photos.get("goldtri_fullshot.jpg") ?? png(0));
    await db.query(
      "update public.product_images set image_filename = 'renamed.jpg' where image_filename = 'goldtri_fullshot.jpg'",
    );
    expect(await backfill()).toMatchObject({ ended: "idle", done: 2 });
    expect(openai.chat.log.length).toBe(asked + 1);
    expect(await violations()).toEqual([]);

    expect(
      (await cli("rollback", "--collection", "product_images", "--reason", "to see that it goes")).code,
    ).toBe(0);
    expect(await search(shop(), upload(photo, { match_count: "1" }))).toMatchObject({
      version: 1,
      space: CLIP,
    });
  });

  test("vectors of a third space, brought from elsewhere, are adopted beside them, and a photo's real vector finds its like", async () => {
    await db.query(`
      create table public.image_embeddings_1024 (image_id int primary key references public.product_images (id) on delete cascade, embedding_1024 extensions.vector(1024) not null);
      alter table public.image_embeddings_1024 enable row level security;
      grant select on public.image_embeddings_1024 to anon, authenticated;
      create policy "anyone reads" on public.image_embeddings_1024 for select to anon, authenticated using (true);
      select reembed.add_space('external', 'azure-ai-vision', 1024, image_tokens => 1);
      select reembed.add_version('product_images', 'external/azure-ai-vision@1024', 'embedding_1024', 'reembed.product_image_input',
        vector_table => 'public.image_embeddings_1024', vector_key => array['image_id'], adopts => true);`);
    await db.query(
      `insert into public.image_embeddings_1024 (image_id, embedding_1024)
       select i.id, g.vector::extensions.vector from unnest($1::text[], $2::text[]) g(name, vector)
         join public.product_images i on i.image_filename = g.name`,
      [[...real.keys()], [...real.values()].map((vector) => `[${vector.join(",")}]`)],
    );
    expect(await cli("adopt", "--collection", "product_images", "--version", "3")).toMatchObject({
      code: 0,
      // One photo was renamed above: its vector came by its name.
      answer: { adopted: PHOTOS - 1 },
    });
    const client = shop();
    for (const [name, vector] of real) {
      const { data, error } = await client.rpc("match_products", {
        query_embedding: vector,
        match_count: 3,
        version: 3,
        query_space: "external/azure-ai-vision@1024",
      });
      expect(error).toBeNull();
      if (name !== "goldtri_fullshot.jpg") expect(data[0]).toMatchObject({ image_filename: name });
    }
    const { data: likeAmulets } = await client.rpc("match_products", {
      query_embedding: real.get("amulet2_fullshot.jpg"),
      match_count: 5,
      version: 3,
    });
    expect(likeAmulets.every(({ name }: Found) => name.startsWith("Amulet"))).toBe(true);
  });
}
