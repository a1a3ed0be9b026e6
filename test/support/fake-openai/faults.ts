/** Faults on demand: what may go wrong with an answer, for which requests, and how often. */
import { z } from "zod";
import { mix32 } from "../../../supabase/functions/_shared/murmur3.ts";

const KIND = z.discriminatedUnion("kind", [
  /** Waits before it goes on; other rules still apply. */
  z.strictObject({ kind: z.literal("latency"), ms: z.number().min(0) }),
  z.strictObject({ kind: z.literal("rate_limit"), retryAfterSeconds: z.number().min(0).default(1) }),
  z.strictObject({ kind: z.literal("insufficient_quota") }),
  z.strictObject({ kind: z.literal("server_error"), status: z.int().min(500).max(599).default(500) }),
  /** A 400 for the whole request, as one bad input causes it; with `match` it makes a text poison. */
  z.strictObject({ kind: z.literal("bad_request") }),
  /** The work is done and billed, and the connection breaks: before the first byte of the answer, or in its middle. */
  z.strictObject({ kind: z.literal("cut"), when: z.enum(["before_answer", "in_answer"]) }),
  /** The work is done and billed, and no byte of an answer ever comes. */
  z.strictObject({ kind: z.literal("never") }),
  /** A whole HTTP 200 whose body ends half way; in a stream an event that does. */
  z.strictObject({ kind: z.literal("half_json") }),
  /** Right vectors with the right index, in another order: what the interface allows. */
  z.strictObject({ kind: z.literal("shuffled") }),
  z.strictObject({ kind: z.literal("missing_vector") }),
  z.strictObject({ kind: z.literal("duplicate_index") }),
  z.strictObject({ kind: z.literal("wrong_width") }),
  /** In base64 a NaN; as float `null`, which is what becomes of a NaN in JSON. */
  z.strictObject({ kind: z.literal("nan") }),
  z.strictObject({ kind: z.literal("zero_vector") }),
  /** Of a stream: half of it and then silence; an error within it; an end that nobody announced; no usage. */
  z.strictObject({ kind: z.literal("stall") }),
  z.strictObject({ kind: z.literal("stream_error") }),
  z.strictObject({ kind: z.literal("no_end") }),
  z.strictObject({ kind: z.literal("no_usage") }),
]);

/** What may be asked: vectors, or words. */
const ENDPOINT = z.enum(["embeddings", "chat"]);
export type Endpoint = z.output<typeof ENDPOINT>;

const RULE = z.strictObject({
  fault: KIND,
  /** How many requests it hits. By default 1, or all of them where `probability` is given. */
  times: z.union([z.int().min(1), z.literal("always")]).optional(),
  /** The share of the matching requests that it hits, drawn from `seed`: the same seed hits the same ones. */
  probability: z.number().min(0).max(1).optional(),
  seed: z.int().default(1),
  /** Only requests of this kind; without it all. */
  endpoint: ENDPOINT.optional(),
  /** Only requests one of whose inputs contains this text. */
  match: z.string().min(1).optional(),
});

/** The fault of a rule as it is carried out. */
export type Fault = z.output<typeof KIND>;

/** A rule as it is given; see the schema for the defaults. */
export type FaultRule = z.input<typeof RULE>;

interface Entry {
  readonly rule: z.output<typeof RULE>;
  left: number;
  draws: number;
}

/** The rules in force, in the order in which they were added. */
export class Faults {
  #entries: Entry[] = [];

  /** @throws Error that names the field when a rule is malformed. */
  add(...rules: readonly FaultRule[]): void {
    const checked = rules.map((rule) => {
      const result = RULE.safeParse(rule);
      if (!result.success) throw new Error(z.prettifyError(result.error));
      return result.data;
    });
    for (const rule of checked) {
      const times = rule.times ?? (rule.probability === undefined ? 1 : "always");
      this.#entries.push({ rule, left: times === "always" ? Number.POSITIVE_INFINITY : times, draws: 0 });
    }
  }

  clear(): void {
    this.#entries = [];
  }

  /** How many rules can still hit a request. */
  get pending(): number {
    return this.#entries.length;
  }

  /** The faults of one request, used up by it: every latency that hits, and the first other one. */
  draw(endpoint: Endpoint, inputs: readonly string[]): { latencyMs: number; fault: Fault | undefined } {
    let latencyMs = 0;
    let fault: Fault | undefined;
    for (const entry of this.#entries) {
      const isLatency = entry.rule.fault.kind === "latency";
      if ((!isLatency && fault !== undefined) || !hits(entry, endpoint, inputs)) continue;
      entry.left -= 1;
      if (entry.rule.fault.kind === "latency") latencyMs += entry.rule.fault.ms;
      else fault = entry.rule.fault;
    }
    this.#entries = this.#entries.filter((entry) => entry.left > 0);
    return { latencyMs, fault };
  }
}

function hits(entry: Entry, endpoint: Endpoint, inputs: readonly string[]): boolean {
  const { match, probability, seed } = entry.rule;
  if (entry.rule.endpoint !== undefined && entry.rule.endpoint !== endpoint) return false;
  if (match !== undefined && !inputs.some((input) => input.includes(match))) return false;
  if (probability === undefined) return true;
  entry.draws += 1;
  return mix32(mix32(seed) + entry.draws) / 2 ** 32 < probability;
}
