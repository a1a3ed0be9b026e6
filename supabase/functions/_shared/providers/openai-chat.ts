/** OpenAI's chat completions, and every server that speaks that API by base URL, as a stream of text. */
import { APIError, type OpenAI } from "openai";
import { z } from "zod";
import type { ChatEnd, ChatMessage, ChatModel, ChatRequest, Finish } from "../chat-model.ts";
import { faultOfAnswer, ProviderError } from "../provider-error.ts";
import { createOpenAIClient, openAIError, type Sent } from "./openai.ts";

/** The longest wait for one whole answer, within what an edge function has. */
const TIMEOUT_MS = 90_000;

export interface OpenAIChatModelOptions {
  /** `openai/<model>`: errors begin with it. */
  readonly id: string;
  readonly model: string;
  /** None: the server asks for none. */
  readonly apiKey?: string | undefined;
  /** With its version, for example `http://127.0.0.1:11434/v1`. */
  readonly baseURL?: string | undefined;
  /** From sending to the last byte of the answer. */
  readonly timeoutMs?: number;
  readonly fetch?: typeof fetch;
}

type Params = OpenAI.Chat.Completions.ChatCompletionCreateParamsStreaming;

/** What is believed of an event of the stream. Unknown fields are ignored: compatible servers add their own, and leave some out. */
const Chunk = z.object({
  choices: z
    .array(
      z.object({
        delta: z.object({ content: z.string().nullish(), refusal: z.string().nullish() }).nullish(),
        finish_reason: z.string().nullish(),
      }),
    )
    .nullish(),
  usage: z
    .object({ prompt_tokens: z.int().min(0), completion_tokens: z.int().min(0) })
    .nullish()
    .catch(null),
});

/** A ChatModel over HTTP: one request a call, never retried here, no tools offered. */
export function createOpenAIChatModel(options: OpenAIChatModelOptions): ChatModel {
  const { id, model, apiKey, timeoutMs = TIMEOUT_MS } = options;
  const client = createOpenAIClient({ ...options, timeoutMs });

  async function* stream(request: ChatRequest): AsyncGenerator<string, ChatEnd> {
    const { messages, maxOutputTokens, signal } = request;
    if (signal?.aborted) {
      throw new ProviderError("aborted", `${id}: the request was given up before it was sent`, {
        billed: "no",
      });
    }
    const deadline = AbortSignal.timeout(timeoutMs);
    const sent: Sent = { space: { id }, apiKey, texts: textsOf(messages), timeoutMs, signal, deadline };
    let finish: Finish | undefined;
    let usage: ChatEnd["usage"];
    try {
      const chunks = await client.chat.completions.create(
        {
          model,
          messages: messages.map(asParam),
          max_completion_tokens: maxOutputTokens,
          stream: true,
          stream_options: { include_usage: true },
        },
        { signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]) },
      );
      for await (const json of chunks) {
        const { choices, usage: counts } = Chunk.parse(json);
        if (counts) usage = { inputTokens: counts.prompt_tokens, outputTokens: counts.completion_tokens };
        const [choice] = choices ?? [];
        if (choice?.finish_reason) finish = FINISHES[choice.finish_reason] ?? "other";
        // What a model says instead of an answer is shown as what it says.
        const text = choice?.delta?.content ?? choice?.delta?.refusal;
        if (text) yield text;
      }
    } catch (error) {
      throw failureOf(error, sent);
    }
    // The library ends its loop as quietly when a signal ends it, and when the connection closes before the answer was whole.
    if (finish === undefined) throw openAIError(new Error("no end"), sent);
    return { finish, usage };
  }
  return { id, stream };
}

const FINISHES: Readonly<Record<string, Finish>> = {
  stop: "stop",
  length: "length",
  content_filter: "withheld",
};

function textsOf(messages: readonly ChatMessage[]): string[] {
  return messages.flatMap(({ content }) =>
    typeof content === "string"
      ? [content]
      : content.flatMap((part) => (part.type === "text" ? [part.text] : [])),
  );
}

function asParam({ role, content }: ChatMessage): Params["messages"][number] {
  if (typeof content === "string") return { role, content };
  const texts = content
    .filter((part) => part.type === "text")
    .map(({ text }) => ({ type: "text" as const, text }));
  // Only a user may show images; the library's types say so, and the provider too.
  if (role !== "user") return { role, content: texts };
  return {
    role,
    content: content.map((part) =>
      part.type === "text"
        ? { type: "text", text: part.text }
        : {
            type: "image_url",
            image_url: { url: part.url, ...(part.detail === undefined ? {} : { detail: part.detail }) },
          },
    ),
  };
}

function failureOf(error: unknown, sent: Sent): ProviderError {
  const { id } = sent.space;
  // An event of the stream that is no JSON, or JSON of another shape.
  if (error instanceof SyntaxError || error instanceof z.ZodError) {
    return new ProviderError("bad_answer", `${id}: the answer is not a stream of chat completions`);
  }
  // An error that the provider sends within a stream that began well.
  if (error instanceof APIError && error.status === undefined && error.error !== undefined) {
    const code = typeof error.code === "string" ? error.code : undefined;
    return new ProviderError(faultOfAnswer(500, code), `${id}: the provider broke off its answer`);
  }
  return openAIError(error, sent);
}
