/** Texts that are longer than their space takes, on the real server, against a provider that refuses them as the real one does. */
import { createHash } from "node:crypto";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const SPACE = "openai/text-embedding-3-small@384";
/** The input of a row is its title, two line feeds, its content. */
const LONG = `long\n\n${"word ".repeat(10_000)}`;
const SHORT = "short\n\ntext";

const hashOf = (text: string) => createHash("sha256").update(text).digest("hex");

describePostgres("long texts", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let db: Database;

  beforeEach(async () => {
    [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    db = await openDatabase(database.url);
    await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, 0.02, 0.25)");
    await db.query("select reembed.set_space('course_content', 1, $1)", [SPACE]);
    for (const text of [LONG, SHORT]) {
      const [title, content] = text.split("\n\n");
      await db.query("insert into public.course_content (title, content) values ($1, $2)", [title, content]);
    }
  });
  afterEach(async () => {
    await Promise.all([db?.close(), openai?.close()]);
    await database?.drop();
  });

  const slice = () =>
    work(
      db,
      (space) => createEmbedder(space, { openai: { apiKey: openai.apiKey, baseURL: openai.url } }),
      {},
    );

  const records = () =>
    db.query<{ title: string; hash: string; truncated: boolean; tokens: number }>(
      `select c.title, encode(r.content_hash, 'hex') as hash, r.truncated, r.tokens
         from reembed.records r join public.course_content c on c.id::text = r.row_id where r.version_id = 1 order by c.title`,
    );

  const answered = () =>
    openai
      .stats()
      .log.filter(({ status }) => status === 200)
      .flatMap(({ inputs }) => inputs.map(({ hash }) => hash))
      .sort();

  test("are cut for the request only: the record says so, and the row is current", async () => {
    expect(await slice()).toMatchObject({ ended: "idle", done: 2, failed: 0, requests: 1 });
    expect(answered()).toEqual([hashOf(LONG.slice(0, 8_192 * 4)), hashOf(SHORT)].sort());
    expect(await records()).toEqual([
      { title: "long", hash: hashOf(LONG), truncated: true, tokens: 8_192 },
      { title: "short", hash: hashOf(SHORT), truncated: false, tokens: 3 },
    ]);
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
    expect(await db.query("select reembed.reconcile() ->> 'enqueued' as enqueued")).toEqual([
      { enqueued: "0" },
    ]);
    // What is cut is reserved as what it costs, not as what stands in the row.
    expect(await db.query("select tokens::int from reembed.usage")).toEqual([{ tokens: 8_192 + 3 }]);
  });

  test("are halved where the provider takes less than the space says", async () => {
    await db.query("update reembed.spaces set max_input_tokens = 16000 where id = $1", [SPACE]);
    expect(await slice()).toMatchObject({ ended: "idle", done: 2, failed: 0, requests: 4 });
    expect(answered()).toEqual([hashOf(LONG.slice(0, LONG.length / 2)), hashOf(SHORT)].sort());
    expect((await records()).map(({ truncated }) => truncated)).toEqual([true, false]);
    expect(await db.query("select outcome, tokens::int from reembed.usage where tokens = 0")).toHaveLength(2);
  });

  test("stop being truncated when they are shortened", async () => {
    await slice();
    await db.query("update public.course_content set content = 'shorter' where title = 'long'");
    await slice();
    expect((await records()).map(({ truncated }) => truncated)).toEqual([false, false]);
  });

  test("fail with the reason and unsent where the collection says so, until it says otherwise", async () => {
    await db.query("update reembed.collections set long_text = 'fail'");
    expect(await slice()).toMatchObject({ ended: "idle", done: 1, failed: 1, requests: 1 });
    expect(answered()).toEqual([hashOf(SHORT)]);
    const failures = await db.query<{ error: string }>(
      "select error from reembed.jobs where failed_at is not null",
    );
    expect(failures).toEqual([
      { error: expect.stringContaining(`longer than the 8192 tokens that ${SPACE} takes`) },
    ]);

    await db.query("update reembed.collections set long_text = 'truncate'");
    await db.query("select reembed.retry('course_content')");
    expect(await slice()).toMatchObject({ ended: "idle", done: 1, failed: 0 });
    expect((await records()).map(({ truncated }) => truncated)).toEqual([true, false]);
  });

  test("have no third policy, and truncated is one value a row", async () => {
    await expect(db.query("update reembed.collections set long_text = 'ignore'")).rejects.toThrow("23514");
    await expect(
      db.query(
        "select reembed.complete(1, $1, gen_random_uuid(), '{a}', '{00}', '{[1]}', '{1}', truncated => '{}')",
        [SPACE],
      ),
    ).rejects.toThrow("skipped and truncated must have the same length");
  });
});
