/** A canary from the first share to the rule that calls it off: signed-up users with supabase-js unchanged, an operator with the command line. */
import type { SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { useHashSpaces } from "../../scripts/lib/offline-spaces.ts";
import type { Stack } from "../../scripts/stack/index.ts";
import { callerBucket } from "../../supabase/functions/_shared/caller.ts";
import { runCli, runJson } from "../support/cli.ts";
import {
  clientOf,
  describeStack,
  type StackDatabase,
  signUp,
  startTestStack,
  type TestStack,
} from "../support/stack.ts";

const USERS = 12;

describeStack(callersAreShared);

interface User {
  readonly client: SupabaseClient;
  readonly bucket: number;
}

function callersAreShared(database: () => Promise<StackDatabase>, server: "PGlite" | "PostgreSQL"): void {
  let stack: Stack;
  let db: Client;
  let running: TestStack;
  let users: User[];

  beforeAll(async () => {
    running = await startTestStack({ database: await database() });
    ({ stack, db } = running);
    const own = await openDatabase(stack.databaseUrl);
    await useHashSpaces(own, ["supabase", "openai"]);
    await own.close();
    await db.query(
      "insert into public.course_content (title, content) values ('Commits', 'A commit is a snapshot.')",
    );
    for (const version of ["1", "2"]) {
      expect(await runCli(["backfill", "--version", version, "--db-url", stack.databaseUrl])).toMatchObject({
        code: 0,
      });
    }
    users = await Promise.all(Array.from({ length: USERS }, signedUp));
  });
  afterAll(() => running?.stop());
  beforeEach(async () => {
    await db.query("select reembed.set_traffic('course_content', 2, 0)");
    await db.query("truncate reembed.search_samples, reembed.search_minutes");
    await db.query("select reembed.set_traffic_rule('course_content', 2, 100, 60)");
  });

  const anonymous = () => clientOf(stack);
  async function signedUp(): Promise<User> {
    const client = anonymous();
    const { token } = await signUp(client);
    const headers = new Headers({ authorization: `Bearer ${token}` });
    return { client, bucket: (await callerBucket(headers, "course_content")) ?? -1 };
  }
  /** The version that answered, and how many rows it found. */
  const search = async (client: SupabaseClient, more: object = {}, headers: Record<string, string> = {}) => {
    const { data, error } = await client.functions.invoke("search", {
      body: { collection: "course_content", query: "what is a commit", ...more },
      headers,
    });
    expect(error).toBeNull();
    return { version: data.version as number, found: data.results.length as number };
  };
  const canary = (...args: string[]) => runJson(["canary", ...args, "--db-url", stack.databaseUrl]);
  /** The counts are appended after the answers: asks until there are as many since the share was set. Each test ends with all of its counts in. */
  const countsOf = async (searches: number) => {
    for (;;) {
      const { rows } = await db.query<{ report: { versions: { version: number; searches: number }[] } }>(
        "select reembed.traffic('course_content') as report",
      );
      const versions = rows[0]?.report.versions ?? [];
      const counted = versions.reduce((sum, one) => sum + one.searches, 0);
      expect(counted).toBeLessThanOrEqual(searches);
      if (counted === searches) return Object.fromEntries(versions.map((one) => [one.version, one.searches]));
    }
  };
  /** The same of all that was written since the test began, whatever share there was. */
  const written = async (searches: number) => {
    for (;;) {
      const { rows } = await db.query<{ searches: string }>(
        `select (select count(*) from reembed.search_samples) + (select coalesce(sum(m.searches), 0) from reembed.search_minutes m) as searches`,
      );
      if (Number(rows[0]?.searches) === searches) return;
    }
  };
  /** A share that leaves users on both sides. */
  const half = () => {
    const places = users.map(({ bucket }) => bucket).sort((a, b) => a - b);
    return (places[USERS / 2 - 1] ?? 0) + 1;
  };

  test("a user stays on one side, a growing share only adds users, and each search is counted", async () => {
    const percent = half();
    expect(
      await canary("--version", "2", "--percent", String(percent), "--reason", "a first look"),
    ).toMatchObject({
      code: 0,
      answer: { version: 2, percent, verdict: "waiting", rule: { min_searches: 100 } },
    });
    const sides = new Map<User, number>();
    for (const user of users) {
      const first = await search(user.client);
      expect(first).toEqual({ version: user.bucket < percent ? 2 : 1, found: 1 });
      expect(await search(user.client)).toEqual(first);
      sides.set(user, first.version);
    }
    const onNew = [...sides.values()].filter((version) => version === 2).length;
    expect(onNew).toBeGreaterThan(0);
    expect(onNew).toBeLessThan(USERS);
    expect(await countsOf(2 * USERS)).toEqual({ 1: 2 * (USERS - onNew), 2: 2 * onNew });

    // Who names a version, or cannot be told from others, is on no side and not counted.
    expect(await search(anonymous())).toMatchObject({ version: 1 });
    for (const { client } of users)
      expect(await search(client, { version: 1 })).toMatchObject({ version: 1 });

    // A share that is set anew is judged by the searches since that minute: the ones before are of another.
    await db.query("update reembed.search_samples set at = at - interval '1 minute'");
    await db.query("update reembed.search_minutes set minute = minute - interval '1 minute'");
    const more = Math.min(100, percent + 25);
    expect((await canary("--version", "2", "--percent", String(more))).code).toBe(0);
    for (const [user, version] of sides) {
      const now = await search(user.client);
      expect(now.version).toBe(user.bucket < more ? 2 : 1);
      if (version === 2) expect(now.version).toBe(2);
    }
    await countsOf(USERS);
    // What was written down tells nobody's name, address or query.
    const { rows } = await db.query(
      "select coalesce(jsonb_agg(s)::text, '') || (select coalesce(jsonb_agg(m)::text, '') from reembed.search_minutes m) as all from reembed.search_samples s",
    );
    expect(rows[0].all).not.toMatch(/@|commit|127\.0|-[0-9a-f]{4}-/);
  });

  test("an app's own name for a visitor does without a token", async () => {
    await canary("--version", "2", "--percent", "50");
    const seen = new Set<number>();
    for (let n = 0; n < 8; n += 1) {
      const headers = { "x-reembed-caller": `visitor-${n}` };
      const bucket = (await callerBucket(new Headers(headers), "course_content")) ?? -1;
      const { version } = await search(anonymous(), {}, headers);
      expect(version).toBe(bucket < 50 ? 2 : 1);
      seen.add(version);
    }
    expect(seen).toEqual(new Set([1, 2]));
    await countsOf(8);
  });

  test("the rule calls it off when its answers are empty, says why, and everybody is back on the active version", async () => {
    await db.query("select reembed.set_traffic_rule('course_content', min_searches => 20)");
    const percent = half();
    await canary("--version", "2", "--percent", String(percent));
    const [onNew, onOld] = [
      users.filter(({ bucket }) => bucket < percent),
      users.filter(({ bucket }) => bucket >= percent),
    ];
    // One at a time: whichever count it is at which the rule looks, all are in by then.
    let asked = 0;
    const isOver = async () => {
      const { rows } = await db.query("select reembed.traffic('course_content') ->> 'verdict' as verdict");
      return rows[0]?.verdict === "off";
    };
    while (!(await isOver())) {
      expect(asked).toBeLessThan(60);
      const side = asked % 2 === 0 ? onNew : onOld;
      const user = side[asked % side.length] as User;
      await search(user.client, asked % 2 === 0 ? { match_threshold: 1 } : {});
      asked += 1;
      await written(asked);
    }
    expect((await canary()).answer).toMatchObject({
      version: null,
      percent: 0,
      why: expect.stringMatching(/version 2 left \d+ of \d+ searches empty, version 1 0 of \d+/),
    });
    const { rows } = await db.query(
      "select actor, version, reason, detail from reembed.events where kind = 'traffic' order by id desc limit 1",
    );
    expect(rows).toMatchObject([
      {
        actor: "rule",
        version: 2,
        reason: expect.stringContaining("empty"),
        detail: { percent: 0, from: percent },
      },
    ]);
    for (const { client } of users) expect(await search(client)).toEqual({ version: 1, found: 1 });
  });

  test("the command line reports to a person, ends it without a version, and refuses what makes no sense", async () => {
    await canary("--version", "2", "--percent", "10");
    const { code, stdout } = await runCli(["canary", "--db-url", stack.databaseUrl]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/course_content: v2 answers 10 % of the callers/);
    expect(stdout).toMatch(/version +searches +empty +p50 ms +p95 ms\nv1 +0 +0 +- +- +-\nv2 +0 +0 +- +- +-/);
    expect(stdout).toMatch(/rule: at most 2 times .* over 100 searches of each and at most 60 minutes/);
    expect(stdout).toMatch(/waiting: /);
    expect(await canary("--percent", "0")).toMatchObject({
      code: 0,
      answer: { version: null, verdict: "off" },
    });
    expect(await canary("--percent", "0")).toMatchObject({ code: 0, answer: { percent: 0 } });
    expect(await canary("--percent", "5")).toMatchObject({
      code: 2,
      answer: { error: { message: expect.stringContaining("--version is missing") } },
    });
    expect(await canary("--version", "2")).toMatchObject({
      code: 2,
      answer: { error: { message: expect.stringContaining("--percent is missing") } },
    });
    expect(await canary("--version", "2", "--percent", "101")).toMatchObject({ code: 2 });
    expect(await canary("--version", "1", "--percent", "5")).toMatchObject({
      code: 1,
      answer: { error: { code: "refused", message: expect.stringContaining("it is the active version") } },
    });
  });

  // The last one: what it leaves under way nobody should meet.
  test("a count that cannot be written neither fails a search nor is waited for", async () => {
    await canary("--version", "2", "--percent", "100");
    const searchAll = async () => {
      for (const { client } of users.slice(0, 3)) {
        expect(await search(client)).toEqual({ version: 2, found: 1 });
      }
    };
    // PGlite is one connection: a lock that it holds leaves no other free.
    if (server === "PostgreSQL") {
      await db.query("begin; lock table reembed.search_samples in access exclusive mode");
      // Whoever counts waits for this, and no search for whoever counts.
      await searchAll();
      await db.query("rollback");
      expect(await countsOf(3)).toEqual({ 1: 0, 2: 3 });
    }
    await db.query("revoke execute on function public.reembed_count_search from service_role");
    await searchAll();
  });
}
