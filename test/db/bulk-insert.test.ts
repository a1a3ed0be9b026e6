/** A bulk insert takes a shorter way into the queue; where a job has outlived its row, that way fails and the ordinary one is taken. */
import { expect, test } from "vitest";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

describePostgres("a bulk insert over a job that outlived its row", () => {
  test("enqueues every row and renews the old job", async () => {
    const database = await createDatabase();
    const client = await connect(database.url);
    const { rows: ids } = await client.query<{ id: string }>(
      "select gen_random_uuid() as id from generate_series(1, 150)",
    );
    await client.query(
      "insert into reembed.jobs (version_id, row_id, attempts, priority) select v.id, $1, 5, 1 from reembed.version_numbered('course_content', 1) v",
      [ids[70]?.id],
    );

    await client.query(
      "insert into public.course_content (id, title, content) select u, 'title', 'text' from unnest($1::uuid[]) u",
      [ids.map(({ id }) => id)],
    );

    const { rows: jobs } = await client.query(
      "select count(*)::int as jobs, max(attempts) as attempts, max(priority) as priority from reembed.jobs",
    );
    expect(jobs).toEqual([{ jobs: 150, attempts: 0, priority: 0 }]);
    await client.end();
  });
});
