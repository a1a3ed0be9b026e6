/** Where SQL and TypeScript must say the same of a text, a vector or a caller; and the planner of claims. */
import fc from "fast-check";
import type { Client } from "pg";
import { afterAll, beforeAll, expect } from "vitest";
import { sha256 } from "../../../supabase/functions/_shared/digest.ts";
import { checkVectors } from "../../../supabase/functions/_shared/embedder.ts";
import { estimateTokens } from "../../../supabase/functions/_shared/tokens.ts";
import { createCollection, type TestCollection } from "../../support/collection.ts";
import { hashOf, TEST_SPACE } from "../../support/memory-queue.ts";
import { connect, createDatabase, describePostgres } from "../../support/postgres.ts";
import { anyText, holds, hostileText } from "../../support/properties.ts";

describePostgres("SQL and TypeScript", () => {
  let client: Client;
  let collection: TestCollection;
  beforeAll(async () => {
    client = await connect((await createDatabase()).url);
    collection = await createCollection(client, "notes");
    await client.query("select reembed.start_loading('notes', 2), reembed.finish_enqueueing('notes', 2)");
    // What advance would do of a loaded and indexed version.
    await client.query("update reembed.versions set state = 'ready' where id = $1", [
      collection.versions[1]?.id,
    ]);
  });
  afterAll(() => client?.end());

  // A hash that differs makes every completion stale: paid, and never stored.
  holds(
    "hash every text alike",
    fc.asyncProperty(
      fc.oneof(anyText(), hostileText(20), fc.string({ unit: "grapheme", maxLength: 300 })),
      async (raw) => {
        const text = raw.replaceAll("\0", "");
        const { rows } = await client.query<{ hash: string }>(
          "select encode(sha256(convert_to($1::text, 'UTF8')), 'hex') as hash",
          [text],
        );
        expect([await sha256(text), hashOf(text)]).toEqual([rows[0]?.hash, rows[0]?.hash]);
      },
    ),
  );

  // What passes the check is stored, and then has to have a distance: PostgreSQL counts in float4.
  holds(
    "agree on which vectors have a direction",
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          fc.double({ noNaN: true, noDefaultInfinity: true }),
          fc.float({ noNaN: true, noDefaultInfinity: true }),
          fc.constantFrom(0, -0, 1e-23, 1e-22, 1e-38, 1.8e19, 1.9e19, 3.4e38, 1e-45),
        ),
        { minLength: 3, maxLength: 3 },
      ),
      async (vector) => {
        const space = { ...TEST_SPACE, dimensions: 3 };
        let passes = true;
        try {
          checkVectors(space, ["x"], [vector]);
        } catch {
          passes = false;
        }
        fc.pre(passes);
        const { rows } = await client.query<{ distance: number }>(
          "select ($1::extensions.vector operator(extensions.<=>) $1::extensions.vector)::float8 as distance",
          [JSON.stringify(vector.map(Math.fround))],
        );
        expect(Math.abs(rows[0]?.distance ?? Number.NaN)).toBeLessThan(0.01);
      },
    ),
  );

  // A canary: whoever is below the share is answered by the new version, and a growing share takes nobody back.
  holds(
    "route a caller by its place and the share, and a named version to itself",
    fc.asyncProperty(
      fc.integer({ min: 0, max: 100 }),
      fc.option(fc.oneof(fc.integer({ min: 0, max: 99 }), fc.constant("at the share"))),
      fc.option(fc.integer({ min: 1, max: 2 })),
      async (percent, place, named) => {
        const bucket = typeof place === "string" ? Math.min(99, percent) : place;
        await client.query("select reembed.set_traffic('notes', 2, $1)", [percent]);
        const { rows } = await client.query<{ route: { version: number; space: string; active: boolean } }>(
          "select public.embedding_route('notes', $1, $2) as route",
          [named, bucket],
        );
        const expected = named ?? (bucket !== null && bucket < percent ? 2 : 1);
        expect(rows[0]?.route).toMatchObject({
          version: expected,
          active: expected === 1,
          space: collection.versions[expected - 1]?.space,
        });
      },
    ),
    50,
  );

  // More than a provider takes is a request that fails; less than one text is a text that is never bought.
  holds(
    "claim each text once, in requests within their rows and tokens",
    fc.asyncProperty(
      fc.uniqueArray(fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 120 }), {
        minLength: 1,
        maxLength: 12,
      }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 60 }),
      async (titles, maxRows, maxTokens) => {
        await client.query("begin");
        try {
          await client.query(`delete from ${collection.table}`);
          await client.query(`insert into ${collection.table} (title) select unnest($1::text[])`, [titles]);
          const bought: string[] = [];
          for (let claims = 0; claims <= titles.length; claims += 1) {
            const { rows } = await client.query<{
              claim: { reason: string; jobs: { input: string; tokens: number }[] };
            }>("select reembed.claim('notes', 1, $1, $2) as claim", [maxRows, maxTokens]);
            // A reservation that is settled leaves room for the next.
            await client.query(
              "update reembed.usage set state = 'settled', lease_until = null where state = 'reserved'",
            );
            const jobs = rows[0]?.claim.jobs ?? [];
            expect(jobs.length).toBeLessThanOrEqual(maxRows);
            if (jobs.length > 1)
              expect(jobs.reduce((sum, { tokens }) => sum + tokens, 0)).toBeLessThanOrEqual(maxTokens);
            for (const { input, tokens } of jobs) expect(tokens).toBe(estimateTokens(input));
            bought.push(...jobs.map(({ input }) => input));
          }
          expect(bought.toSorted()).toEqual(titles.map((title) => `${title}\n`).toSorted());
        } finally {
          await client.query("rollback");
        }
      },
    ),
    30,
  );
});
