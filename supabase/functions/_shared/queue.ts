/** The queue as the worker sees it: the protocol's functions, typed. What they guarantee is written where they are: in the SQL. */
import { z } from "zod";
import { budgetState } from "./budget.ts";
import type { Space } from "./embedder.ts";
import { LONG_TEXT_POLICIES, type LongTextPolicy } from "./long-text.ts";
import type { SearchSample } from "./pace.ts";
import type { ProviderRate } from "./provider-rate.ts";
import type { Rpc } from "./rpc.ts";

const space = z.object({
  id: z.string(),
  provider: z.string(),
  model: z.string(),
  dimensions: z.number(),
  query_prefix: z.string(),
  document_prefix: z.string(),
  max_input_tokens: z.number(),
  image_tokens: z.number().nullish(),
}) satisfies z.ZodType<Space>;

const job = z.object({
  row_id: z.string(),
  /** The text to embed. */
  input: z.string(),
  /** SHA-256 of the text, in hexadecimal: it comes back at completion, to be compared with the row as it is then. */
  hash: z.string(),
  /** An estimate, a token for every four bytes. */
  tokens: z.number(),
  attempts: z.number(),
});
export type Job = z.infer<typeof job>;

const copy = z.object({ row_id: z.string(), hash: z.string() });
/** A leased job whose text has a stored vector in the version: it is copied, not bought. */
export type Copy = z.infer<typeof copy>;

/** What a claim answers. */
export const claim = z.discriminatedUnion("reason", [
  z.object({
    reason: z.enum(["work", "again", "busy", "idle"]),
    jobs: z.array(job),
    copies: z.array(copy).optional(),
    collection: z.string().optional(),
    version: z.number().optional(),
    version_id: z.number().optional(),
    lease_token: z.string().optional(),
    usage_id: z.number().nullish(),
    space: space.optional(),
    /** What the collection wants for texts that are longer than the space takes. */
    long_text: z.enum(LONG_TEXT_POLICIES).optional(),
    resolved: z
      .object({ current: z.number(), gone: z.number(), failed: z.number(), deferred: z.number() })
      .optional(),
  }),
  z.object({ reason: z.literal("budget"), budget: budgetState, jobs: z.array(job).length(0) }),
  z.object({
    reason: z.literal("paused"),
    space: z.string(),
    pause_reason: z.string().nullable(),
    jobs: z.array(job).length(0),
  }),
  z.object({
    reason: z.literal("rate"),
    space: z.string(),
    /** How long the space has no room for a request, in milliseconds. */
    wait_ms: z.number(),
    jobs: z.array(job).length(0),
  }),
]);
export type Claim = z.infer<typeof claim>;

/** What a claim holds its jobs by. */
export interface Hold {
  readonly version_id: number;
  readonly lease_token: string;
  readonly space: Space;
  readonly collection?: string | undefined;
  readonly long_text: LongTextPolicy;
}

/** What a claim that has jobs to buy carries besides them. */
export interface Lease extends Hold {
  /** The reservation of what they cost. */
  readonly usage_id: number;
}

export interface ClaimOptions {
  readonly collection?: string | undefined;
  readonly version?: number | undefined;
  /** At most so many rows, 1 to 2,048. */
  readonly maxRows: number;
  /** At most so many estimated tokens, to 300,000. */
  readonly maxTokens: number;
  readonly leaseSeconds: number;
  /** Spaces of which nothing is claimed. */
  readonly exceptSpaces?: readonly string[] | undefined;
  /** None but these rows of the version named. */
  readonly rowIds?: readonly string[] | undefined;
}

/** One row's result: a vector, or the reason why it was skipped. */
export interface Result {
  readonly row_id: string;
  readonly hash: string;
  readonly vector: readonly number[] | null;
  readonly skipped: string | null;
  /** Whether the vector is of the text's beginning only. */
  readonly truncated: boolean;
  readonly tokens: number;
}

/** What a complete answers. */
export const outcomes = z.object({
  done: z.number(),
  stale: z.array(z.string()),
  lost_lease: z.array(z.string()),
  gone: z.array(z.string()),
  busy: z.array(z.string()),
  /** The table's own constraints or triggers did not let the vector through: these jobs have failed. */
  refused: z.array(z.string()),
});
/** What became of the rows of a complete: counted where all is well, named where not. */
export type Outcomes = z.infer<typeof outcomes>;

const copyOutcomes = outcomes.extend({ missing: z.array(z.string()) });
/** What became of the rows of a copy; `missing`: their text has no stored vector any more. */
export type CopyOutcomes = z.infer<typeof copyOutcomes>;

const searchSample = z.object({
  searches: z.number().nullable(),
  search_ms: z.number().nullable(),
}) satisfies z.ZodType<SearchSample>;

const failed = z.object({ failed: z.number(), retried: z.number() });

/** One provider request for the ledger. */
export interface LedgerEntry {
  readonly state: "settled" | "lost";
  readonly outcome: string;
  readonly inputs: number;
  /** Inputs that were paid and not stored. */
  readonly stale: number;
  readonly tokens: number;
  readonly latency_ms: number;
}

/** What the last answer to a claim's requests says about the provider's rate: the space learns from it how fast it may be asked. */
export interface ProviderAnswer {
  /** Whether the request was refused because of its rate. */
  readonly refused: boolean;
  /** How long the provider asked us to wait. */
  readonly retryAfterMs: number | undefined;
  /** Milliseconds since the answer came. */
  readonly ageMs: number;
  readonly rate: ProviderRate | undefined;
}

/** How vectors travel to the database: by which function, and in which form its argument `vectors` takes them. */
export interface VectorForm {
  readonly complete: string;
  encode(vectors: readonly (readonly number[] | null)[]): unknown;
}

/** An array of pgvector's `[...]` texts, seven digits a number: as much as a float4 holds. The form for an API that speaks JSON. */
export const VECTORS_AS_TEXT: VectorForm = {
  complete: "reembed_complete",
  encode: (vectors) =>
    vectors.map((vector) => vector && `[${vector.map((value) => Number(value.toPrecision(7))).join(",")}]`),
};

export interface Queue {
  claim(options: ClaimOptions): Promise<Claim>;
  /** With `wait`, exactly one row, whose lock is waited for (at most 500 ms). */
  complete(lease: Lease, results: readonly Result[], options?: { wait: boolean }): Promise<Outcomes>;
  /** Completes with the vectors that the version has for the same texts. `wait` as in complete. */
  copy(hold: Hold, copies: readonly Copy[], options?: { wait: boolean }): Promise<CopyOutcomes>;
  /** Ends jobs with an error; `retrySeconds` null: for good. */
  fail(
    lease: Lease,
    rowIds: readonly string[],
    error: string,
    retrySeconds: number | null,
  ): Promise<z.infer<typeof failed>>;
  /** Gives jobs back without spending an attempt, due again after 0 to 86,400 seconds. Returns how many the lease still held. */
  release(hold: Hold, rowIds: readonly string[], delaySeconds: number): Promise<number>;
  /** Closes the claim's reservation. `answer` is undefined where no provider answered. */
  settle(lease: Lease, entries: readonly LedgerEntry[], answer: ProviderAnswer | undefined): Promise<void>;
  pauseSpace(spaceId: string, reason: string): Promise<void>;
  /** How the searches of the version's collection fare now. Makes a few itself. */
  watchSearches(versionId: number): Promise<SearchSample>;
}

/** The queue behind any way of calling the database's functions. */
export function createQueue(rpc: Rpc, form: VectorForm = VECTORS_AS_TEXT): Queue {
  return {
    async claim({ collection, version, maxRows, maxTokens, leaseSeconds, exceptSpaces, rowIds }) {
      const answer = await rpc("reembed_claim", {
        collection: collection ?? null,
        version: version ?? null,
        max_rows: maxRows,
        max_tokens: maxTokens,
        lease_seconds: leaseSeconds,
        except_spaces: exceptSpaces ?? [],
        ...(rowIds === undefined ? {} : { row_ids: rowIds }),
      });
      return claim.parse(answer);
    },
    async complete({ version_id, lease_token, space }, results, { wait } = { wait: false }) {
      const answer = await rpc(form.complete, {
        version_id,
        space_id: space.id,
        lease_token,
        row_ids: results.map(({ row_id }) => row_id),
        hashes: results.map(({ hash }) => hash),
        vectors: form.encode(results.map(({ vector }) => vector)),
        tokens: results.map(({ tokens }) => tokens),
        skipped: results.map(({ skipped }) => skipped),
        truncated: results.map(({ truncated }) => truncated),
        wait,
      });
      return outcomes.parse(answer);
    },
    async copy({ version_id, lease_token, space }, copies, { wait } = { wait: false }) {
      const answer = await rpc("reembed_copy", {
        version_id,
        space_id: space.id,
        lease_token,
        row_ids: copies.map(({ row_id }) => row_id),
        hashes: copies.map(({ hash }) => hash),
        wait,
      });
      return copyOutcomes.parse(answer);
    },
    async fail({ version_id, lease_token }, rowIds, error, retrySeconds) {
      const answer = await rpc("reembed_fail", {
        version_id,
        lease_token,
        row_ids: rowIds,
        error,
        retry_seconds: retrySeconds,
      });
      return failed.parse(answer);
    },
    async release({ version_id, lease_token }, rowIds, delaySeconds) {
      const answer = await rpc("reembed_release", {
        version_id,
        lease_token,
        row_ids: rowIds,
        delay_seconds: delaySeconds,
      });
      return z.number().parse(answer);
    },
    async settle({ usage_id }, entries, answer) {
      await rpc("reembed_settle", {
        usage_id,
        requests: entries,
        answer: answer === undefined ? null : answerOf(answer),
      });
    },
    async watchSearches(versionId) {
      return searchSample.parse(await rpc("reembed_watch_searches", { version_id: versionId }));
    },
    async pauseSpace(spaceId, reason) {
      await rpc("reembed_pause_space", { space_id: spaceId, reason, seconds: null });
    },
  };
}

/** As `reembed.note_answer` takes it. */
function answerOf({ refused, retryAfterMs, ageMs, rate }: ProviderAnswer) {
  return {
    refused,
    retry_after_ms: retryAfterMs ?? null,
    age_ms: Math.round(ageMs),
    ...(rate && {
      tokens_per_minute: rate.tokensPerMinute ?? null,
      tokens_left: rate.tokensLeft ?? null,
      requests_per_minute: rate.requestsPerMinute ?? null,
      requests_left: rate.requestsLeft ?? null,
    }),
  };
}
