/** Ten workers at a provider with a hard limit: together they ask as fast as it allows, not as often as they could. */
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const WORKERS = 10;
const ROWS = 600;
const SPACE = "openai/text-embedding-3-small@64";
/** About 50 tokens a row: the bucket is full after half of the rows, and the rest takes some seconds. */
const TOKENS_PER_MINUTE = 20_000;

describePostgres("ten workers", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let db: Database;

  beforeEach(async () => {
    [database, openai] = await Promise.all([
      createDatabase(),
      startFakeOpenAI({ tokensPerMinute: TOKENS_PER_MINUTE }),
    ]);
    db = await openDatabase(database.url, WORKERS);
    await db.query(`
      create table public.notes (id int primary key, content text, embedding extensions.vector(64));
      create function reembed.notes_input(n public.notes) returns text language sql immutable set search_path = ''
        as $$ select n.content $$;
      select reembed.add_space('openai', 'text-embedding-3-small', 64);
      select reembed.add_collection('notes', 'public.notes', array['id']);
      select reembed.add_version('notes', '${SPACE}', 'embedding', 'reembed.notes_input');
      select reembed.start_loading('notes', 1), reembed.finish_enqueueing('notes', 1);
      insert into public.notes select n, rpad(n || ' ', 200, 'word ') from generate_series(1, ${ROWS}) n;`);
  });
  afterEach(async () => {
    await Promise.all([db?.close(), openai?.close()]);
    await database?.drop();
  });

  /** Ten workers, until their time is over or somebody stops them. */
  const storm = (until: { readonly budgetMs?: number; readonly signal?: AbortSignal }) =>
    Promise.all(
      Array.from({ length: WORKERS }, () =>
        work(
          db,
          (space) => createEmbedder(space, { openai: { apiKey: openai.apiKey, baseURL: openai.url } }),
          {
            collection: "notes",
            batch: 10,
            lanes: 2,
            ...until,
          },
        ),
      ),
    );
  const refused = () => openai.stats().log.filter(({ status }) => status === 429).length;

  test("waste next to no request on a limit a minute", async () => {
    // The bucket is full after 40 requests of 500 tokens; the others wait for what flows in, however long this machine takes.
    const enough = new AbortController();
    void openai.arrival(() => true, 45).then(() => enough.abort());
    await storm({ signal: enough.signal });
    // How much of the limit they use is for `npm run bench -- --only storm`: it depends on the machine.
    const { requests, tokensBilled } = openai.stats();
    expect(tokensBilled).toBeGreaterThan(TOKENS_PER_MINUTE);
    expect(refused()).toBeLessThanOrEqual(Math.max(2, 0.05 * requests));
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
    expect(await db.query("select 1 from reembed.usage where state = 'reserved'")).toEqual([]);
    expect(await db.query("select 1 from reembed.jobs where attempts > 1")).toEqual([]);
  });

  test("hear of a refusal together: what is sent in a storm is one burst, and then a probe a wait", async () => {
    openai.faults.add({ fault: { kind: "rate_limit", retryAfterSeconds: 1 }, times: "always" });
    const began = performance.now();
    await storm({ budgetMs: 4_000 });
    const seconds = (performance.now() - began) / 1000;
    const [space] = await db.query<{ refusals: number }>(
      "select refusals from reembed.spaces where id = $1",
      [SPACE],
    );
    const refusals = space?.refusals ?? 0;
    // Eight may be open at the start, which is one refusal; each further one is a single request, and a second at least after the one before.
    expect(refusals).toBeGreaterThan(0);
    expect(openai.stats().requests).toBeLessThanOrEqual(8 + refusals - 1);
    expect(refusals).toBeLessThanOrEqual(1 + Math.floor(seconds));
    expect(await db.query("select 1 from reembed.jobs where attempts > 0")).toEqual([]);
  });
});
