/**
 * The fake's batch interface: files, batches, and what may become of them. A batch moves on one state each time somebody asks for it, so that no
 * test waits for a clock. What is billed is counted a text, with its hash: whoever buys twice is seen.
 */
import { createHash, randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { REFUSALS, type Refusal } from "./refusals.ts";

const MOST_REQUESTS = 50_000;
const MOST_BYTES = 200_000_000;

/** What becomes of the next batch that is made. Each is used once; without one a batch succeeds. */
export type BatchFate =
  /** Never begins: the file is refused as a whole, and nothing is billed. */
  | { readonly kind: "refused"; readonly code: string }
  /** The day is over, or somebody cancelled it, after so many of its lines; the others stand in the error file, unbilled. */
  | { readonly kind: "expired" | "cancelled"; readonly linesDone: number }
  /** Answers `in_progress` so many times more than usual. */
  | { readonly kind: "slow"; readonly polls: number }
  /** Lines whose text holds `match` are answered with this status and code in the error file. */
  | {
      readonly kind: "line_errors";
      readonly match: string;
      readonly status: number;
      readonly code: string | null;
    }
  /** The results come in the reverse order, the first of them twice. */
  | { readonly kind: "disordered" }
  /** The last result is in neither file; it was billed. */
  | { readonly kind: "missing_line" }
  /** The first result holds a vector that is too short. */
  | { readonly kind: "bad_vector" };

/** A fault of one request to an endpoint; each is used once. */
export interface BatchFault {
  readonly at: "upload" | "create" | "list" | "retrieve" | "cancel" | "content";
  /** `lost`: the work is done and the answer is not sent; `half`: its body ends half way. Else this status. */
  readonly as: "lost" | "half" | { readonly status: number; readonly code: string | null };
}

interface StoredFile {
  readonly id: string;
  readonly name: string;
  readonly text: string;
  readonly createdAt: number;
}

interface Line {
  readonly customId: string;
  readonly body: string;
}

interface BatchObject {
  readonly id: string;
  readonly inputFileId: string;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly createdAt: number;
  readonly lines: readonly Line[];
  readonly fate: BatchFate | undefined;
  status:
    | "validating"
    | "failed"
    | "in_progress"
    | "finalizing"
    | "completed"
    | "expired"
    | "cancelling"
    | "cancelled";
  pollsLeft: number;
  completed: number;
  failed: number;
  outputFileId: string | undefined;
  errorFileId: string | undefined;
}

/** How the fake answers one embeddings request of a batch. */
export type AnswerLine = (body: string) => {
  readonly status: number;
  readonly body: object;
  readonly texts: readonly string[];
  readonly tokens: number;
};

export class FakeBatches {
  /** Fates of the batches to come, the next one first. */
  readonly fates: BatchFate[] = [];
  readonly faults: BatchFault[] = [];
  /** Tokens billed for each text, by its SHA-256; a text that was bought twice counts twice in `bought`. */
  readonly billed = new Map<string, number>();
  /** The hash of each text in the order in which it was billed. */
  readonly bought: string[] = [];
  readonly #files = new Map<string, StoredFile>();
  readonly #batches = new Map<string, BatchObject>();
  readonly #answer: AnswerLine;
  #clock = Math.floor(Date.now() / 1000);

  constructor(answer: AnswerLine) {
    this.#answer = answer;
  }

  /** The batches that were made, in order. */
  get made(): readonly Readonly<Pick<BatchObject, "id" | "status" | "metadata">>[] {
    return [...this.#batches.values()];
  }

  get tokensBilled(): number {
    return [...this.billed.values()].reduce((sum, tokens) => sum + tokens, 0);
  }

  /** However slow they are: the batches in progress are at their end. */
  finishNow(): void {
    for (const batch of this.#batches.values()) batch.pollsLeft = 0;
  }

  /** The texts of the files that were uploaded. */
  get uploads(): readonly string[] {
    return [...this.#files.values()].filter(({ name }) => name.startsWith("in:")).map(({ text }) => text);
  }

  /** Carries out a request to /v1/files or /v1/batches; false where the path is another. */
  async handle(
    method: string,
    url: URL,
    request: IncomingMessage,
    body: () => Promise<Buffer>,
    response: ServerResponse,
  ): Promise<boolean> {
    const [, version, kind, id, action, ...more] = url.pathname.split("/");
    if (version !== "v1" || (kind !== "files" && kind !== "batches") || more.length > 0) return false;
    const route = `${method} ${kind}${id === undefined ? "" : "/id"}${action === undefined ? "" : `/${action}`}`;
    switch (route) {
      case "POST files": {
        const file = await readFile(request, await body());
        this.#answerTo("upload", response, () => this.#upload(file));
        return true;
      }
      case "GET files/id/content":
        this.#answerTo("content", response, () => this.#content(id ?? ""));
        return true;
      case "POST batches": {
        const asked: unknown = JSON.parse((await body()).toString("utf8"));
        this.#answerTo("create", response, () => this.#create(asked));
        return true;
      }
      case "GET batches":
        this.#answerTo("list", response, () => this.#list(url.searchParams));
        return true;
      case "GET batches/id":
        this.#answerTo("retrieve", response, () => this.#retrieve(id ?? ""));
        return true;
      case "POST batches/id/cancel":
        this.#answerTo("cancel", response, () => this.#cancel(id ?? ""));
        return true;
      default:
        return false;
    }
  }

  #answerTo(at: BatchFault["at"], response: ServerResponse, work: () => object | string | Refusal): void {
    const index = this.faults.findIndex((fault) => fault.at === at);
    const [fault] = index < 0 ? [] : this.faults.splice(index, 1);
    if (fault !== undefined && typeof fault.as === "object") {
      const { status, code } = fault.as;
      if (status === 429) response.setHeader("retry-after-ms", "1");
      const error = { message: "The fake was told to refuse this.", type: null, code };
      write(response, status, JSON.stringify({ error }));
      return;
    }
    const answer = work();
    if (fault?.as === "lost") {
      response.destroy();
    } else if (isRefusal(answer)) {
      write(response, answer.status, JSON.stringify(answer.body));
    } else {
      const text = typeof answer === "string" ? answer : JSON.stringify(answer);
      if (fault?.as === "half") writeHalf(response, text);
      else write(response, 200, text);
    }
  }

  #upload({ name, text }: Pick<StoredFile, "name" | "text">): object {
    const file = this.#store(`in:${name}`, text);
    return {
      id: file.id,
      object: "file",
      bytes: Buffer.byteLength(text),
      created_at: file.createdAt,
      filename: name,
      purpose: "batch",
      status: "processed",
      expires_at: file.createdAt + 2_592_000,
    };
  }

  #store(name: string, text: string): StoredFile {
    const file = { id: `file-${randomUUID().replaceAll("-", "")}`, name, text, createdAt: this.#tick() };
    this.#files.set(file.id, file);
    return file;
  }

  #content(id: string): string | Refusal {
    return this.#files.get(id)?.text ?? REFUSALS.noSuch("File", id);
  }

  #create(asked: unknown): object {
    const { input_file_id, endpoint, completion_window, metadata } = asked as Record<string, unknown>;
    const file = this.#files.get(String(input_file_id));
    if (file === undefined) return REFUSALS.noSuch("File", String(input_file_id));
    if (endpoint !== "/v1/embeddings") return REFUSALS.invalidField("endpoint");
    if (completion_window !== "24h") return REFUSALS.invalidField("completion_window");
    const lines = readLines(file.text);
    const fate =
      lines === undefined ? ({ kind: "refused", code: "invalid_json_line" } as const) : this.fates.shift();
    const batch: BatchObject = {
      id: `batch_${randomUUID().replaceAll("-", "")}`,
      inputFileId: file.id,
      metadata: (metadata as Record<string, string> | undefined) ?? null,
      createdAt: this.#tick(),
      lines: lines ?? [],
      fate,
      status: "validating",
      pollsLeft: 1 + (fate?.kind === "slow" ? fate.polls : 0),
      completed: 0,
      failed: 0,
      outputFileId: undefined,
      errorFileId: undefined,
    };
    this.#batches.set(batch.id, batch);
    return describe(batch);
  }

  #list(query: URLSearchParams): object {
    const limit = Number(query.get("limit") ?? 20);
    const newestFirst = [...this.#batches.values()].toReversed();
    const from = newestFirst.findIndex(({ id }) => id === query.get("after")) + 1;
    const page = newestFirst.slice(from, from + limit);
    return {
      object: "list",
      data: page.map(describe),
      first_id: page[0]?.id ?? null,
      last_id: page.at(-1)?.id ?? null,
      has_more: from + limit < newestFirst.length,
    };
  }

  #retrieve(id: string): object {
    const batch = this.#batches.get(id);
    if (batch === undefined) return REFUSALS.noSuch("Batch", id);
    this.#moveOn(batch);
    return describe(batch);
  }

  #cancel(id: string): object {
    const batch = this.#batches.get(id);
    if (batch === undefined) return REFUSALS.noSuch("Batch", id);
    if (batch.status === "validating" || batch.status === "in_progress") batch.status = "cancelling";
    return describe(batch);
  }

  #moveOn(batch: BatchObject): void {
    if (batch.status === "cancelling") {
      this.#finish(batch, "cancelled", 0);
    } else if (batch.status === "validating") {
      batch.status = batch.fate?.kind === "refused" ? "failed" : "in_progress";
    } else if (batch.status === "in_progress") {
      batch.pollsLeft -= 1;
      if (batch.pollsLeft > 0) return;
      const { fate } = batch;
      if (fate?.kind === "expired" || fate?.kind === "cancelled")
        this.#finish(batch, fate.kind, fate.linesDone);
      else batch.status = "finalizing";
    } else if (batch.status === "finalizing") {
      this.#finish(batch, "completed", batch.lines.length);
    }
  }

  #finish(batch: BatchObject, status: "completed" | "expired" | "cancelled", linesDone: number): void {
    const { fate } = batch;
    const results: string[] = [];
    const errors: string[] = [];
    for (const [index, { customId, body }] of batch.lines.entries()) {
      const id = `batch_req_${randomUUID().replaceAll("-", "")}`;
      if (index >= linesDone) {
        const code = status === "cancelled" ? "batch_cancelled" : "batch_expired";
        const message = "This request could not be executed before the completion window expired.";
        errors.push(JSON.stringify({ id, custom_id: customId, response: null, error: { code, message } }));
        continue;
      }
      const answer = this.#answer(body);
      const isRefused =
        fate?.kind === "line_errors" && answer.texts.some((text) => text.includes(fate.match));
      const sent = isRefused
        ? {
            status: fate.status,
            body: { error: { message: "The fake refuses it.", type: null, param: null, code: fate.code } },
          }
        : answer;
      const line = JSON.stringify({
        id,
        custom_id: customId,
        response: { status_code: sent.status, request_id: id, body: sent.body },
        error: null,
      });
      if (sent.status !== 200) {
        errors.push(line);
        continue;
      }
      for (const text of answer.texts) {
        const hash = createHash("sha256").update(text).digest("hex");
        this.bought.push(hash);
        this.billed.set(hash, (this.billed.get(hash) ?? 0) + answer.tokens);
      }
      results.push(fate?.kind === "bad_vector" && results.length === 0 ? withShortVector(line) : line);
    }
    if (fate?.kind === "disordered") results.reverse().push(results[0] ?? "");
    if (fate?.kind === "missing_line") results.pop();
    batch.status = status;
    batch.completed = results.length;
    batch.failed = errors.length;
    const write = (name: string, lines: readonly string[]) =>
      lines.length === 0 ? undefined : this.#store(name, `${lines.join("\n")}\n`).id;
    batch.outputFileId = write("output", results);
    batch.errorFileId = write("errors", errors);
  }

  /** Seconds since 1970, each later than the last: the order of a list is that of its making. */
  #tick(): number {
    this.#clock += 1;
    return this.#clock;
  }
}

function withShortVector(line: string): string {
  const json = JSON.parse(line) as { response: { body: { data: { embedding: unknown }[] } } };
  for (const row of json.response.body.data) row.embedding = [1, 2, 3];
  return JSON.stringify(json);
}

function isRefusal(value: object | string): value is Refusal {
  return typeof value === "object" && "status" in value && typeof value.status === "number";
}

/** The requests of a file; undefined where one of them breaks a rule. */
function readLines(text: string): readonly Line[] | undefined {
  if (Buffer.byteLength(text) > MOST_BYTES) return undefined;
  const lines = text.split("\n").filter((line) => line !== "");
  const seen = new Set<string>();
  const read: Line[] = [];
  for (const line of lines) {
    const { custom_id, method, url, body } = JSON.parse(line) as Record<string, unknown>;
    if (typeof custom_id !== "string" || seen.has(custom_id)) return undefined;
    if (method !== "POST" || url !== "/v1/embeddings") return undefined;
    seen.add(custom_id);
    read.push({ customId: custom_id, body: JSON.stringify(body) });
  }
  return read.length === 0 || read.length > MOST_REQUESTS ? undefined : read;
}

function describe(batch: BatchObject): object {
  const { id, status, lines, completed, failed, fate, createdAt } = batch;
  return {
    id,
    object: "batch",
    endpoint: "/v1/embeddings",
    errors:
      status === "failed"
        ? {
            object: "list",
            data: [
              {
                code: fate?.kind === "refused" ? fate.code : null,
                message: "The fake refuses the file.",
                param: null,
                line: null,
              },
            ],
          }
        : null,
    input_file_id: batch.inputFileId,
    completion_window: "24h",
    status,
    output_file_id: batch.outputFileId ?? null,
    error_file_id: batch.errorFileId ?? null,
    created_at: createdAt,
    expires_at: createdAt + 86_400,
    request_counts: { total: status === "validating" ? 0 : lines.length, completed, failed },
    metadata: batch.metadata,
  };
}

async function readFile(request: IncomingMessage, body: Buffer): Promise<Pick<StoredFile, "name" | "text">> {
  const headers = { "content-type": request.headers["content-type"] ?? "" };
  const form = await new Response(new Uint8Array(body), { headers }).formData();
  const file = form.get("file");
  if (!(file instanceof File) || form.get("purpose") !== "batch") throw new Error("not a file for a batch");
  return { name: file.name, text: await file.text() };
}

function write(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": String(Buffer.byteLength(text)),
  });
  response.end(text);
}

function writeHalf(response: ServerResponse, text: string): void {
  response.writeHead(200, { "content-length": String(Buffer.byteLength(text)) });
  response.write(text.slice(0, text.length / 2), () => response.destroy());
}
