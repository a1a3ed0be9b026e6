/** A move that is under way when its database is upgraded: how it is begun, what a dump of it is, and how it goes on to its end. */
import { DatabaseError } from "pg";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { advance, startLoading, work } from "../../scripts/lib/move.ts";
import { withClient } from "../../scripts/lib/test-server.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { schemaDump } from "./pg-dump.ts";

const COLLECTION = "course_content";
const ROWS = 12;
const LOADED = 5;

/** The offline provider's spaces, so that the move can go on anywhere. */
const SPACES = `
  select reembed.add_space('hash', 'words-and-ngrams', 384), reembed.add_space('hash', 'words-and-ngrams', 1536);
  select reembed.set_space('course_content', 1, 'hash/words-and-ngrams@384'), reembed.set_space('course_content', 2, 'hash/words-and-ngrams@1536');`;

/** Begins it in a migrated database: version 1 loaded, version 2 loaded in part, one of its jobs leased by a worker that died, one failed, an edit that waits. */
export async function beginMove(url: string): Promise<void> {
  const embedderFor = (space: Parameters<typeof createEmbedder>[0]) => createEmbedder(space, {});
  const db = await openDatabase(url);
  try {
    for (const statement of SPACES.split(";\n")) await db.query(statement);
    await db.query(
      `insert into public.course_content (title, content, url, content_type)
       select 'Section ' || n, 'What the course says about topic ' || n || '.', 'https://example.org/course.html#' || n, 'section' from generate_series(1, $1::int) n`,
      [ROWS],
    );
    await work(db, embedderFor, { collection: COLLECTION, version: 1 });
    await db.query("select reembed.set_budget('all', 'month', 100)");
    await startLoading(db, { collection: COLLECTION, version: 2 });
    await work(db, embedderFor, { collection: COLLECTION, version: 2, limit: LOADED });
    await db.query("select reembed.claim($1, 2, max_rows => 2)", [COLLECTION]);
    await db.query(
      `update reembed.jobs set failed_at = now(), error = 'the provider refused it'
        where (version_id, row_id) = (select version_id, row_id from reembed.jobs where lease_token is null order by row_id limit 1)`,
    );
    await db.query(
      `update public.course_content set content = content || ' More.'
        where id::text = (select row_id from reembed.records r join reembed.versions v on v.id = r.version_id where v.number = 2 order by row_id limit 1)`,
    );
  } finally {
    await db.close();
  }
}

/** Restores a dump into a database as a new project has it. */
export function restore(url: string, dump: string): Promise<void> {
  return withClient(url, async (client) => {
    try {
      await client.query(dump);
    } catch (error) {
      if (error instanceof DatabaseError && error.position !== undefined)
        error.message += ` near: ${dump.slice(Number(error.position) - 1).slice(0, 200)}`;
      throw error;
    }
  });
}

export interface MoveEnd {
  readonly state: string;
  readonly active: number;
  readonly rows: number;
  readonly embedded: number;
  readonly violations: readonly unknown[];
}

/** Goes on with the move from where it stood, to the cutover. */
export async function endMove(url: string): Promise<MoveEnd> {
  const db = await openDatabase(url);
  try {
    await db.query("select reembed.retry()");
    await db.query("update reembed.jobs set run_at = '-infinity', lease_until = '-infinity' where true");
    for (const version of [1, 2])
      await work(db, (space) => createEmbedder(space, {}), { collection: COLLECTION, version });
    const state = await advance(db, { collection: COLLECTION, version: 2 });
    await db.query("select reembed.cutover($1, 2, reason => 'the end of the move', force => true)", [
      COLLECTION,
    ]);
    const [end] = await db.query<Omit<MoveEnd, "state" | "violations">>(
      `select (public.embedding_route($1) ->> 'version')::int as active, (select count(*)::int from public.course_content) as rows,
              (select count(embedding_1536)::int from public.course_content) as embedded`,
      [COLLECTION],
    );
    if (end === undefined) throw new Error("the database answered nothing");
    return { ...end, state, violations: await db.query("select * from reembed.violations()") };
  } finally {
    await db.close();
  }
}

/** Puts a fresh database into the spaces of the move, so that its searches are those of the upgraded one. */
export const chooseSpaces = (url: string): Promise<unknown> =>
  withClient(url, (client) => client.query(SPACES));

/**
 * The objects of a database, each as pg_dump writes it, in an order that does not depend on when they were made. Without the triggers of maintained versions,
 * which belong to the data.
 */
export async function normalizedSchema(url: string): Promise<string[]> {
  const text = (await schemaDump(url)).replace(/^\\.*\n/gm, "");
  const objects = text.split(/^--\n(?=-- Name: )/m).slice(1);
  return (
    objects
      .map((object) => object.replace(/\s+$/, ""))
      // A trigger's condition gains parentheses each time it is read and written.
      .map((object) => (/; Type: TRIGGER;/.test(object) ? object.replace(/[()]/g, "") : object))
      .filter((object) => !/^-- Name: .*(track_(version|vectors)_\d+|reembed_\d+_\w+)/.test(object))
      .sort()
  );
}
