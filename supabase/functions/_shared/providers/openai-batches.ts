/** OpenAI's batch interface: a file of requests, answered within a day at a lower price. */
import type OpenAI from "openai";
import { checkVectors, type Space } from "../embedder.ts";
import { faultOfAnswer, ProviderError, type ProviderFault } from "../provider-error.ts";
import {
  createOpenAIClient,
  type Exchange,
  modelOf,
  type OpenAIEmbedderOptions,
  openAIError,
  readEmbeddings,
} from "./openai.ts";

/** What OpenAI takes: so many inputs of embeddings in a batch, and so many bytes in its file. */
export const MOST_BATCH_INPUTS = 50_000;
export const MOST_BATCH_BYTES = 200_000_000;

/** For one request but an upload or a download, from sending to the last byte of the answer. */
const TIMEOUT_MS = 60_000;
/** A file goes up, or its first byte comes down, in this time. */
const FILE_TIMEOUT_MS = 120_000;

/** A batch as the provider tells of it. */
export interface ProviderBatch {
  readonly id: string;
  /** `working` until it has an end; `refused`: its file was not taken and nothing is billed; `done`, `expired`, `cancelled`: there may be results. */
  readonly state: "working" | "refused" | "done" | "expired" | "cancelled";
  /** The provider's own word for it. */
  readonly status: string;
  readonly requestsDone: number;
  readonly requestsFailed: number;
  /** The files of results and of errors, as far as there are any. */
  readonly resultFiles: readonly string[];
  /** When the day is over, in seconds since 1970. */
  readonly expiresAt: number | undefined;
  /** Why it was refused: the provider's code. */
  readonly code: string | undefined;
}

/** One line of a result file. */
export interface BatchAnswer {
  readonly customId: string;
  readonly answer:
    | { readonly kind: "vector"; readonly vector: readonly number[]; readonly tokens: number | undefined }
    /** The provider did not get to it: nothing is billed. */
    | { readonly kind: "not_done" }
    | {
        readonly kind: "refused";
        readonly fault: ProviderFault;
        readonly message: string;
        readonly tokens: number | undefined;
      };
}

/** What the batch lane needs of a provider. Everything throws ProviderError. */
export interface BatchProvider {
  readonly space: Space;
  /** The line of a batch's file that asks for one text's vector. */
  line(customId: string, text: string): string;
  /** Uploads a file of lines and returns its id. */
  upload(lines: readonly string[], signal?: AbortSignal): Promise<string>;
  /** Has a file worked on. `ours` comes back with the batch, for `find`. */
  create(fileId: string, ours: string): Promise<ProviderBatch>;
  /** The batches that carry `ours`, the oldest first, among those made since then (seconds since 1970). */
  find(ours: string, since: number): Promise<readonly ProviderBatch[]>;
  /** Undefined where the provider knows no such batch. */
  retrieve(id: string): Promise<ProviderBatch | undefined>;
  cancel(id: string): Promise<void>;
  /** The answers in a result file, as they come. */
  answers(fileId: string, signal?: AbortSignal): AsyncGenerator<BatchAnswer>;
}

const STATE_OF_STATUS: Readonly<Record<string, ProviderBatch["state"]>> = {
  failed: "refused",
  completed: "done",
  expired: "expired",
  cancelled: "cancelled",
};

/** The key of a batch's metadata that holds our id of it. */
const OUR_ID = "reembed_batch";

const NOT_DONE = new Set(["batch_expired", "batch_cancelled"]);

/** OpenAI's batches, or those of a server that has them too, by base URL. */
export function createOpenAIBatches(options: Omit<OpenAIEmbedderOptions, "timeoutMs">): BatchProvider {
  const { space, apiKey } = options;
  const client = createOpenAIClient({ ...options, timeoutMs: FILE_TIMEOUT_MS });

  async function ask<T>(
    work: (options: { signal: AbortSignal }) => Promise<T>,
    timeoutMs = TIMEOUT_MS,
    signal?: AbortSignal,
  ): Promise<T> {
    const deadline = AbortSignal.timeout(timeoutMs);
    try {
      return await work({ signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]) });
    } catch (error) {
      throw translate(error, { timeoutMs, signal, deadline });
    }
  }

  const translate = (error: unknown, parts: Pick<Exchange, "timeoutMs" | "signal" | "deadline">) =>
    error instanceof ProviderError ? error : openAIError(error, { space, apiKey, texts: [], ...parts });

  return {
    space,
    line: (customId, text) =>
      JSON.stringify({
        custom_id: customId,
        method: "POST",
        url: "/v1/embeddings",
        body: { ...modelOf(space), input: space.document_prefix + text, encoding_format: "base64" },
      }),
    upload: (lines, signal) =>
      ask(
        async (request) => {
          const file = new File(
            lines.map((line) => `${line}\n`),
            "reembed.jsonl",
            { type: "application/jsonl" },
          );
          return (await client.files.create({ file, purpose: "batch" }, request)).id;
        },
        FILE_TIMEOUT_MS,
        signal,
      ),
    create: (fileId, ours) =>
      ask(async (request) =>
        readBatch(
          await client.batches.create(
            {
              input_file_id: fileId,
              endpoint: "/v1/embeddings",
              completion_window: "24h",
              metadata: { [OUR_ID]: ours },
            },
            request,
          ),
        ),
      ),
    find: (ours, since) =>
      ask(async (request) => {
        const found: ProviderBatch[] = [];
        // The newest come first.
        for await (const batch of client.batches.list({ limit: 100 }, request)) {
          if (batch.created_at < since) break;
          if (batch.metadata?.[OUR_ID] === ours) found.unshift(readBatch(batch));
        }
        return found;
      }),
    async retrieve(id) {
      try {
        return await ask(async (request) => readBatch(await client.batches.retrieve(id, request)));
      } catch (error) {
        if (error instanceof ProviderError && error.providerStatus === 404) return undefined;
        throw error;
      }
    },
    cancel: (id) =>
      ask(async (request) => {
        await client.batches.cancel(id, request);
      }),
    async *answers(fileId, signal) {
      const response = await ask((request) => client.files.content(fileId, request), FILE_TIMEOUT_MS, signal);
      if (response.body === null) return;
      try {
        for await (const line of linesOf(response.body)) {
          const answer = readAnswer(space, line);
          if (answer !== undefined) yield answer;
        }
      } catch (error) {
        throw translate(error, {
          timeoutMs: FILE_TIMEOUT_MS,
          signal,
          deadline: new AbortController().signal,
        });
      }
    },
  };
}

function readBatch(batch: OpenAI.Batch): ProviderBatch {
  const { id, status, request_counts: counts, output_file_id, error_file_id, expires_at, errors } = batch;
  return {
    id,
    state: STATE_OF_STATUS[status] ?? "working",
    status,
    requestsDone: counts?.completed ?? 0,
    requestsFailed: counts?.failed ?? 0,
    resultFiles: [output_file_id, error_file_id].filter((file) => file != null),
    expiresAt: expires_at ?? undefined,
    code: errors?.data?.[0]?.code ?? undefined,
  };
}

/** The lines of a body as they come, without what is blank: a file of results is larger than memory ought to be. */
async function* linesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  // The pieces of a line that has no end yet: joined once, however many they are.
  let begun: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const [first = "", ...others] = (
        done ? decoder.decode() : decoder.decode(value, { stream: true })
      ).split("\n");
      begun.push(first);
      for (const next of others) {
        const line = begun.join("");
        begun = [next];
        if (line.trim() !== "") yield line;
      }
      if (done) break;
    }
    const last = begun.join("");
    if (last.trim() !== "") yield last;
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

interface Line {
  readonly custom_id?: unknown;
  readonly response?: { readonly status_code?: unknown; readonly body?: unknown } | null;
  readonly error?: { readonly code?: unknown } | null;
}

/** A line as far as it can be read; undefined where it names no request. */
function readAnswer(space: Space, text: string): BatchAnswer | undefined {
  const line = parseLine(text);
  if (typeof line?.custom_id !== "string") return undefined;
  const customId = line.custom_id;
  const code = typeof line.error?.code === "string" ? line.error.code : undefined;
  if (code !== undefined && NOT_DONE.has(code)) return { customId, answer: { kind: "not_done" } };
  const status = line.response?.status_code;
  if (status !== 200) return { customId, answer: refusal(space, Number(status ?? 0), codeIn(line) ?? code) };
  try {
    const { vectors, tokens } = readEmbeddings(space, line.response?.body, 1, undefined);
    checkVectors(space, [customId], vectors, tokens ?? "maybe");
    return { customId, answer: { kind: "vector", vector: vectors[0] ?? [], tokens } };
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    const { fault, message, billed } = error;
    return {
      customId,
      answer: { kind: "refused", fault, message, tokens: typeof billed === "number" ? billed : undefined },
    };
  }
}

function parseLine(text: string): Line | undefined {
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === "object" && json !== null ? json : undefined;
  } catch {
    return undefined;
  }
}

function codeIn(line: Line): string | undefined {
  const body = line.response?.body;
  const error = typeof body === "object" && body !== null && "error" in body ? body.error : undefined;
  return typeof error === "object" && error !== null && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined;
}

/** Only the status and the code of an answer are shown: its words may quote the text. */
function refusal(space: Space, status: number, code: string | undefined): BatchAnswer["answer"] {
  const label = code !== undefined && /^\w{1,64}$/.test(code) ? ` (${code})` : "";
  return {
    kind: "refused",
    fault: faultOfAnswer(status, code),
    message: `${space.id}: the provider answered ${status === 0 ? "without a status" : status}${label}, in a batch`,
    tokens: undefined,
  };
}
