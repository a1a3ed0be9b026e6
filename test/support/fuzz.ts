/** Random requests to edge functions: what is sent, and what every answer must be. A seed repeats all of it, a number one request of it. */
import { z } from "zod";
import { ERRORS, type ErrorCode } from "../../supabase/functions/_shared/errors.ts";
import { Random } from "./random.ts";

/** One line of a table of routes: a request that the route takes, from which the others are made. */
export interface FuzzRoute {
  /** What stands after `/functions/v1/`. */
  readonly path: string;
  /** Which of the stack's keys it takes. */
  readonly key: "publishableKey" | "secretKey" | "backfillKey";
  /** POST unless it says otherwise. */
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** None for a route that takes no body. With `file` these are the other fields of a form. */
  readonly body?: Readonly<Record<string, unknown>>;
  /** What the route takes; none where nothing is. */
  readonly takes?: z.ZodType;
  /** The file of a route that takes multipart/form-data, and its field. */
  readonly file?: { readonly field: string; readonly bytes: Uint8Array };
}

export interface FuzzRequest {
  readonly route: FuzzRoute;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array<ArrayBuffer> | undefined;
}

/** The fields that a shape has, those inside as `a.b`, those of a list's members as `a[].b`. What a record holds has no names. */
export function fieldsOf(shape: z.ZodType): string[] {
  return namesIn(z.toJSONSchema(shape, { io: "input", unrepresentable: "any" }), "");
}

type JsonShape = z.core.JSONSchema.BaseSchema;

function namesIn({ properties = {}, items, anyOf = [], allOf = [] }: JsonShape, before: string): string[] {
  const inside = (shape: unknown, at: string) =>
    typeof shape === "object" && shape !== null ? namesIn(shape as JsonShape, at) : [];
  return [
    ...Object.entries(properties).flatMap(([name, shape]) => {
      const at = before === "" ? name : `${before}.${name}`;
      return [at, ...inside(shape, at)];
    }),
    ...inside(items, `${before}[]`),
    ...[...anyOf, ...allOf].flatMap((shape) => inside(shape, before)),
  ];
}

/** The same of a value. */
export function fieldsIn(value: unknown, before = ""): string[] {
  if (Array.isArray(value)) return value.flatMap((member) => fieldsIn(member, `${before}[]`));
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => {
    const at = before === "" ? name : `${before}.${name}`;
    return [at, ...fieldsIn(inner, at)];
  });
}

/** A stack as far as it is asked here. */
export interface FuzzTarget {
  readonly url: string;
  readonly publishableKey: string;
  readonly secretKey: string;
  readonly backfillKey: string;
}

/** Request `number` of a seed. */
export function fuzzRequest(
  routes: readonly FuzzRoute[],
  target: FuzzTarget,
  seed: number,
  number: number,
): FuzzRequest {
  const random = new Random(seed * 1_000_003 + number);
  const route = random.pick(routes);
  const headers: Record<string, string> = {
    apikey: target[route.key],
    "content-type":
      route.file === undefined ? "application/json" : `multipart/form-data; boundary=${BOUNDARY}`,
  };
  // Most requests get past the door: behind it is what has to be looked at.
  if (random.chance(0.05)) delete headers.apikey;
  if (random.chance(0.05)) headers.apikey = random.pick(["x", "sb_secret_wrong", target.publishableKey]);
  if (random.chance(0.05)) headers.authorization = random.pick(HEADERS);
  if (random.chance(0.05)) headers["content-type"] = random.pick(HEADERS);
  if (random.chance(0.1)) headers.accept = random.pick(["text/event-stream", "*/*", ...HEADERS]);
  if (random.chance(0.05)) headers["x-request-id"] = random.pick(HEADERS);
  const method = random.chance(0.03)
    ? random.pick(["GET", "PUT", "PATCH", "DELETE"])
    : (route.method ?? "POST");
  const body = route.file === undefined ? bodyFor(route, random) : formFor(route, route.file, random);
  return { route, method, headers, body: method === "GET" ? undefined : body };
}

/** Of the forms. */
export const BOUNDARY = "----fuzz";

/** The body of a form: fields as texts, and the file. */
export function formOf({ body = {}, file }: FuzzRoute): Uint8Array<ArrayBuffer> {
  const fields = Object.entries(body).map(([name, value]) => formPart(name, Buffer.from(String(value))));
  const files = file === undefined ? [] : [formPart(file.field, file.bytes, "photo")];
  return new Uint8Array(Buffer.concat([...fields, ...files, Buffer.from(`--${BOUNDARY}--\r\n`)]));
}

function formPart(name: string, content: Uint8Array, filename?: string): Buffer {
  const of = filename === undefined ? "" : `; filename="${filename}"`;
  const head = `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"${of}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), content, Buffer.from("\r\n")]);
}

function formFor(
  route: FuzzRoute,
  file: NonNullable<FuzzRoute["file"]>,
  random: Random,
): FuzzRequest["body"] {
  const kind = random.weighted({ file: 8, fields: 5, asItIs: 2, broken: 3, twice: 1, missing: 1, other: 2 });
  switch (kind) {
    case "file":
      return formOf({ ...route, file: { ...file, bytes: damaged(file.bytes, random) } });
    case "fields":
      return formOf({ ...route, body: mutate({ ...route.body }, random) as Record<string, unknown> });
    case "asItIs":
      return formOf(route);
    case "broken":
      return damaged(formOf(route), random);
    case "twice":
      return new Uint8Array(Buffer.concat([formPart(file.field, file.bytes, "one"), formOf(route)]));
    case "missing": {
      const { file: _file, ...fields } = route;
      return formOf({ ...fields, body: { ...fields.body, [file.field]: random.pick(STRINGS) } });
    }
    case "other":
      return bodyFor(route, random);
  }
}

/** Cut, overwritten in places, or other bytes altogether, which may begin as the right ones do. */
function damaged(bytes: Uint8Array, random: Random): Uint8Array<ArrayBuffer> {
  const changed = new Uint8Array(bytes);
  switch (random.weighted({ cut: 3, overwrite: 5, head: 3, random: 2, empty: 1 })) {
    case "cut":
      return changed.slice(0, random.between(0, changed.length));
    case "overwrite":
      for (let change = random.between(1, 20); change > 0; change -= 1)
        changed[random.between(0, Math.max(0, Math.min(changed.length, 64) - 1))] = random.between(0, 255);
      return changed;
    case "head": {
      const noise = Uint8Array.from({ length: random.between(0, 200) }, () => random.between(0, 255));
      return new Uint8Array(Buffer.concat([changed.slice(0, random.between(2, 30)), noise]));
    }
    case "random":
      return Uint8Array.from({ length: random.between(0, 2_000) }, () => random.between(0, 255));
    case "empty":
      return new Uint8Array(0);
  }
}

const HEADERS = [
  "Bearer",
  "Bearer x.y.z",
  "Basic dTpw",
  "text/plain",
  "multipart/form-data; boundary=x",
  "\u00ff",
  "a".repeat(4_000),
];

const STRINGS = [
  "",
  " ",
  "\u0000",
  "a\u0000b",
  "\ud800",
  "\ufeffx",
  "e\u0301",
  "\u202eabc",
  "😀".repeat(10),
  "'; drop table course_content; --",
  "../../etc/passwd",
  "__proto__",
  "constructor",
  "null",
  "-1",
  "1e999",
  "%00",
  "<script>alert(1)</script>",
  "[1](javascript:alert(1))",
  "\\",
  '"',
  "or or or",
  '"unclosed phrase',
  "-".repeat(200),
  "a".repeat(9_000),
  "x ".repeat(40_000),
];

const NUMBERS = [0, -0, 1, -1, 0.5, 2, 100, 1_000, 1_001, 2 ** 31, -(2 ** 31), 2 ** 53, 1e308, 5e-324];

function value(random: Random, depth = 0): unknown {
  const kind = random.weighted({ string: 4, number: 3, flag: 1, nothing: 1, list: 1, object: 1 });
  switch (kind) {
    case "string":
      return random.pick(STRINGS);
    case "number":
      return random.pick(NUMBERS);
    case "flag":
      return random.chance(0.5);
    case "nothing":
      return null;
    case "list":
      return depth > 2 ? [] : Array.from({ length: random.between(0, 5) }, () => value(random, depth + 1));
    case "object":
      return depth > 2
        ? {}
        : Object.fromEntries(
            Array.from({ length: random.between(0, 4) }, () => [
              random.pick(STRINGS),
              value(random, depth + 1),
            ]),
          );
  }
}

function bodyFor({ body }: FuzzRoute, random: Random): FuzzRequest["body"] {
  const kind = random.weighted({ mutated: 12, asItIs: 2, json: 2, broken: 2, bytes: 1, odd: 1 });
  const valid = JSON.stringify(body ?? {});
  switch (kind) {
    case "mutated":
      return JSON.stringify(mutate(JSON.parse(valid), random));
    case "asItIs":
      return valid;
    case "json":
      return JSON.stringify(value(random));
    case "broken":
      return valid.slice(0, random.between(0, valid.length - 1));
    case "bytes":
      return Uint8Array.from({ length: random.between(0, 300) }, () => random.between(0, 255));
    case "odd":
      return random.pick([
        "",
        "{}",
        "[".repeat(20_000),
        `${'{"a":'.repeat(5_000)}1${"}".repeat(5_000)}`,
        valid.replace("{", '{"__proto__":{"a":1},'),
        `${valid} ${valid}`,
        `\ufeff${valid}`,
        "1".repeat(400),
        "NaN",
      ]);
  }
}

/** A few changes of a body that was right: fields replaced, removed, doubled in a list, added. */
function mutate(body: Record<string, unknown>, random: Random): unknown {
  for (let change = random.between(1, 3); change > 0; change -= 1) {
    const names = Object.keys(body);
    const name = names.length === 0 ? "x" : random.pick(names);
    const old = body[name];
    switch (random.weighted({ replace: 5, remove: 2, add: 1, wrap: 1, inside: 3 })) {
      case "replace":
        body[name] = value(random);
        break;
      case "remove":
        delete body[name];
        break;
      case "add":
        body[random.pick([...STRINGS.slice(0, 16), "limit", "version"])] = value(random);
        break;
      case "wrap":
        body[name] = random.chance(0.5) ? [old] : { [name]: old };
        break;
      case "inside":
        body[name] = within(old, random);
        break;
    }
  }
  return body;
}

function within(old: unknown, random: Random): unknown {
  if (Array.isArray(old)) {
    if (random.chance(0.3))
      return Array.from({ length: random.between(0, 40) }, () => old[0] ?? value(random));
    const list = [...old];
    list[random.between(0, Math.max(0, list.length - 1))] =
      list.length > 0 && random.chance(0.6) ? within(list[0], random) : value(random);
    return list;
  }
  if (typeof old === "object" && old !== null) return mutate({ ...old } as Record<string, unknown>, random);
  if (typeof old === "string") return random.chance(0.5) ? old + random.pick(STRINGS) : random.pick(STRINGS);
  return random.pick(NUMBERS);
}

/** What became of one request: `ok`, or the code of a documented error. */
export type FuzzOutcome = "ok" | ErrorCode;

/** Errors that no request may cause while everything is up: each is a fault of ours. */
const OURS: readonly ErrorCode[] = ["internal_error", "database_unavailable", "function_unavailable"];

/**
 * Sends it and checks the answer: whole, in time, and either a success or the error object with a documented code and its status.
 * @throws Error that says what is wrong with the answer
 */
export async function sendFuzz(
  target: FuzzTarget,
  request: FuzzRequest,
  withinMs: number,
): Promise<FuzzOutcome> {
  const { route, method, headers, body } = request;
  const response = await fetch(`${target.url}/functions/v1/${route.path}`, {
    method,
    headers,
    ...(body === undefined ? {} : { body }),
    signal: AbortSignal.timeout(withinMs),
  });
  const text = await response.text();
  if (response.ok) return "ok";
  const { error } = parse(text) as { error?: Record<string, unknown> };
  const problem = (what: string) => new Error(`${what}: ${response.status} ${text.slice(0, 300)}`);
  if (typeof error !== "object" || error === null) throw problem("no error object");
  const { code, message, hint, request_id, ...more } = error;
  if (Object.keys(more).length > 0) throw problem("the error object has more than its fields");
  for (const field of [message, hint]) {
    if (typeof field !== "string" || field === "") throw problem("a message or a hint is missing");
  }
  if (request_id !== response.headers.get("x-request-id")) throw problem("the request id is another");
  const known = Object.entries(ERRORS).find(([name]) => name === code);
  if (known === undefined) throw problem("an undocumented code");
  const [name, { status }] = known as [ErrorCode, { status: number }];
  if (status !== response.status) throw problem("the code has another status");
  if (OURS.includes(name)) throw problem("a fault of ours");
  return name;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** What of a request is worth printing. */
export function describeFuzz({ route, method, headers, body }: FuzzRequest): string {
  const shown = body === undefined ? "" : typeof body === "string" ? body : `bytes ${body.join(" ")}`;
  const { apikey: _key, ...others } = headers;
  return `${method} ${route.path} ${JSON.stringify(others).slice(0, 200)} ${shown.slice(0, 400)}`;
}
