/**
 * Random calls of the functions that the API offers, as PostgREST makes them: named arguments out of one JSON object, a role, its time-outs. A seed and a number
 * repeat a call.
 */
import { type Client, DatabaseError, escapeIdentifier } from "pg";
import { type ApiRole, asRole } from "./postgres.ts";
import type { Random } from "./random.ts";

export interface RpcArgument {
  readonly name: string;
  readonly type: string;
  readonly optional: boolean;
}

export interface RpcFunction {
  readonly name: string;
  readonly arguments: readonly RpcArgument[];
}

/** What is there to be named: right values get a call past the first check. */
export interface Known {
  readonly collections: readonly string[];
  readonly spaces: readonly string[];
  readonly versionIds: readonly number[];
  readonly widths: readonly number[];
  /** Of each search RPC what its vectors are. */
  readonly searches: Readonly<Record<string, { readonly space: string; readonly width: number }>>;
}

/** The functions of public that a role may execute. */
export async function functionsFor(client: Client, role: ApiRole): Promise<RpcFunction[]> {
  const { rows } = await client.query<RpcFunction>(
    `select p.proname as name,
            coalesce((select jsonb_agg(jsonb_build_object('name', p.proargnames[n], 'type', format_type(t, null), 'optional', n > p.pronargs - p.pronargdefaults) order by n)
                        from unnest(p.proargtypes::oid[]) with ordinality u(t, n)), '[]'::jsonb) as arguments
       from pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype and has_function_privilege($1, p.oid, 'execute')
        and not exists (select from pg_depend d where d.objid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'e')
      order by 1`,
    [role],
  );
  return rows;
}

export async function readKnown(client: Client): Promise<Known> {
  const { rows } = await client.query<{ known: Known }>(
    `select jsonb_build_object(
       'collections', (select jsonb_agg(name) from reembed.collections), 'spaces', (select jsonb_agg(id) from reembed.spaces),
       'versionIds', (select jsonb_agg(id) from reembed.versions), 'widths', (select jsonb_agg(distinct dimensions) from reembed.spaces),
       'searches', (select jsonb_object_agg(rpc, jsonb_build_object('space', s.id, 'width', s.dimensions))
                      from reembed.versions v join reembed.spaces s on s.id = v.space_id cross join unnest(reembed.rpcs_of(v)) rpc)) as known`,
  );
  const known = rows[0]?.known;
  if (known === undefined) throw new Error("the registry answered nothing");
  return known;
}

const TEXTS = [
  "",
  " ",
  "a",
  "null",
  "'; drop table public.canary; --",
  '"',
  "\\",
  "$1",
  "%s %I %L",
  "\u202e",
  "e\u0301",
  "日本語 🜁",
  "or",
  '"unclosed',
  "a & b | !c:*",
  "x".repeat(10_000),
  "\u0000",
  "../../../etc/passwd",
  "http://127.0.0.1:1/",
  "[1,2,3]",
  "{}",
  "pg_sleep(100)",
  "-infinity",
  "\ud800",
];
const NUMBERS = [
  0,
  -0,
  1,
  -1,
  2,
  5,
  1000,
  1001,
  32767,
  32768,
  2 ** 31 - 1,
  2 ** 31,
  -(2 ** 31),
  2 ** 53,
  1e18,
  1e19,
  1e308,
  0.5,
  -0.5,
  1e-320,
  "NaN",
  "Infinity",
  "-Infinity",
  "1e999",
  "",
];

function vector(random: Random, known: Known): unknown {
  const width = random.chance(0.7)
    ? random.pick(known.widths)
    : random.pick([0, 1, 2, 1535, 1537, 16_000, 16_001]);
  const fill = random.pick([0.1, 0, 1, -1, 1e-30, 1e30, 3e38, 1e39]);
  const list = Array.from({ length: width }, (_, n) => (n === 0 ? fill : random.pick([fill, random.next()])));
  return random.chance(0.5) ? list : JSON.stringify(list);
}

function json(random: Random, depth = 0): unknown {
  switch (random.weighted({ text: 2, number: 2, nothing: 1, list: 2, object: 2 })) {
    case "text":
      return random.pick(TEXTS);
    case "number":
      return random.pick(NUMBERS);
    case "nothing":
      return null;
    case "list":
      return depth > 2 ? [] : Array.from({ length: random.between(0, 4) }, () => json(random, depth + 1));
    case "object":
      return depth > 2
        ? {}
        : Object.fromEntries(
            Array.from({ length: random.between(0, 4) }, () => [random.pick(KEYS), json(random, depth + 1)]),
          );
  }
}
/** Fields that some of the JSON arguments have, and some that none has. */
const KEYS = [
  "state",
  "outcome",
  "inputs",
  "stale",
  "tokens",
  "latency_ms",
  "refused",
  "retry_after_ms",
  "tokens_left",
  "tokens_per_minute",
  "id",
  "title",
  "content",
  "url",
  "parent_id",
  "x",
  "",
];

const usualVector = (random: Random, known: Known): number[] =>
  Array.from({ length: random.pick(known.widths) }, () => random.next() - 0.5);

/** A type's name without its schema, which format_type leaves out where the search path has it. */
const bareType = (type: string): string => type.replace(/^extensions\./, "");

/** A value that an honest caller might send. */
function honestValue({ name, type }: RpcArgument, random: Random, known: Known): unknown {
  if (/^collection/.test(name)) return random.pick(known.collections);
  if (name === "version") return random.between(1, 2);
  if (name === "version_id") return random.pick(known.versionIds);
  if (/space/.test(name)) return random.pick(known.spaces);
  switch (bareType(type)) {
    case "boolean":
      return random.chance(0.5);
    case "uuid":
      return "00000000-0000-4000-8000-000000000000";
    case "json":
    case "jsonb":
      return random.pick([[], {}, [{ state: "settled", tokens: 1, inputs: 1 }]]);
    case "vector":
    case "halfvec":
      return usualVector(random, known);
    case "timestamp with time zone":
    case "date":
      return "2026-01-01";
    case "real":
    case "double precision":
    case "numeric":
      return random.next();
    case "integer":
    case "bigint":
    case "smallint":
      return random.between(1, 20);
    default:
      if (/embedding|vector/.test(name)) return JSON.stringify(usualVector(random, known));
      return random.pick(["a", "commit", "text", null]);
  }
}

/** What no error may show again: a vector that is broken. */
const BROKEN_VECTOR = "[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,x]";

/** A value of the argument's type that nobody should send, or none of its type. */
function hostileValue({ name, type }: RpcArgument, random: Random, known: Known): unknown {
  if (random.chance(0.1)) return null;
  if (random.chance(0.1)) return json(random);
  switch (bareType(type)) {
    case "boolean":
      return random.pick([true, false, "yes", "maybe", 1]);
    case "uuid":
      return random.pick([
        "00000000-0000-0000-0000-000000000000",
        "not-a-uuid",
        "",
        "00000000000040008000000000000000",
      ]);
    case "json":
    case "jsonb":
      return json(random);
    case "vector":
    case "halfvec":
      return vector(random, known);
    case "timestamp with time zone":
    case "date":
      return random.pick([
        "now",
        "infinity",
        "-infinity",
        "2026-02-30",
        "0001-01-01 BC",
        "294276-12-31",
        "x",
      ]);
    case "integer":
    case "bigint":
    case "smallint":
    case "real":
    case "double precision":
    case "numeric":
      return random.pick(NUMBERS);
    default:
      return random.pick(/embedding|vector/.test(name) ? [...TEXTS, BROKEN_VECTOR] : TEXTS);
  }
}

function valueFor(argument: RpcArgument, isHostile: boolean, random: Random, known: Known): unknown {
  const make = isHostile ? hostileValue : honestValue;
  if (!argument.type.endsWith("[]")) return make(argument, random, known);
  if (isHostile && random.chance(0.1)) return json(random);
  const element = { ...argument, type: argument.type.slice(0, -2) };
  const length = isHostile ? random.pick([0, 1, 2, 3, 50]) : 1;
  // A list of lists is another thing to PostgreSQL than a list of vectors.
  const isVector = /^(vector|halfvec)$/.test(bareType(element.type));
  return Array.from({ length }, () => {
    const value = make(element, random, known);
    return isVector && Array.isArray(value) ? JSON.stringify(value) : value;
  });
}

export type RpcArguments = Readonly<Record<string, unknown>>;

/**
 * Arguments for one call: all that it needs, and some of the others. Mostly one of them is hostile, in turn: more would hide what the first one hides.
 * @param call from 0: a function gets as many hostile values of each argument as of every other
 */
export function argumentsFor(rpc: RpcFunction, random: Random, known: Known, call: number): RpcArguments {
  const inTurn = rpc.arguments[call % Math.max(1, rpc.arguments.length)];
  const given = rpc.arguments.filter(
    (argument) => !argument.optional || argument === inTurn || random.chance(0.6),
  );
  const culprit = inTurn === undefined ? -1 : given.indexOf(inTurn);
  const how = random.weighted({ one: 7, all: 2, none: 1 });
  const own = known.searches[rpc.name];
  const honest = own === undefined ? known : { ...known, spaces: [own.space], widths: [own.width] };
  return Object.fromEntries(
    given.map((argument, at) => {
      const isHostile = how === "all" || (how === "one" && at === culprit);
      return [argument.name, valueFor(argument, isHostile, random, isHostile ? known : honest)];
    }),
  );
}

/** What became of a call: an answer, a refusal of a value by its type before the function is called, or an error of the function. */
export type RpcOutcome =
  | { readonly kind: "answered" }
  | { readonly kind: "refused by its type" | "failed"; readonly error: DatabaseError };

/**
 * Calls a function as a role.
 * @param keeps whether what it did stays
 * @throws when the connection is lost, or the error is none of the database's
 */
export async function callRpc(
  client: Client,
  role: ApiRole,
  rpc: RpcFunction,
  args: RpcArguments,
  keeps: boolean,
): Promise<RpcOutcome> {
  const given = rpc.arguments.filter(({ name }) => name in args);
  const names = given.map(({ name }) => escapeIdentifier(name));
  const columns = given.map(({ name, type }) => `${escapeIdentifier(name)} ${type}`).join(", ");
  const record = given.length === 0 ? "(select) a" : `json_to_record($1::json) a(${columns})`;
  // As PostgREST encodes it: a lone surrogate is no character.
  const values = given.length === 0 ? [] : [JSON.stringify(args).toWellFormed()];
  const call = `public.${escapeIdentifier(rpc.name)}(${names.map((name) => `${name} => a.${name}`).join(", ")})`;
  const attempt = async (
    sql: string,
    kind: "refused by its type" | "failed",
    commits: boolean,
  ): Promise<RpcOutcome> => {
    try {
      await asRole(client, role, async (caller) => {
        await caller.query(sql, values);
        if (!commits) throw new RolledBack();
      });
    } catch (error) {
      if (error instanceof DatabaseError) return { kind, error };
      if (!(error instanceof RolledBack)) throw error;
    }
    return { kind: "answered" };
  };
  const cast = await attempt(`select a.* from ${record}`, "refused by its type", false);
  return cast.kind === "answered" ? attempt(`select f.* from ${record}, ${call} f`, "failed", keeps) : cast;
}

class RolledBack extends Error {}
