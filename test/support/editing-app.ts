/** An application at work on a table with `id`, `title` and `content` while workers embed it: it edits, inserts and deletes, one statement after another. */
import type { Client } from "pg";
import type { Random } from "./random.ts";

/** Titles of the texts that stand in several rows. They are never edited or deleted, so that their vectors are never lost again. */
const REPEATED = ["Repeated 1", "Repeated 2", "Repeated 3"] as const;
const REPEATED_CONTENT = "The same words in several rows.";

export interface EditingApp {
  /** Ends after the statement under way. */
  stop(): Promise<void>;
}

/**
 * Fills the table with rows whose texts all differ, but for a few that stand three times each, and starts to work on it.
 * @param target the table, quoted, and what its texts are about: texts of another subject are other texts
 */
export async function startEditingApp(
  client: Client,
  random: Random,
  rows: number,
  { table = "public.course_content", subject = "the course" } = {},
): Promise<EditingApp> {
  let texts = 0;
  await client.query(
    `insert into ${table} (title, content)
     select format('Section %s', n), format('What %s says about topic %s, as first written.', $4::text, n) from generate_series(1, $1::int) n
     union all
     select title, $3 from unnest($2::text[]) title, generate_series(1, 3)`,
    [rows, REPEATED, `${REPEATED_CONTENT} Of ${subject}.`, subject],
  );
  const one = `(select id from ${table} where title like 'Section %' order by md5(id::text || $1) limit 1)`;
  const statement = (): [sql: string, values: unknown[]] => {
    texts += 1;
    const text = `What ${subject} says after change ${texts}, in other words than before.`;
    switch (random.weighted({ edit: 6, insert: 3, delete: 1, copy: 0.5 })) {
      case "edit":
        return [`update ${table} set content = $2 where id = ${one}`, [texts, text]];
      case "insert":
        return [`insert into ${table} (title, content) values ('Section ' || $1::int, $2)`, [texts, text]];
      case "delete":
        return [`delete from ${table} where id = ${one}`, [texts]];
      case "copy":
        return [
          `insert into ${table} (title, content) values ($1, $2)`,
          [random.pick(REPEATED), `${REPEATED_CONTENT} Of ${subject}.`],
        ];
    }
  };
  let stopped = false;
  const working = (async () => {
    while (!stopped) {
      const [sql, values] = statement();
      await client.query(sql, values);
      // As an application that also does other things: about a hundred writes a second.
      await client.query("select pg_sleep(0.01)");
    }
  })();
  // What it fails of is told by stop().
  working.catch(() => {});
  return {
    async stop() {
      stopped = true;
      await working;
    },
  };
}
