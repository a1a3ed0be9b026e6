/** What wakes the backfill function: cron, the poke over the extension http, the secrets, and the slots that keep workers from piling up. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const enqueue = `insert into public.course_content (title, content) values ('title', 'text')`;

/** A functions endpoint that remembers what reached it. */
class Endpoint {
  readonly server: Server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => {
      body += chunk;
    });
    request.on("end", () => {
      response.end("{}");
      this.server.emit("poked", request, body);
    });
  });

  async start(): Promise<string> {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/functions/v1`;
  }

  async poked(): Promise<{ request: IncomingMessage; body: string }> {
    const [request, body] = await once(this.server, "poked");
    return { request, body };
  }
}

describePostgres("the poke", () => {
  let client: Client;
  const endpoint = new Endpoint();

  const value = async (sql: string, values: unknown[] = []) =>
    Object.values((await client.query(sql, values)).rows[0])[0];
  const poke = () => value("select reembed.poke()");

  beforeAll(async () => {
    client = await connect((await createDatabase()).url);
  });
  afterAll(async () => {
    await client.end();
    endpoint.server.close();
  });

  test("does nothing when nothing is due", async () => {
    expect(await poke()).toBe("idle");
  });

  test("says when it does not know where to go, and sends nothing", async () => {
    await client.query(enqueue);
    expect(await poke()).toBe("not configured");
  });

  test("sends an empty instruction with the named secret", async () => {
    await client.query("select reembed.set_secret('functions_url', $1)", [await endpoint.start()]);
    await client.query("select reembed.set_secret('backfill_key', 'sb_secret_for_the_test')");
    const arrived = endpoint.poked();
    expect(await poke()).toBe("poked");
    const { request, body } = await arrived;
    expect(request.method).toBe("POST");
    expect(request.url).toBe("/functions/v1/backfill");
    expect(request.headers.apikey).toBe("sb_secret_for_the_test");
    expect(request.headers.authorization).toBeUndefined();
    expect(JSON.parse(body)).toEqual({});
  });

  test("an endpoint that is down costs one tick and no error", async () => {
    await client.query("select reembed.set_secret('functions_url', 'http://127.0.0.1:1/functions/v1')");
    expect(await poke()).toBe("poked");
  });

  test("does nothing for a space that is paused", async () => {
    await client.query("select reembed.pause_space('supabase/gte-small@384', 'for the test')");
    expect(await poke()).toBe("idle");
    await client.query("select reembed.resume_space('supabase/gte-small@384')");
    expect(await poke()).toBe("poked");
  });

  test("secrets: no other name, none empty, and readable by the owner alone", async () => {
    await expect(client.query("select reembed.set_secret('openai', 'x')")).rejects.toMatchObject({
      code: "RE004",
      message: expect.stringContaining("functions_url"),
    });
    await expect(client.query("select reembed.set_secret('backfill_key', '')")).rejects.toMatchObject({
      code: "RE004",
    });
    for (const role of ["anon", "authenticated", "service_role"]) {
      expect(await value("select has_table_privilege($1, 'reembed.secrets', 'select')", [role])).toBe(false);
      expect(
        await value("select has_function_privilege($1, 'reembed.secret(text)', 'execute')", [role]),
      ).toBe(false);
    }
  });

  test("schedule() says what is missing where there is no pg_cron", async () => {
    await expect(client.query("select reembed.schedule()")).rejects.toMatchObject({
      code: "RE007",
      message: expect.stringContaining("pg_cron"),
    });
    expect(await value("select reembed.unschedule()")).toBe(0);
  });
});

describePostgres("worker slots", () => {
  test("overlapping ticks do not pile up workers, and a killed worker's slot comes free", async () => {
    const client = await connect((await createDatabase()).url);
    const enter = async () =>
      (await client.query<{ token: string | null }>("select reembed.enter_slot(2, 60) as token")).rows[0]
        ?.token;
    const [first, second, third] = [await enter(), await enter(), await enter()];
    expect(first).not.toBeNull();
    expect(second).not.toBeNull();
    expect(third).toBeNull();

    await client.query("select reembed.leave_slot($1)", [first]);
    expect(await enter()).not.toBeNull();
    expect(await enter()).toBeNull();

    await client.query(
      "update reembed.worker_slots set until = now() - interval '1 second' where token = $1",
      [second],
    );
    expect(await enter()).not.toBeNull();
    // The worker that was taken for dead gives back what is no longer its own: nothing.
    await client.query("select reembed.leave_slot($1)", [second]);
    expect(await enter()).toBeNull();
    await client.end();
  });
});

describePostgres("the schedule", () => {
  let database: TestDatabase;
  let client: Client;

  beforeAll(async () => {
    database = await createDatabase({ cron: true });
    client = await connect(database.url);
  });
  afterAll(() => client.end());

  test("pg_cron pokes the function; unschedule ends it", async () => {
    const endpoint = new Endpoint();
    try {
      await client.query("select reembed.set_secret('functions_url', $1)", [await endpoint.start()]);
      await client.query("select reembed.set_secret('backfill_key', 'sb_secret_for_the_test')");
      await client.query(enqueue);
      const arrived = endpoint.poked();
      await client.query("select reembed.schedule('1 seconds', 2)");
      const { rows } = await client.query<{ jobname: string }>(
        "select jobname from cron.job order by jobname",
      );
      expect(rows.map(({ jobname }) => jobname)).toEqual([
        "reembed-backfill-1",
        "reembed-backfill-2",
        "reembed-purge",
      ]);
      expect((await arrived).request.headers.apikey).toBe("sb_secret_for_the_test");
      expect((await client.query("select reembed.unschedule() as removed")).rows).toEqual([{ removed: 3 }]);
      expect((await client.query("select from cron.job")).rowCount).toBe(0);
    } finally {
      endpoint.server.close();
    }
  });

  test("the purge takes our own finished runs of more than a day ago and nothing else", async () => {
    const admin = await connect(database.adminUrl);
    await client.query("select cron.schedule('reembed-backfill-1', '0 0 1 1 *', 'select 1')");
    await client.query("select cron.schedule('theirs', '0 0 1 1 *', 'select 1')");
    await admin.query(
      `insert into cron.job_run_details (jobid, runid, status, end_time)
       select jobid, 1000 + row_number() over (), 'succeeded', now() - age
         from cron.job, unnest(array[interval '2 days', interval '1 hour']) age`,
    );
    const { rows } = await client.query("select reembed.purge_cron_details() as purged");
    const left = await admin.query(
      "select count(*)::int as rows from cron.job_run_details where runid >= 1000",
    );
    await admin.end();
    expect(rows).toEqual([{ purged: "1" }]);
    expect(left.rows).toEqual([{ rows: 3 }]);
  });
});
