/** OpenAI, and every server that speaks its embeddings API (Ollama, vLLM, infinity, ...). */
import { Buffer } from "node:buffer";
import OpenAI, { APIError } from "openai";
import { z } from "zod";
import { type Embedded, type Embedder, makeEmbedder, type Space } from "../embedder.ts";
import { faultOfAnswer, ProviderError, retryAfterMs, safeProse } from "../provider-error.ts";
import { readProviderRate } from "../provider-rate.ts";
import { estimateTokens } from "../tokens.ts";

export const OPENAI_BASE_URL = "https://api.openai.com/v1";

/** The longest wait for one whole answer. A request of 2,048 short inputs takes a few seconds. */
const TIMEOUT_MS = 60_000;

export interface OpenAIEmbedderOptions {
  readonly space: Space;
  /** Undefined: the server asks for none, and none is sent. */
  readonly apiKey?: string | undefined;
  /** With its version, for example `http://127.0.0.1:11434/v1`. */
  readonly baseURL?: string | undefined;
  /** For one request, from sending to the last byte of the answer. */
  readonly timeoutMs?: number;
  readonly fetch?: typeof fetch;
}

/** What is believed of an answer before its vectors are looked at. Unknown fields are ignored: compatible servers add their own. */
const Answer = z.object({
  data: z.array(z.object({ index: z.number(), embedding: z.union([z.string(), z.array(z.unknown())]) })),
});
const Usage = z.object({
  usage: z.union([z.object({ total_tokens: z.int().min(0) }), z.object({ prompt_tokens: z.int().min(0) })]),
});

/**
 * An Embedder over HTTP: one request a call, never retried here (the engine decides), vectors as base64 (6 kB for 1,536 dimensions where decimal
 * text is 32 kB), in the order of the inputs whatever the order of the answer.
 * @throws ProviderError for every failure; see the table in provider-error.ts.
 */
export function createOpenAIEmbedder(options: OpenAIEmbedderOptions): Embedder {
  const { space, apiKey, timeoutMs = TIMEOUT_MS } = options;
  const client = createOpenAIClient({ ...options, timeoutMs });

  return makeEmbedder(space, async (texts, signal) => {
    const deadline = AbortSignal.timeout(timeoutMs);
    const exchange = { space, apiKey, texts, timeoutMs, signal, deadline };
    const { response, body } = await send(client, exchange);
    const embedded = readAnswer(exchange, body, response.headers.get("x-request-id") ?? undefined);
    return { ...embedded, rate: readProviderRate(response.headers) };
  });
}

/** The library's client with every rule of ours: nothing is sent twice, nothing is logged, nothing is read from the environment. */
export function createOpenAIClient(
  options: Pick<OpenAIEmbedderOptions, "apiKey" | "baseURL" | "fetch"> & { readonly timeoutMs: number },
): OpenAI {
  return new OpenAI({
    // The library wants a word; the header that would carry it is left out where there is no key.
    apiKey: options.apiKey ?? "none",
    ...(options.apiKey === undefined ? { defaultHeaders: { authorization: null } } : {}),
    baseURL: options.baseURL ?? OPENAI_BASE_URL,
    maxRetries: 0,
    // The caller's deadline also covers the body; the library's own must not come first.
    timeout: 2 * options.timeoutMs,
    // At `debug` the library prints whole requests; OPENAI_LOG in the environment must not switch that on.
    logLevel: "off",
    organization: null,
    project: null,
    fetch: sendingOnce(options.fetch ?? fetch),
  });
}

/**
 * A fetch that sends a request once. Deno's own sends a POST again, unasked, when a reused connection breaks before the answer: the work
 * may have been done by then, and is paid twice without anyone knowing. A body that is a stream cannot be sent again, so it does not.
 */
function sendingOnce(send: typeof fetch): typeof fetch {
  return (url, init) => {
    if (typeof init?.body !== "string") return send(url, init);
    const streamed = { ...init, body: new Blob([init.body]).stream(), duplex: "half" } as const;
    return send(url, streamed);
  };
}

/** One request, for whoever has to say what became of it. */
export interface Sent {
  /** What was asked: errors begin with it. */
  readonly space: Pick<Space, "id">;
  readonly apiKey?: string | undefined;
  readonly texts: readonly string[];
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
  readonly deadline: AbortSignal;
}

/** A request for embeddings. */
export interface Exchange extends Sent {
  readonly space: Space;
}

/** What a request says beside its input. Only the text-embedding-3 models take `dimensions`; others refuse the request for it. */
export function modelOf({ model, dimensions }: Space): { model: string; dimensions?: number } {
  return model.startsWith("text-embedding-3-") ? { model, dimensions } : { model };
}

async function send(client: OpenAI, exchange: Exchange): Promise<{ response: Response; body: string }> {
  const { space, texts, signal, deadline } = exchange;
  try {
    // The raw response, because the tokens of an answer must be known even where its vectors cannot be decoded.
    const response = await client.embeddings
      .create(
        { ...modelOf(space), input: [...texts] },
        { signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]) },
      )
      .asResponse();
    return { response, body: await response.text() };
  } catch (error) {
    throw openAIError(error, exchange);
  }
}

/** What the library threw, as the engine knows it; see the table in provider-error.ts. */
export function openAIError(error: unknown, exchange: Sent): ProviderError {
  const { space, signal, deadline, timeoutMs } = exchange;
  if (error instanceof APIError && error.status !== undefined) {
    return refusal(error.status, error, exchange);
  }
  if (signal?.aborted) return new ProviderError("aborted", `${space.id}: the caller gave up on the request`);
  if (deadline.aborted) {
    return new ProviderError("timeout", `${space.id}: the provider did not answer within ${timeoutMs} ms`);
  }
  if (neverConnected(error)) {
    return new ProviderError("unreachable", `${space.id}: no connection to the provider`);
  }
  return new ProviderError(
    "connection_lost",
    `${space.id}: the connection broke before the whole answer was there`,
  );
}

function refusal(status: number, error: APIError, { space, apiKey, texts }: Sent): ProviderError {
  const code = typeof error.code === "string" ? error.code : undefined;
  const fault = faultOfAnswer(status, code);
  const headers = error.headers ?? new Headers();
  const waits = fault === "rate_limited" || fault === "server_error" || fault === "gateway_error";
  // Answers about the account tell an operator what to mend. Others may quote what was sent, so only their codes are shown.
  const speaksOfAccount =
    fault === "rate_limited" || fault === "quota_exhausted" || fault === "account_refused";
  const body: unknown = error.error;
  const words =
    speaksOfAccount && typeof body === "object" && body !== null && "message" in body
      ? safeProse(body.message, apiKey ?? "", texts)
      : undefined;
  const label = code !== undefined && /^\w{1,64}$/.test(code) ? ` (${code})` : "";
  return new ProviderError(
    fault,
    `${space.id}: the provider answered ${status}${label}${words === undefined ? "" : `: ${words}`}`,
    {
      status,
      requestId: error.requestID ?? undefined,
      retryAfterMs: waits ? retryAfterMs(headers) : undefined,
      rate: readProviderRate(headers),
      requestTooLarge:
        fault === "request_too_large" || (fault === "rate_limited" && exceedsAMinute(headers, texts)),
    },
  );
}

/** A request of more tokens than the account has in a whole minute is answered 429 for ever, however long one waits. */
function exceedsAMinute(headers: Headers, texts: readonly string[]): boolean {
  const limit = Number(headers.get("x-ratelimit-limit-tokens") ?? Number.NaN);
  return limit > 0 && texts.reduce((sum, text) => sum + estimateTokens(text), 0) > limit;
}

const NOT_CONNECTED = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** Whether the connection was never made, so that nothing was sent and nothing can be charged. Node puts a code on a cause, Deno words in a message. */
function neverConnected(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ("code" in at && typeof at.code === "string" && NOT_CONNECTED.has(at.code)) return true;
    if (/client error \(Connect\)|dns error/i.test(at.message)) return true;
  }
  return false;
}

function readAnswer({ space, texts }: Exchange, body: string, requestId: string | undefined): Embedded {
  const { vectors, tokens } = readEmbeddings(space, parseJson(body), texts.length, requestId);
  // A server that states no usage still has a price: the estimate keeps its budget honest.
  return {
    vectors,
    usage: { tokens: tokens ?? texts.reduce((sum, text) => sum + estimateTokens(text), 0) },
  };
}

/**
 * The vectors of an answer in the order of its inputs, and the tokens that it states.
 * @param json the parsed body, undefined where it was no JSON
 * @throws ProviderError (`bad_answer`) where they are not one list of numbers for each input
 */
export function readEmbeddings(
  space: Space,
  json: unknown,
  inputs: number,
  requestId: string | undefined,
): { vectors: readonly (readonly number[])[]; tokens: number | undefined } {
  const tokens = statedTokens(json);
  const bad = (what: string) =>
    new ProviderError("bad_answer", `${space.id}: ${what}`, { billed: tokens ?? "maybe", requestId });
  if (json === undefined) throw bad("the answer is not JSON, or only a part of it");
  const answer = Answer.safeParse(json);
  if (!answer.success) throw bad("the answer is not a list of embeddings");

  const vectors = new Array<readonly number[] | undefined>(inputs).fill(undefined);
  for (const { index, embedding } of answer.data.data) {
    if (!Number.isInteger(index) || index < 0 || index >= inputs) {
      throw bad(`an embedding has the index ${index}, for ${inputs} inputs`);
    }
    if (vectors[index] !== undefined) throw bad(`two embeddings have the index ${index}`);
    const vector = typeof embedding === "string" ? decodeFloat32(embedding) : numbers(embedding);
    if (vector === undefined)
      throw bad(`the embedding with the index ${index} holds something that is no number`);
    vectors[index] = vector;
  }
  const complete = vectors.filter((vector) => vector !== undefined);
  if (complete.length < inputs) {
    throw bad(`no embedding has the index ${vectors.indexOf(undefined)}, for ${inputs} inputs`);
  }
  return { vectors: complete, tokens };
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function statedTokens(json: unknown): number | undefined {
  const answer = Usage.safeParse(json);
  if (!answer.success) return undefined;
  return "total_tokens" in answer.data.usage
    ? answer.data.usage.total_tokens
    : answer.data.usage.prompt_tokens;
}

/** The bytes of the vector that is decoded: one place for all of them, because a new one each would outgrow what they become. */
let bytes = Buffer.alloc(0);

/** Base64 of little-endian float32; undefined when it is not that. */
function decodeFloat32(base64: string): number[] | undefined {
  const padding = base64.endsWith("==") ? 2 : base64.endsWith("=") ? 1 : 0;
  const size = Math.floor(((base64.length - padding) * 3) / 4);
  if (size % 4 !== 0) return undefined;
  if (bytes.length < size) bytes = Buffer.alloc(size);
  // What is no base64 is left out, so that less comes than there should be.
  if (bytes.write(base64, "base64") !== size) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, size);
  const vector = new Array<number>(size / 4);
  for (let at = 0; at < vector.length; at += 1) vector[at] = view.getFloat32(at * 4, true);
  return vector;
}

function numbers(values: readonly unknown[]): readonly number[] | undefined {
  return values.every((value) => typeof value === "number") ? values : undefined;
}
