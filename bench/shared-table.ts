/**
 * A table of which each caller sees another part, for benchmarks: by owner, or by membership in teams. Vectors of 1536 dimensions stand around 200
 * centres, in a table of their own; who owns a row has nothing to do with where its vector stands.
 */
import type { Client } from "pg";
import { encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { randomVector, seededRandom, unit, vectorText } from "../test/support/vectors.ts";

export const DIMENSIONS = 1536;
const SEED = 5;
const CENTRES = 200;
const SPREAD = 0.7;
const CHUNK = 1_000;
/** Those who own what no caller here owns. */
const OTHERS = 1_000;

/** Somebody who sees a part of the rows: as their owner, or as a member of five teams that have them. */
export interface Caller {
  readonly name: string;
  readonly id: string;
  readonly rows: number;
  readonly teams: readonly number[];
}

/** How a policy says what a caller sees; the second in the form that most projects write, which no index serves. */
export const POLICIES = {
  owner: "owner_id = (select auth.uid())",
  membership: "team in (select m.team from public.memberships m where m.member = (select auth.uid()))",
} as const;
export type Policy = keyof typeof POLICIES;

const TEAMS = 5;

/** Callers who see so many rows each, all different ones. */
function callersOf(counts: Readonly<Record<string, number>>): Caller[] {
  return Object.entries(counts).map(([name, rows], at) => ({
    name,
    rows,
    id: `00000000-0000-4000-8000-${String(at + 1).padStart(12, "0")}`,
    teams: Array.from({ length: Math.min(TEAMS, rows) }, (_, n) => (at + 1) * 10 + n),
  }));
}

const SCHEMA = `
  create table public.shared (id bigint primary key, owner_id uuid not null, team int not null, body text not null);
  create table public.shared_vectors (id bigint primary key references public.shared on delete cascade, embedding extensions.vector(${DIMENSIONS}) not null);
  alter table public.shared_vectors alter column embedding set storage plain;
  create table public.memberships (member uuid, team int, primary key (member, team));
  create function reembed.shared_input(r public.shared) returns text language sql immutable set search_path = '' as 'select r.body';
  alter table public.shared enable row level security;
  alter table public.shared_vectors enable row level security;
  alter table public.memberships enable row level security;
  grant select on public.shared, public.shared_vectors, public.memberships to authenticated;
  create policy own on public.memberships for select to authenticated using (member = (select auth.uid()));
  create policy "of rows that are seen" on public.shared_vectors for select to authenticated
    using ((select true from public.shared s where s.id = shared_vectors.id));
  select reembed.add_space('test', 'shared', ${DIMENSIONS});
  begin;
  select reembed.add_collection('shared', 'public.shared', array['id'], filter_columns => array['owner_id'], list_filter_columns => array['team']);
  select reembed.add_version('shared', 'test/shared@${DIMENSIONS}', 'embedding', 'reembed.shared_input', vector_table => 'public.shared_vectors');
  commit;`;

export interface SharedTable {
  readonly callers: readonly Caller[];
  /** Vectors to search by, as pgvector's texts, drawn as the rows' were. */
  readonly queries: readonly string[];
}

/**
 * Makes the table with its index and its callers.
 * @param counts how many rows each caller sees, by the caller's name; together no more than there are
 */
export async function createSharedTable(
  client: Client,
  rows: number,
  counts: Readonly<Record<string, number>>,
  queries: number,
): Promise<SharedTable> {
  await client.query(SCHEMA);
  const callers = callersOf(counts);
  // Who owns which row is drawn, so that nobody's rows stand together.
  const owned = callers.flatMap((caller) =>
    Array.from({ length: caller.rows }, (_, n) => ({
      owner: caller.id,
      team: caller.teams[n % caller.teams.length] ?? 0,
    })),
  );
  const random = seededRandom(SEED);
  const order = Array.from({ length: rows }, (_, n) => [random(), n] as const)
    .sort(([a], [b]) => a - b)
    .map(([, n]) => n);
  const owners = new Array<string>(rows);
  const teams = new Array<number>(rows);
  for (const [at, row] of order.entries()) {
    const mine = owned[at];
    owners[row] = mine?.owner ?? `00000000-0000-4000-9000-${String(at % OTHERS).padStart(12, "0")}`;
    teams[row] = mine?.team ?? 1_000 + (at % OTHERS);
  }

  const {
    rows: [type],
  } = await client.query<{ oid: number }>("select 'extensions.vector'::regtype::oid::int as oid");
  const centres = Array.from({ length: CENTRES }, () => randomVector(DIMENSIONS, random));
  const draw = () => {
    const centre = centres[Math.floor(random() * CENTRES)] ?? [];
    const noise = randomVector(DIMENSIONS, random);
    return unit(centre.map((value, axis) => value + SPREAD * (noise[axis] ?? 0)));
  };
  for (let from = 0; from < rows; from += CHUNK) {
    const length = Math.min(CHUNK, rows - from);
    await client.query(
      `insert into public.shared select $3 + n, owner, team, repeat(md5(n::text) || ' ', 18) from unnest($1::uuid[], $2::int[]) with ordinality g(owner, team, n)`,
      [owners.slice(from, from + length), teams.slice(from, from + length), from],
    );
    await client.query(
      "insert into public.shared_vectors select $2 + n, vector from unnest($1::extensions.vector[]) with ordinality g(vector, n)",
      [encodeVectorArray(type?.oid ?? 0, Array.from({ length }, draw)), from],
    );
  }
  await client.query(
    `insert into public.memberships select member, team from unnest($1::uuid[], $2::int[]) g(member, team)`,
    [callers.flatMap(({ id, teams }) => teams.map(() => id)), callers.flatMap(({ teams }) => teams)],
  );
  await client.query(`
    create index on public.shared (owner_id);
    create index on public.shared (team);
    set maintenance_work_mem = '2GB';
    set statement_timeout = 0;
    create index on public.shared_vectors using hnsw (embedding extensions.vector_cosine_ops);`);
  for (const table of ["shared", "shared_vectors", "memberships"]) {
    await client.query(`vacuum analyze public.${table}`);
  }
  return { callers, queries: Array.from({ length: queries }, () => vectorText(draw())) };
}

/** Lets callers see what this policy says, or all rows. */
export async function setPolicy(client: Client, policy: Policy | "everybody"): Promise<void> {
  const condition = policy === "everybody" ? "true" : POLICIES[policy];
  await client.query(
    `drop policy if exists seen on public.shared; create policy seen on public.shared for select to authenticated using (${condition})`,
  );
}

/** Runs `work` as this caller, as PostgREST would. */
export async function asCaller<T>(
  client: Client,
  { id }: Pick<Caller, "id">,
  work: () => Promise<T>,
): Promise<T> {
  await client.query("begin");
  await client.query(
    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
    [JSON.stringify({ role: "authenticated", sub: id })],
  );
  try {
    return await work();
  } finally {
    await client.query("rollback");
  }
}
