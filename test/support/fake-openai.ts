/**
 * A fake OpenAI: a real HTTP server on loopback with the wire format, the limits, the error bodies and the headers of `POST /v1/embeddings`, chat
 * completions, files and batches, and faults on demand. In a test: `const openai = await startFakeOpenAI()`; alone: `node test/support/fake-openai.ts --port 8787`. Other processes
 * set faults with `POST /__faults`: one rule is added, a list replaces all (so `[]` clears them).
 */
import { createHash, randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { FakeBatches } from "./fake-openai/batches.ts";
import { CHAT_MODELS, FakeChat } from "./fake-openai/chat.ts";
import { type Fault, type FaultRule, Faults } from "./fake-openai/faults.ts";
import { countTokens, embed, type Input, inputText, MODELS, type Model } from "./fake-openai/models.ts";
import { Bucket, formatDuration } from "./fake-openai/rate-limit.ts";
import { REFUSALS, type Refusal } from "./fake-openai/refusals.ts";
import { refuse, send, sendText } from "./fake-openai/respond.ts";

export type { Fault, FaultRule } from "./fake-openai/faults.ts";

const MOST_INPUTS = 2048;
const MOST_INPUT_TOKENS = 8192;
const MOST_REQUEST_TOKENS = 300_000;

/** What the headers report where no rate is simulated. */
const USUAL_REQUESTS_PER_MINUTE = 10_000;
const USUAL_TOKENS_PER_MINUTE = 10_000_000;

export interface FakeOpenAIOptions {
  /** 0, the default, takes a free one. */
  readonly port?: number;
  readonly apiKey?: string;
  /** Enforced for each model where given: what is over it is answered 429. */
  readonly requestsPerMinute?: number | undefined;
  readonly tokensPerMinute?: number | undefined;
  /** A request of more is answered `max_tokens_per_request`. Default: 300,000, as the service has it. */
  readonly tokensPerRequest?: number;
}

/** One request to /v1/embeddings that could be read. */
export interface RequestEntry {
  readonly id: string;
  readonly model: string;
  /** Each input's SHA-256 (hex, of its UTF-8 bytes; the same as the content hash in the database) and its tokens. */
  readonly inputs: readonly { readonly hash: string; readonly tokens: number }[];
  readonly fault: Fault["kind"] | undefined;
  /** The status sent; undefined while there is none, and for ever when the connection was cut before it. */
  status: number | undefined;
  /** The tokens charged: those of every request whose work was done, whatever became of its answer. */
  billed: number;
  /** Whether the whole answer went out. An answer that was cut, never sent, or that the client no longer waited for was not delivered. */
  delivered: boolean;
}

export interface FakeOpenAIStats {
  readonly requests: number;
  readonly tokensBilled: number;
  /** Every request in the order of arrival. */
  readonly log: readonly Readonly<RequestEntry>[];
}

export interface FakeOpenAI {
  /** The base URL for a client, with `/v1`. */
  readonly url: string;
  readonly apiKey: string;
  readonly faults: Faults;
  readonly batches: FakeBatches;
  readonly chat: FakeChat;
  stats(): FakeOpenAIStats;
  /** Resolves as soon as so many requests that match have arrived, with the last of them; earlier ones count. */
  arrival(matches?: (entry: Readonly<RequestEntry>) => boolean, count?: number): Promise<RequestEntry>;
  /** Ends the server and every open connection. */
  close(): Promise<void>;
}

interface EmbeddingRequest {
  readonly model: Model;
  readonly inputs: readonly Input[];
  readonly dimensions: number;
  readonly base64: boolean;
  readonly tokens: number;
}

interface Row {
  readonly object: "embedding";
  readonly index: number;
  readonly embedding: string | readonly (number | null)[];
}

/** Starts the fake on 127.0.0.1. */
export async function startFakeOpenAI(options: FakeOpenAIOptions = {}): Promise<FakeOpenAI> {
  const apiKey = options.apiKey ?? "sk-fake-key-of-the-fake-openai";
  const faults = new Faults();
  const batches = new FakeBatches((body) => {
    const request = readRequest(body, MOST_REQUEST_TOKENS);
    if ("status" in request) return { ...request, texts: [], tokens: 0 };
    const { model, inputs, tokens } = request;
    const answer = embeddingsAnswer(model, rowsOf(request, undefined), tokens);
    return { status: 200, body: answer, texts: inputs.map(inputText), tokens };
  });
  const log: RequestEntry[] = [];
  const arrivals = new Set<() => void>();
  const closing = new AbortController();
  const chat = new FakeChat(faults, closing.signal);
  const buckets = new Map(
    MODELS.map(({ name }) => [
      name,
      {
        requests: new Bucket(
          options.requestsPerMinute ?? USUAL_REQUESTS_PER_MINUTE,
          options.requestsPerMinute !== undefined,
          Date.now(),
        ),
        tokens: new Bucket(
          options.tokensPerMinute ?? USUAL_TOKENS_PER_MINUTE,
          options.tokensPerMinute !== undefined,
          Date.now(),
        ),
      },
    ]),
  );

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      if (closing.signal.aborted || request.destroyed) response.destroy();
      else response.writeHead(500).end(`fake-openai has a bug: ${error}`);
    });
  });

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://fake");
    const { pathname } = url;
    const method = request.method ?? "GET";
    if (pathname === "/__faults") return setFaults(method, request, response);
    response.setHeader("x-request-id", `req_${randomUUID().replaceAll("-", "")}`);
    const refused = refuseKey(request.headers.authorization, apiKey);
    if (refused !== undefined) return refuse(response, refused);
    if (pathname === "/v1/models") {
      if (method !== "GET") return refuse(response, REFUSALS.wrongMethod(method, pathname));
      return send(response, 200, {
        object: "list",
        data: [...MODELS, ...CHAT_MODELS].map(({ name }) => ({
          id: name,
          object: "model",
          created: 1_705_948_997,
          owned_by: "system",
        })),
      });
    }
    if (pathname === "/v1/embeddings") {
      if (method !== "POST") return refuse(response, REFUSALS.wrongMethod(method, pathname));
      return embeddings(await readBody(request), response);
    }
    if (pathname === "/v1/chat/completions") {
      if (method !== "POST") return refuse(response, REFUSALS.wrongMethod(method, pathname));
      return chat.answer(await readBody(request), response);
    }
    if (await batches.handle(method, url, request, () => readBytes(request), response)) return;
    return refuse(response, REFUSALS.unknownUrl(method, pathname));
  }

  async function setFaults(
    method: string,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    if (method !== "POST") return send(response, 405, { error: "POST a rule, or a list of rules" });
    try {
      const rules = JSON.parse(await readBody(request)) as FaultRule | FaultRule[];
      if (Array.isArray(rules)) {
        faults.clear();
        faults.add(...rules);
      } else {
        faults.add(rules);
      }
      return send(response, 200, { pending: faults.pending });
    } catch (error) {
      return send(response, 400, { error: error instanceof Error ? error.message : String(error) });
    }
  }

  async function embeddings(body: string, response: ServerResponse): Promise<void> {
    const started = performance.now();
    const request = readRequest(body, options.tokensPerRequest ?? MOST_REQUEST_TOKENS);
    if ("status" in request) return refuse(response, request);

    const texts = request.inputs.map(inputText);
    const { latencyMs, fault } = faults.draw("embeddings", texts);
    const entry: RequestEntry = {
      id: String(response.getHeader("x-request-id")),
      model: request.model.name,
      inputs: request.inputs.map((input, position) => ({
        hash: createHash("sha256")
          .update(texts[position] ?? "")
          .digest("hex"),
        tokens: countTokens(input),
      })),
      fault: fault?.kind ?? (latencyMs > 0 ? "latency" : undefined),
      status: undefined,
      billed: 0,
      delivered: false,
    };
    log.push(entry);
    for (const look of arrivals) look();
    // A response that is destroyed never finishes.
    response.on("finish", () => {
      entry.delivered = true;
    });
    if (latencyMs > 0) await delay(latencyMs, undefined, { signal: closing.signal });

    const refused = takeRate(request, response) ?? refusalOf(fault, request.model, response);
    if (refused !== undefined) {
      entry.status = refused.status;
      return refuse(response, refused);
    }

    entry.billed = request.tokens;
    response.setHeader("openai-model", request.model.name);
    response.setHeader("openai-processing-ms", String(Math.ceil(performance.now() - started)));
    response.setHeader("openai-version", "2020-10-01");
    if (fault?.kind === "never") return;
    if (fault?.kind === "cut" && fault.when === "before_answer") {
      response.destroy();
      return;
    }
    const answer = JSON.stringify(embeddingsAnswer(request.model, rowsOf(request, fault), request.tokens));
    entry.status = 200;
    if (fault?.kind === "cut") {
      response.writeHead(200, {
        "content-type": "application/json",
        "content-length": String(Buffer.byteLength(answer)),
      });
      response.write(answer.slice(0, answer.length / 2), () => response.destroy());
      return;
    }
    return sendText(response, 200, fault?.kind === "half_json" ? answer.slice(0, answer.length / 2) : answer);
  }

  /** Takes the request from its model's buckets and sets the headers that report them; refuses it where it does not fit. */
  function takeRate({ model, tokens }: EmbeddingRequest, response: ServerResponse): Refusal | undefined {
    const bucket = buckets.get(model.name);
    if (bucket === undefined) return undefined;
    const now = Date.now();
    const waits = { requests: bucket.requests.waitFor(1, now), tokens: bucket.tokens.waitFor(tokens, now) };
    const over = waits.tokens > waits.requests ? "tokens" : "requests";
    const wait = waits[over];
    if (wait === 0) {
      bucket.requests.take(1, now);
      bucket.tokens.take(tokens, now);
    }
    const headers = { ...bucket.requests.headers("requests", now), ...bucket.tokens.headers("tokens", now) };
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    if (wait === 0) return undefined;
    if (wait === Number.POSITIVE_INFINITY) {
      return REFUSALS.largerThanRate(model.name, bucket.tokens.limit, tokens);
    }
    response.setHeader("retry-after", String(Math.ceil(wait / 1000)));
    response.setHeader("retry-after-ms", String(wait));
    const { limit } = bucket[over];
    const used = Math.ceil(bucket[over].used(now));
    return REFUSALS.rateLimited(
      over,
      model.name,
      limit,
      used,
      over === "tokens" ? tokens : 1,
      formatDuration(wait),
    );
  }

  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port ?? 0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/v1`,
    apiKey,
    faults,
    batches,
    chat,
    stats: () => ({
      requests: log.length,
      tokensBilled: log.reduce((sum, { billed }) => sum + billed, 0),
      log: log.map((entry) => ({ ...entry })),
    }),
    arrival: (matches = () => true, count = 1) =>
      new Promise((resolve) => {
        const look = () => {
          const entry = log.filter(matches)[count - 1];
          if (entry === undefined) return;
          arrivals.delete(look);
          resolve(entry);
        };
        arrivals.add(look);
        look();
      }),
    close: () =>
      new Promise((resolve, reject) => {
        closing.abort();
        server.close((error) => (error === undefined ? resolve() : reject(error)));
        server.closeAllConnections();
      }),
  };
}

function refuseKey(authorization: string | undefined, apiKey: string): Refusal | undefined {
  const key = /^Bearer\s+(\S+)$/i.exec(authorization ?? "")?.[1];
  if (key === undefined) return REFUSALS.noKey();
  return key === apiKey ? undefined : REFUSALS.wrongKey(key);
}

/** Checks a body as the service does; the first rule that it breaks is the answer. */
function readRequest(body: string, mostTokens: number): EmbeddingRequest | Refusal {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    return REFUSALS.notJson();
  }
  if (typeof json !== "object" || json === null) return REFUSALS.notJson();
  const fields = json as Record<string, unknown>;
  if (typeof fields.model !== "string" || fields.model === "") return REFUSALS.noModel();
  const model = MODELS.find(({ name }) => name === fields.model);
  if (model === undefined) return REFUSALS.unknownModel(fields.model);

  const { encoding_format: format = "float", dimensions = model.dimensions } = fields;
  if (format !== "float" && format !== "base64") return REFUSALS.invalidField("encoding_format");
  if (typeof dimensions !== "number" || !Number.isInteger(dimensions) || dimensions < 1) {
    return REFUSALS.invalidField("dimensions");
  }
  if (fields.dimensions !== undefined && !model.shortens) return REFUSALS.noDimensions();
  if (dimensions > model.dimensions) return REFUSALS.tooManyDimensions(dimensions, model.dimensions);

  const inputs = readInputs(fields.input);
  if (inputs === undefined) return REFUSALS.invalidField("input");
  if (inputs.length > MOST_INPUTS) return REFUSALS.tooManyInputs(inputs.length, MOST_INPUTS);
  const counts = inputs.map(countTokens);
  const longest = Math.max(...counts);
  if (longest > MOST_INPUT_TOKENS) return REFUSALS.inputTooLong(longest, MOST_INPUT_TOKENS);
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  if (tokens > mostTokens) return REFUSALS.requestTooLarge(tokens, mostTokens);
  return { model, inputs, dimensions, base64: format === "base64", tokens };
}

/** A string, strings, tokens, or lists of tokens, none of them empty; undefined for anything else. */
function readInputs(input: unknown): readonly Input[] | undefined {
  if (isText(input) || isTokens(input)) return [input];
  if (!Array.isArray(input) || input.length === 0) return undefined;
  if (input.every(isText)) return input;
  return input.every(isTokens) ? input : undefined;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isTokens(value: unknown): value is number[] {
  return (
    Array.isArray(value) && value.length > 0 && value.every((token) => Number.isInteger(token) && token >= 0)
  );
}

function refusalOf(fault: Fault | undefined, model: Model, response: ServerResponse): Refusal | undefined {
  switch (fault?.kind) {
    case "rate_limit":
      response.setHeader("retry-after", String(fault.retryAfterSeconds));
      return REFUSALS.rateLimited(
        "requests",
        model.name,
        USUAL_REQUESTS_PER_MINUTE,
        USUAL_REQUESTS_PER_MINUTE,
        1,
        formatDuration(fault.retryAfterSeconds * 1000),
      );
    case "insufficient_quota":
      return REFUSALS.noQuota();
    case "server_error":
      return REFUSALS.serverError(fault.status);
    case "bad_request":
      return REFUSALS.invalidField("input");
    default:
      return undefined;
  }
}

/** The rows of the answer, spoilt as the fault says. */
function rowsOf(
  { model, inputs, dimensions, base64 }: EmbeddingRequest,
  fault: Fault | undefined,
): readonly Row[] {
  const vectors = inputs.map((input) => embed(model, input, dimensions));
  const first = vectors[0] ?? [];
  if (fault?.kind === "wrong_width") first.pop();
  if (fault?.kind === "nan") first[0] = Number.NaN;
  if (fault?.kind === "zero_vector") first.fill(0);
  const rows = vectors.map(
    (vector, index): Row => ({
      object: "embedding",
      index,
      embedding: base64 ? toBase64(vector) : vector.map((value) => Math.fround(value)),
    }),
  );
  const [firstRow] = rows;
  const lastRow = rows.at(-1);
  if (firstRow === undefined || lastRow === undefined) return rows;
  if (fault?.kind === "shuffled") return rows.toReversed();
  if (fault?.kind === "missing_vector") return rows.slice(0, -1);
  if (fault?.kind === "duplicate_index") {
    return rows.length === 1 ? [firstRow, firstRow] : [...rows.slice(0, -1), { ...lastRow, index: 0 }];
  }
  return rows;
}

function toBase64(vector: readonly number[]): string {
  const bytes = Buffer.alloc(vector.length * 4);
  for (const [position, value] of vector.entries()) bytes.writeFloatLE(value, position * 4);
  return bytes.toString("base64");
}

function embeddingsAnswer({ name }: Model, data: readonly Row[], tokens: number) {
  return { object: "list", data, model: name, usage: { prompt_tokens: tokens, total_tokens: tokens } };
}

async function readBytes(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function readBody(request: IncomingMessage): Promise<string> {
  return (await readBytes(request)).toString("utf8");
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "8787" },
      "requests-per-minute": { type: "string" },
      "tokens-per-minute": { type: "string" },
    },
  });
  const asNumber = (text: string | undefined) => (text === undefined ? undefined : Number(text));
  const openai = await startFakeOpenAI({
    port: Number(values.port),
    requestsPerMinute: asNumber(values["requests-per-minute"]),
    tokensPerMinute: asNumber(values["tokens-per-minute"]),
  });
  console.log(`OPENAI_BASE_URL=${openai.url}`);
  console.log(`OPENAI_API_KEY=${openai.apiKey}`);
}
