/**
 * Random and hostile arguments for every function that a role of the API may call: each is answered or refused with a documented SQLSTATE, in time, and the
 * error shows neither a text nor a vector that is stored. REEMBED_RPC_CALLS says how many calls a function gets (40), REEMBED_RPC_SEED repeats them.
 */
import { createHash } from "node:crypto";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createCollection } from "../support/collection.ts";
import { type ApiRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Random } from "../support/random.ts";
import {
  argumentsFor,
  callRpc,
  functionsFor,
  type Known,
  type RpcOutcome,
  readKnown,
} from "../support/rpc-fuzz.ts";
import { seedFrom } from "../support/seed.ts";

const CALLS = Number(process.env.REEMBED_RPC_CALLS ?? 40);
const SEED = seedFrom("REEMBED_RPC_SEED");
const CANARY = "canary-4c1f";
const ROLES: readonly ApiRole[] = ["anon", "authenticated", "service_role"];

/** Ours, a value that does not fit, a constraint, a missing right: what the API answers with 4xx. */
const DOCUMENTED = /^(RE\d{3}|22...|23...|42501)$/;
/** A vector: no message has so many numbers in a row. */
const VECTOR = /(-?\d+(\.\d+)?(e-?\d+)?,){7}/;

describePostgres(`every function of the API, ${CALLS} calls each, seed ${SEED}`, () => {
  let client: Client;
  let known: Known;
  beforeAll(async () => {
    client = await connect((await createDatabase()).url);
    await createCollection(client, "notes");
    await client.query(`
      revoke execute on function public.test_vector, public.notes_input from public, anon, authenticated, service_role;
      insert into public.notes (title) select '${CANARY} ' || n from generate_series(1, 20) n;
      insert into public.course_content (title, content, embedding)
        select '${CANARY}', '${CANARY} ' || n, array_fill(0.1234567::real, array[384])::extensions.vector from generate_series(1, 5) n;
      create table public.canary (word text); insert into public.canary values ('${CANARY}');
      alter table public.canary enable row level security;`);
    known = await readKnown(client);
  });
  afterAll(() => client?.end());

  /** What is stored, but for sequences and statistics: a hash of each table. */
  async function fingerprint(): Promise<Record<string, string>> {
    const { rows: tables } = await client.query<{ name: string }>(
      `select c.oid::regclass::text as name from pg_class c where c.relnamespace in ('reembed'::regnamespace, 'public'::regnamespace) and c.relkind = 'r' order by 1`,
    );
    const prints: Record<string, string> = {};
    for (const { name } of tables) {
      const { rows } = await client.query<{ all: string | null }>(
        `select string_agg(t::text, e'\\n' order by t::text) as all from ${name} t`,
      );
      prints[name] = createHash("sha256")
        .update(rows[0]?.all ?? "")
        .digest("hex");
    }
    return prints;
  }

  // PostgreSQL's own functions refuse these with codes and words that name no argument.
  test.each([
    ["reembed_order_rows('course_content', 1, array[array['a', 'b']])", /^row_ids must be a list/],
    [
      "rank_artifacts('a job', ranking_method => 'keyword', artifact_ids => array[array[1, 2]]::bigint[])",
      /^artifact_ids must be a list/,
    ],
    [
      "reembed_apply_article('https://example.org/', 'title', 'text', null, array[array['a', 'b']])",
      /^url and chunks must be given/,
    ],
    [
      "reembed_complete(1, 'test/none@16', gen_random_uuid(), array[array['a', 'b']], array[array['00', '00']], array[array['[1]', '[1]']], array[array[1, 1]])",
      /^row_ids, hashes and tokens hold a null or a list/,
    ],
    [
      "reembed_order_rows('course_content', 1, array['a'], caller_hash => 'xyz')",
      /^caller_hash must be SHA-256 in hex/,
    ],
    ["reembed_end_query(1, 'xyz', 1, 1, 'done')", /^query_hash must be SHA-256 in hex/],
    [
      "reembed_end_queries(1, array['xyz'], array['[1]'], 1, 1, 'done')",
      /^query_hashes must be SHA-256 in hex/,
    ],
    [
      "similar_artifacts(array['[1]'], match_count => -1, user_only => false)",
      /^match_count is -1: it must be between 1 and 1000/,
    ],
  ])(
    "a list of lists, a hash that is none and a count below 0 are refused by their names: %s",
    async (call, message) => {
      await expect(client.query(`select public.${call}`)).rejects.toMatchObject({
        code: "RE004",
        message: expect.stringMatching(message),
      });
    },
  );

  describe.each(ROLES)("as %s", (role) => {
    test(
      "is answered, or refused with a documented code; nothing leaks, and only the service changes anything",
      async () => {
        const before = await fingerprint();
        const problems: string[] = [];
        const outcomes = new Map<string, number>();
        const unreached: string[] = [];
        for (const [at, rpc] of (await functionsFor(client, role)).entries()) {
          let reached = 0;
          let answered = 0;
          for (let call = 0; call < CALLS; call += 1) {
            const args = argumentsFor(rpc, new Random(SEED + at * 1_000_003 + call), known, call);
            // What the service changes is undone, so that each call finds the same.
            const outcome = await callRpc(client, role, rpc, args, role !== "service_role");
            if (outcome.kind !== "refused by its type") reached += 1;
            if (outcome.kind === "answered") answered += 1;
            const problem = problemOf(outcome);
            if (problem !== undefined)
              problems.push(`${rpc.name} ${JSON.stringify(args).slice(0, 400)}\n  ${problem}`);
            const key = outcome.kind === "failed" ? (outcome.error.code ?? "?") : outcome.kind;
            outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
          }
          // What is stopped at the door tells nothing of the function.
          if (
            reached < CALLS / 4 ||
            (rpc.name in known.searches && role === "service_role" && answered === 0)
          )
            unreached.push(`${rpc.name}: ${reached} of ${CALLS} reached it, ${answered} were answered`);
        }
        console.log(`as ${role}: ${[...outcomes].map(([what, times]) => `${what} ${times}`).join(", ")}`);
        expect(problems).toEqual([]);
        expect(unreached).toEqual([]);
        expect(outcomes.get("answered")).toBeGreaterThan(0);
        expect(await fingerprint()).toEqual(before);
      },
      60_000 + CALLS * 3_000,
    );
  });
});

function problemOf(outcome: RpcOutcome): string | undefined {
  if (outcome.kind === "answered") return undefined;
  const { code, message, detail, hint } = outcome.error;
  const said = [code, message, detail, hint].filter(Boolean).join(" | ").slice(0, 400);
  // Before the function is called the type itself refuses, and shows the caller what the caller sent. 54000: more dimensions than any vector has.
  if (outcome.kind === "refused by its type")
    return /^(22...|23...|54000)$/.test(code ?? "") ? undefined : `by its type: ${said}`;
  if (!DOCUMENTED.test(code ?? "")) return said;
  const shown = `${message} ${detail} ${hint}`;
  return shown.includes(CANARY) || VECTOR.test(shown) ? `it leaks: ${said}` : undefined;
}
