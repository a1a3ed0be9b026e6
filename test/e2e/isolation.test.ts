/**
 * Random searches, ranks and reads as many users over many artifacts, through every way that the API has: nothing of what a user may not see comes back, be it
 * as a row, a number or a word of an error, and all that the user may see and asked for does.
 * `npm run isolation` makes a thousand of them over 20,000 artifacts; REEMBED_ISOLATION_SEED repeats a run.
 */
import type { SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import type { Database } from "../../supabase/functions/_shared/database.types.ts";
import { describePostgres } from "../support/postgres.ts";
import { Random } from "../support/random.ts";
import { seedFrom } from "../support/seed.ts";
import {
  bareDatabase,
  clientOf,
  type SignedUp,
  signUp,
  startTestStack,
  type TestStack,
} from "../support/stack.ts";

const REQUESTS = Number(process.env.REEMBED_ISOLATION_REQUESTS ?? 100);
const SEED = seedFrom("REEMBED_ISOLATION_SEED");
/** Of the full run twenty thousand. */
const ARTIFACTS = Math.min(20_000, 20 * REQUESTS);
const USERS = 50;
const WORKSPACES = 10;
const TYPES = ["project", "position", "publication"];
const WIDTH = 1_536;
const AT_ONCE = 4;

interface User extends SignedUp {
  readonly client: SupabaseClient<Database>;
  /** What stands in each text of this user and nowhere else. */
  readonly marker: string;
}

interface Artifact {
  readonly id: number;
  readonly owner_id: string;
  readonly type: string;
  readonly chunks: number;
  readonly seers: readonly string[];
}

const marker = (n: number) => `marker${String(n).padStart(2, "0")}x`;
const MARKERS = /marker\d\dx/g;

describePostgres("isolation", () => {
  let running: TestStack;
  let stack: Stack;
  let db: Client;
  const users: User[] = [];
  let artifacts: Artifact[] = [];
  const markerOf = new Map<string, string>();

  beforeAll(async () => {
    console.log(`isolation: REEMBED_ISOLATION_SEED=${SEED} repeats this run`);
    running = await startTestStack({ database: await bareDatabase() });
    ({ stack, db } = running);
    await db.query("select reembed.set_query_rate(1000000, 1000000)");
    for (let n = 0; n < USERS; n += 1) users.push(await newUser(n));
    await fill();
    for (const { id, marker } of users) markerOf.set(id, marker);
    artifacts = (
      await db.query<Artifact>(`
        select a.id::int, a.owner_id, a.type, (select count(*)::int from public.artifact_chunks c where c.artifact_id = a.id) as chunks,
               array(select a.owner_id union select m.user_id from public.artifact_workspace_members m where m.workspace_id = a.workspace_id) as seers
          from public.artifacts a order by a.id`)
    ).rows;
  }, 300_000);
  afterAll(() => running?.stop());

  async function newUser(n: number): Promise<User> {
    const client = clientOf(stack);
    return { client, ...(await signUp(client, `${marker(n)}@example.com`)), marker: marker(n) };
  }

  /** Sample artifacts with vectors of chance, each user's with the user's marker; one of ten is shared in a workspace, one of twenty is long. */
  async function fill(): Promise<void> {
    await db.query(
      "drop index public.artifact_full_1536_embedding_hnsw, public.artifact_chunk_1536_embedding_hnsw",
    );
    await db.query("select setseed($1)", [(SEED % 1_000) / 1_000]);
    await db.query(
      `with w as (insert into public.artifact_workspaces (name) select 'Workspace ' || n from generate_series(0, $2::int - 1) n returning id)
       insert into public.artifact_workspace_members (workspace_id, user_id)
       select w.id, u.id from (select id, row_number() over () - 1 as at from w) w join unnest($1::uuid[]) with ordinality u(id, n) on u.n % $2::int = w.at`,
      [users.map(({ id }) => id), WORKSPACES],
    );
    await db.query(
      `insert into public.artifacts (owner_id, workspace_id, title, type, description, content, summary, skills)
       select u.id, case when n % 10 = 0 then (select m.workspace_id from public.artifact_workspace_members m where m.user_id = u.id limit 1) end,
              'Artifact ' || u.marker, ($3::text[])[1 + n % cardinality($3::text[])], 'By ' || u.marker,
              case when n % 20 = 1 then repeat('A long work of ' || u.marker || ' about payments. ', 80) else 'A work of ' || u.marker || ' about payments.' end,
              'Summary ' || u.marker, array[u.marker, 'Go']
         from generate_series(1, $4::int) n join unnest($1::uuid[], $2::text[]) with ordinality u(id, marker, k) on u.k = 1 + n % cardinality($1::uuid[])`,
      [users.map(({ id }) => id), users.map(({ marker }) => marker), TYPES, ARTIFACTS],
    );
    for (const [table, key, source] of [
      ["artifact_full_1536", "artifact_id", "artifacts"],
      ["artifact_chunk_1536", "artifact_chunk_id", "artifact_chunks"],
    ]) {
      await db.query(
        `insert into public.${table} (${key}, embedding) select s.id, (select array_agg(random() - 0.5) from generate_series(1, ${WIDTH}) where s.id is not null)::extensions.vector from public.${source} s`,
      );
    }
    await db.query(`
      select reembed.index_sql('artifacts', 1, false);
      set maintenance_work_mem = '1GB';
      create index artifact_full_1536_embedding_hnsw on public.artifact_full_1536 using hnsw (embedding extensions.vector_cosine_ops);
      create index artifact_chunk_1536_embedding_hnsw on public.artifact_chunk_1536 using hnsw (embedding extensions.vector_cosine_ops);
      analyze public.artifacts; analyze public.artifact_chunks; analyze public.artifact_full_1536; analyze public.artifact_chunk_1536;`);
  }

  const call = async (user: User, method: "GET" | "POST", path: string, body?: object) => {
    const response = await fetch(`${stack.url}/functions/v1/artifacts${path}`, {
      method,
      headers: {
        apikey: stack.publishableKey,
        authorization: `Bearer ${user.token}`,
        "content-type": "application/json",
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return (await response.json()) as Record<string, unknown>;
  };
  const vector = (random: Random) => Array.from({ length: WIDTH }, () => random.next() - 0.5);

  /** What one request answered, and what it must have: rows, where they can be counted, and numbers that the answer states. */
  interface Tried {
    readonly what: string;
    readonly answer: unknown;
    readonly rows?: readonly [found: number, wanted: number];
    readonly counts?: readonly [said: unknown, truth: number];
  }

  async function tryOne(number: number): Promise<{ user: User; tried: Tried }> {
    const random = new Random(SEED * 1_000_003 + number);
    const user = random.pick(users);
    const stranger = random.pick(users);
    const some = random.pick(artifacts);
    const limit = random.pick([1, 5, 20, 100]);
    const types = random.chance(0.5) ? [random.pick(TYPES)] : undefined;
    const mine = (artifact: Artifact) => artifact.seers.includes(user.id);
    const fits = (artifact: Artifact) => types === undefined || types.includes(artifact.type);
    const visible = artifacts.filter((artifact) => mine(artifact) && fits(artifact));
    const own = visible.filter(({ owner_id }) => owner_id === user.id);
    const data = async (query: PromiseLike<{ data: unknown; error: unknown }>) => {
      const { data, error } = await query;
      return data ?? error;
    };
    const length = (answer: unknown) => (Array.isArray(answer) ? answer.length : -1);
    const ways: Readonly<Record<string, () => Promise<Omit<Tried, "what">>>> = {
      "similar by text": async () => {
        const user_only = random.chance(0.5);
        const answer = await call(user, "POST", "/search/similar", {
          query_text: random.pick(["payments", stranger.marker, "a work"]),
          similarity_threshold: null,
          limit,
          user_only,
          ...(types && { artifact_types: types }),
        });
        const candidates = (user_only ? own : visible).length;
        const info = answer.query_info as { total_candidates?: number } | undefined;
        return {
          answer,
          rows: [length(answer.results), Math.min(limit, candidates)],
          counts: [info?.total_candidates, candidates],
        };
      },
      "similar by vector, by l2": async () => {
        const answer = await call(user, "POST", "/search/similar", {
          query_embedding: vector(random),
          similarity_threshold: null,
          limit,
          user_only: false,
          method: "l2",
        });
        return { answer, rows: [length(answer.results), Math.min(limit, artifacts.filter(mine).length)] };
      },
      "chunks like a vector": async () => {
        const answer = await call(user, "POST", "/search/similar", {
          query_embedding: vector(random),
          similarity_threshold: null,
          limit,
          user_only: false,
          content_type: "chunk",
        });
        const chunks = artifacts.filter(mine).reduce((sum, artifact) => sum + artifact.chunks, 0);
        return { answer, rows: [length(answer.results), Math.min(limit, chunks)] };
      },
      rank: async () => {
        const ids = Array.from({ length: 20 }, () => random.pick(artifacts).id);
        const ranking_method = random.pick(["semantic", "hybrid", "keyword"]);
        const answer = await call(user, "POST", "/rank", {
          job_description: `Somebody who knows payments, Go and ${stranger.marker}`,
          artifact_ids: ids,
          ranking_method,
          top_k: 100,
        });
        const wanted = artifacts.filter((artifact) => mine(artifact) && ids.includes(artifact.id)).length;
        const said = answer.processing_metadata as { total_candidates?: number } | undefined;
        return {
          answer,
          rows: [length(answer.ranked_artifacts), wanted],
          counts: [said?.total_candidates, wanted],
        };
      },
      "embeddings of an artifact": async () => ({
        answer: await call(user, "GET", `/${some.id}/embeddings`),
      }),
      "an order for an artifact": async () => ({
        answer: mine(some)
          ? null
          : await call(user, "POST", `/${some.id}/embeddings`, { force_regenerate: true }),
      }),
      "match, asking for a stranger's": async () => {
        const answer = await data(
          user.client.rpc("match_artifacts", {
            query_embedding: vector(random),
            match_count: limit,
            match_threshold: -1,
            filter_owner_id: stranger.id,
          }),
        );
        const wanted = artifacts.filter(
          (artifact) => mine(artifact) && artifact.owner_id === stranger.id,
        ).length;
        return { answer, rows: [length(answer), Math.min(limit, wanted)] };
      },
      "hybrid, by a stranger's word": async () => ({
        answer: await data(
          user.client.rpc("hybrid_artifacts", { query_text: stranger.marker, match_count: 50 }),
        ),
      }),
      "the table": async () => {
        const answer = await data(user.client.from("artifacts").select("*").limit(1_000));
        return { answer, rows: [length(answer), Math.min(1_000, artifacts.filter(mine).length)] };
      },
      "the table by id": async () => {
        const answer = await data(user.client.from("artifacts").select("*").eq("id", some.id));
        return { answer, rows: [length(answer), mine(some) ? 1 : 0] };
      },
      "a count": async () => {
        const { count } = await user.client.from("artifacts").select("id", { count: "exact", head: true });
        return { answer: null, counts: [count, artifacts.filter(mine).length] };
      },
      "the vectors": async () => {
        const answer = await data(
          user.client.from("artifact_full_1536").select("artifact_id").eq("artifact_id", some.id),
        );
        return { answer, rows: [length(answer), mine(some) ? 1 : 0] };
      },
      "the embeddings": async () => {
        const answer = await data(
          user.client
            .from("artifact_embeddings")
            .select("artifact_id, content_type")
            .eq("artifact_id", some.id),
        );
        return { answer, rows: [length(answer), mine(some) ? 1 + some.chunks : 0] };
      },
      "the chunks": async () => ({
        answer: await data(user.client.from("artifact_chunks").select("*").eq("artifact_id", some.id)),
      }),
      "the cache": async () => ({ answer: await data(user.client.from("job_embeddings").select("*")) }),
      "a write to a stranger's": async () => ({
        answer: await data(
          user.client
            .from("artifacts")
            .update({ title: "x" })
            .eq("id", some.id)
            .neq("owner_id", user.id)
            .select(),
        ),
      }),
      "a broken request": async () => ({
        answer: await data(
          user.client
            .from("artifacts")
            .select("*")
            .eq("id", `${some.id}x` as unknown as number),
        ),
      }),
    };
    const what = random.pick(Object.keys(ways));
    return { user, tried: { what, ...(await ways[what]?.()) } as Tried };
  }

  /** Ids of artifacts, wherever they stand in an answer. */
  const idsIn = (answer: unknown): number[] =>
    [...JSON.stringify(answer ?? null).matchAll(/"(?:artifact_id|id)":(\d+)\b/g)].map(([, id]) => Number(id));

  test(`${REQUESTS} requests of ${USERS} users over ${ARTIFACTS} artifacts show nothing of another's`, async () => {
    const byId = new Map(artifacts.map((artifact) => [artifact.id, artifact]));
    const problems: string[] = [];
    const tries = new Map<string, number>();
    let next = 0;
    const lane = async () => {
      while (next < REQUESTS) {
        const number = next;
        next += 1;
        const { user, tried } = await tryOne(number);
        const { what, answer, rows, counts } = tried;
        tries.set(what, (tries.get(what) ?? 0) + 1);
        const problem = (text: string) => problems.push(`${number}, ${what}: ${text}`);
        const seen = new Set<string>([user.marker]);
        for (const id of idsIn(answer)) {
          const artifact = byId.get(id);
          if (artifact === undefined) continue;
          if (!artifact.seers.includes(user.id)) problem(`shows artifact ${id}`);
          else seen.add(markerOf.get(artifact.owner_id) ?? "");
        }
        const shown = JSON.stringify(answer ?? null).match(MARKERS) ?? [];
        for (const word of new Set(shown)) if (!seen.has(word)) problem(`shows ${word}`);
        if (rows !== undefined && rows[0] !== rows[1])
          problem(`${rows[0]} rows of ${rows[1]}: ${JSON.stringify(answer).slice(0, 200)}`);
        if (counts !== undefined && counts[0] !== counts[1])
          problem(`counts ${counts[0]}, and there are ${counts[1]}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    console.log(
      [...tries]
        .sort()
        .map(([what, count]) => `${what}: ${count}`)
        .join(", "),
    );
    expect(problems).toEqual([]);
    expect(running.openai.stats().log.every(({ inputs }) => inputs.length === 1)).toBe(true);
    const { rows } = await db.query(
      "select count(*)::int as n from reembed.usage where purpose = 'document'",
    );
    expect(rows, "nobody has a stranger's artifact embedded").toEqual([{ n: 0 }]);
  }, 600_000);
});
