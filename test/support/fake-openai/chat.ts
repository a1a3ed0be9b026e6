/**
 * `POST /v1/chat/completions` of the fake: OpenAI's wire format, streamed and not, with usage and image parts. What it answers is scripted: the answers in the
 * order in which they were added, the last one again and again; without any it repeats the last message of the user.
 */
import { randomUUID } from "node:crypto";
import type { ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import type { Fault, Faults } from "./faults.ts";
import { countTokens } from "./models.ts";
import { REFUSALS, type Refusal } from "./refusals.ts";
import { refuse, sendText } from "./respond.ts";

/** Real names, with the tokens that each takes and writes in all. */
export const CHAT_MODELS: readonly { readonly name: string; readonly context: number }[] = [
  { name: "gpt-4.1-mini", context: 1_047_576 },
  { name: "gpt-4.1-nano", context: 1_047_576 },
  { name: "gpt-4o-mini", context: 128_000 },
];

const TOKENS_OF_AN_IMAGE = { low: 85, high: 765, auto: 765 } as const;

const PART = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text"), text: z.string() }),
  z.object({
    type: z.literal("image_url"),
    image_url: z.object({
      url: z.string().regex(/^(https?:\/\/|data:image\/(png|jpeg|webp|gif);base64,)/),
      detail: z.enum(["low", "high", "auto"]).default("auto"),
    }),
  }),
]);
const TEXT_PART = z.object({ type: z.literal("text"), text: z.string() });

const REQUEST = z.object({
  messages: z
    .array(
      z.discriminatedUnion("role", [
        z.object({ role: z.literal("system"), content: z.union([z.string(), z.array(TEXT_PART)]) }),
        z.object({ role: z.literal("developer"), content: z.union([z.string(), z.array(TEXT_PART)]) }),
        z.object({ role: z.literal("assistant"), content: z.union([z.string(), z.array(TEXT_PART)]) }),
        z.object({ role: z.literal("user"), content: z.union([z.string(), z.array(PART)]) }),
      ]),
    )
    .min(1),
  stream: z.boolean().default(false),
  stream_options: z.object({ include_usage: z.boolean().default(false) }).optional(),
  max_completion_tokens: z.int().min(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
});
type ChatBody = z.output<typeof REQUEST>;
type Message = ChatBody["messages"][number];

/** A request that could be read, as a script sees it. */
export interface ChatCall {
  readonly model: string;
  /** The texts of each message, in one; images are counted in `images`. */
  readonly messages: readonly { readonly role: string; readonly text: string }[];
  readonly images: readonly string[];
}

/** Text, which is streamed word by word; or the very pieces in which it is streamed, and why it ends. */
export type ScriptedAnswer =
  | string
  | { readonly deltas: readonly string[]; readonly finish?: "stop" | "length" | "content_filter" };
export type Script = ScriptedAnswer | ((call: ChatCall) => ScriptedAnswer);

/** One request to /v1/chat/completions that could be read. */
export interface ChatEntry extends ChatCall {
  readonly id: string;
  readonly fault: Fault["kind"] | undefined;
  status: number | undefined;
  /** Charged, also where the answer did not arrive. */
  inputTokens: number;
  outputTokens: number;
  /** Whether the whole answer went out. */
  delivered: boolean;
  /** Whether the connection ended before: the client hung up, or a fault cut it. */
  aborted: boolean;
}

export class FakeChat {
  readonly log: ChatEntry[] = [];
  readonly #faults: Faults;
  readonly #closing: AbortSignal;
  readonly #looks = new Set<() => void>();
  #script: Script[] = [];

  constructor(faults: Faults, closing: AbortSignal) {
    this.#faults = faults;
    this.#closing = closing;
  }

  /** Replaces what is answered; without an argument the fake repeats the user again. */
  script(...answers: readonly Script[]): void {
    this.#script = [...answers];
  }

  /** Resolves with the first entry of which this is true, as soon as there is one. */
  seen(matches: (entry: Readonly<ChatEntry>) => boolean): Promise<ChatEntry> {
    return new Promise((resolve) => {
      const look = () => {
        const entry = this.log.find(matches);
        if (entry === undefined) return;
        this.#looks.delete(look);
        resolve(entry);
      };
      this.#looks.add(look);
      look();
    });
  }

  async answer(body: string, response: ServerResponse): Promise<void> {
    const read = readRequest(body);
    if ("status" in read) return refuse(response, read);
    const { model, request } = read;
    const call: ChatCall = {
      model,
      messages: request.messages.map((message) => ({ role: message.role, text: textOf(message) })),
      images: request.messages.flatMap(imagesOf).map(({ url }) => url),
    };
    const { latencyMs, fault } = this.#faults.draw(
      "chat",
      call.messages.map(({ text }) => text),
    );
    const entry: ChatEntry = {
      ...call,
      id: `chatcmpl-${randomUUID().replaceAll("-", "")}`,
      fault: fault?.kind ?? (latencyMs > 0 ? "latency" : undefined),
      status: undefined,
      inputTokens: 0,
      outputTokens: 0,
      delivered: false,
      aborted: false,
    };
    this.log.push(entry);
    this.#look();
    response.on("close", () => {
      entry.delivered = response.writableFinished;
      entry.aborted = !response.writableFinished;
      this.#look();
    });
    if (latencyMs > 0) await delay(latencyMs, undefined, { signal: this.#closing });
    const refused = refusalOf(fault, model, response);
    if (refused !== undefined) {
      entry.status = refused.status;
      return refuse(response, refused);
    }
    entry.inputTokens = read.inputTokens;
    if (fault?.kind === "never") return;
    if (fault?.kind === "cut" && fault.when === "before_answer") {
      response.destroy();
      return;
    }
    const { deltas, finish } = this.#next(call, request);
    entry.status = 200;
    if (request.stream) return stream(response, entry, deltas, finish, request, fault);
    entry.outputTokens = tokensOf(deltas);
    const text = JSON.stringify(wholeAnswer(entry, deltas.join(""), finish));
    sendText(response, 200, fault?.kind === "half_json" ? text.slice(0, text.length / 2) : text);
  }

  #next(call: ChatCall, request: ChatBody): { deltas: readonly string[]; finish: string } {
    const script = (this.#script.length > 1 ? this.#script.shift() : this.#script[0]) ?? repeatTheUser;
    const scripted = typeof script === "function" ? script(call) : script;
    const { deltas, finish = "stop" } =
      typeof scripted === "string" ? { deltas: scripted.match(/\S*\s*/g) ?? [] } : scripted;
    const most = request.max_completion_tokens ?? request.max_tokens ?? Number.POSITIVE_INFINITY;
    const kept = [...deltas.filter((delta) => delta !== "")];
    let isCut = false;
    while (tokensOf(kept) > most) {
      kept.pop();
      isCut = true;
    }
    return { deltas: kept, finish: isCut ? "length" : finish };
  }

  #look(): void {
    for (const look of this.#looks) look();
  }
}

function repeatTheUser({ messages }: ChatCall): string {
  return messages.findLast(({ role }) => role === "user")?.text ?? "";
}

const tokensOf = (deltas: readonly string[]): number =>
  deltas.length === 0 ? 0 : countTokens(deltas.join(""));

function readRequest(body: string): { model: string; request: ChatBody; inputTokens: number } | Refusal {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    return REFUSALS.notJson();
  }
  if (typeof json !== "object" || json === null) return REFUSALS.notJson();
  const name = "model" in json ? json.model : undefined;
  if (typeof name !== "string" || name === "") return REFUSALS.noModel();
  const model = CHAT_MODELS.find((known) => known.name === name);
  if (model === undefined) return REFUSALS.unknownModel(name);
  const parsed = REQUEST.safeParse(json);
  if (!parsed.success) return REFUSALS.invalidField(parsed.error.issues[0]?.path.join(".") ?? "messages");
  const request = parsed.data;
  if (request.stream_options !== undefined && !request.stream) return REFUSALS.invalidField("stream_options");
  const inputTokens =
    3 +
    request.messages.reduce(
      (sum, message) =>
        sum +
        3 +
        countTokens(textOf(message)) +
        imagesOf(message).reduce((images, { detail }) => images + TOKENS_OF_AN_IMAGE[detail], 0),
      0,
    );
  if (inputTokens > model.context) return REFUSALS.contextTooLong(model.context, inputTokens);
  return { model: name, request, inputTokens };
}

function textOf({ content }: Message): string {
  return typeof content === "string"
    ? content
    : content.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n");
}

function imagesOf({ content }: Message) {
  return typeof content === "string"
    ? []
    : content.flatMap((part) => (part.type === "image_url" ? [part.image_url] : []));
}

const CREATED = 1_780_000_000;

function wholeAnswer(entry: ChatEntry, content: string, finish: string) {
  return {
    id: entry.id,
    object: "chat.completion",
    created: CREATED,
    model: entry.model,
    choices: [
      {
        index: 0,
        message: { role: "assistant", content, refusal: null, annotations: [] },
        logprobs: null,
        finish_reason: finish,
      },
    ],
    usage: usageOf(entry),
    service_tier: "default",
    system_fingerprint: null,
  };
}

function usageOf({ inputTokens, outputTokens }: ChatEntry) {
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
  };
}

/** Server-sent events, a chunk each; a chunk is billed when it is written. */
async function stream(
  response: ServerResponse,
  entry: ChatEntry,
  deltas: readonly string[],
  finish: string,
  request: ChatBody,
  fault: Fault | undefined,
): Promise<void> {
  const withUsage = request.stream_options?.include_usage === true;
  response.writeHead(200, {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
  });
  const write = (line: string) =>
    new Promise<void>((resolve) => {
      if (response.destroyed) return resolve();
      response.write(`data: ${line}\n\n`, () => resolve());
    });
  const chunk = (choices: readonly object[], usage: object | null = null) =>
    JSON.stringify({
      id: entry.id,
      object: "chat.completion.chunk",
      created: CREATED,
      model: entry.model,
      service_tier: "default",
      system_fingerprint: null,
      choices,
      ...(withUsage ? { usage } : {}),
    });
  const delta = (content: object, reason: string | null = null) =>
    chunk([{ index: 0, delta: content, logprobs: null, finish_reason: reason }]);

  await write(delta({ role: "assistant", content: "", refusal: null }));
  const middle = Math.ceil(deltas.length / 2);
  for (const [position, content] of deltas.entries()) {
    if (position === middle && fault !== undefined && (await spoil(fault, response, write))) return;
    if (response.destroyed) return;
    await write(delta({ content }));
    entry.outputTokens = tokensOf(deltas.slice(0, position + 1));
  }
  if (fault?.kind === "no_end") {
    response.end();
    return;
  }
  await write(delta({}, finish));
  if (withUsage && fault?.kind !== "no_usage") await write(chunk([], usageOf(entry)));
  response.end("data: [DONE]\n\n");
}

/** What goes wrong in the middle of a stream; true when nothing comes after it. */
async function spoil(
  fault: Fault,
  response: ServerResponse,
  write: (line: string) => Promise<void>,
): Promise<boolean> {
  switch (fault.kind) {
    case "cut":
      response.destroy();
      return true;
    case "stall":
      return true;
    case "half_json":
      await write('{"id": "chatcmpl-');
      response.end();
      return true;
    case "stream_error":
      await write(JSON.stringify(REFUSALS.serverError(500).body));
      response.end();
      return true;
    default:
      return false;
  }
}

function refusalOf(fault: Fault | undefined, model: string, response: ServerResponse): Refusal | undefined {
  switch (fault?.kind) {
    case "rate_limit":
      response.setHeader("retry-after", String(fault.retryAfterSeconds));
      return REFUSALS.rateLimited("requests", model, 500, 500, 1, `${fault.retryAfterSeconds}s`);
    case "insufficient_quota":
      return REFUSALS.noQuota();
    case "server_error":
      return REFUSALS.serverError(fault.status);
    case "bad_request":
      return REFUSALS.invalidField("messages");
    default:
      return undefined;
  }
}
