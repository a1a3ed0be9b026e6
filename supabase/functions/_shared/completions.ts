/**
 * A language model is asked: its cost is reserved before and settled after, whatever becomes of the answer. The rate, the budgets and the ledger are
 * the database's (`reembed.begin_completion`); here is the order of things.
 */
import { z } from "zod";
import {
  type ChatEnd,
  type ChatMessage,
  type ChatModel,
  estimateRequest,
  type Finish,
} from "./chat-model.ts";
import { ReembedError } from "./errors.ts";
import { ProviderError } from "./provider-error.ts";
import { QueryRefused } from "./queries.ts";
import type { Rpc } from "./rpc.ts";
import { estimateTokens } from "./tokens.ts";

export interface CompletionPorts {
  /** The database as service_role. */
  readonly service: Rpc;
  readonly model: ChatModel;
}

export interface CompletionRequest {
  /** What it is for, in a word of lower case letters, for the ledger: `answer`, `describe`, ... */
  readonly purpose: string;
  /** A vision model takes image parts in a user's message. */
  readonly messages: readonly ChatMessage[];
  /** The most that it may write; the model's own limit holds too. */
  readonly maxOutputTokens: number;
  /** Whose budget pays; without it that of queries. */
  readonly collection?: string | undefined;
  /** Who asks, as 64 hexadecimal digits: has a rate. None: an operator or a service, who has none. */
  readonly callerHash?: string | null | undefined;
  /** Ends the request; what was written by then counts as lost. */
  readonly signal?: AbortSignal | undefined;
}

export interface Completion {
  readonly text: string;
  readonly finish: Finish;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

const begun = z.union([
  z.object({ ticket: z.number(), max_output_tokens: z.number() }),
  z.object({ refused: z.enum(["rate", "budget"]), retry_seconds: z.number() }),
  z.object({ refused: z.literal("model") }),
]);

/** Far more than any text has. A server that knows no limit of tokens is not listened to for ever. */
const MOST_CHARACTERS_PER_TOKEN = 20;

/** The reservation outlives the longest answer. */
const LEASE_SECONDS = 300;

/**
 * Reserves, and returns the answer as it comes: pieces of text, and in the end all of it. Iterate it: what was reserved is settled when the loop ends, also
 * by `break` or an error. (One that is never begun stands as lost after five minutes.)
 * @throws QueryRefused when the caller is over its rate or the budget is spent; ReembedError `environment_conflict` when the database does not know the
 * model; from within the loop ProviderError, after what it charged was written down
 */
export async function startCompletion(
  ports: CompletionPorts,
  request: CompletionRequest,
): Promise<AsyncGenerator<string, Completion>> {
  const { service, model } = ports;
  const estimate = estimateRequest(request.messages);
  const answer = begun.parse(
    await service("reembed_begin_completion", {
      model_id: model.id,
      purpose: request.purpose,
      input_tokens: estimate,
      max_output_tokens: request.maxOutputTokens,
      collection: request.collection ?? null,
      caller_hash: request.callerHash ?? null,
      lease_seconds: LEASE_SECONDS,
    }),
  );
  if ("refused" in answer) throw refusalOf(answer, model.id);
  return run(ports, request, { ticket: answer.ticket, estimate, maxOutputTokens: answer.max_output_tokens });
}

/** The same in one piece: resolves with the whole answer. */
export async function complete(ports: CompletionPorts, request: CompletionRequest): Promise<Completion> {
  const answer = await startCompletion(ports, request);
  for (;;) {
    const step = await answer.next();
    if (step.done) return step.value;
  }
}

interface Reserved {
  readonly ticket: number;
  readonly estimate: number;
  readonly maxOutputTokens: number;
}

async function* run(
  { service, model }: CompletionPorts,
  { messages, signal }: CompletionRequest,
  { ticket, estimate, maxOutputTokens }: Reserved,
): AsyncGenerator<string, Completion> {
  const began = performance.now();
  const mostCharacters = maxOutputTokens * MOST_CHARACTERS_PER_TOKEN;
  let text = "";
  let used: Used | undefined;
  const stream = model.stream({ messages, maxOutputTokens, signal });
  try {
    for (;;) {
      const step = await stream.next();
      if (step.done) {
        const end = countsOf(step.value, estimate, text);
        used = { ...end, outcome: step.value.finish === "stop" ? "ok" : step.value.finish, state: "settled" };
        return { text, finish: step.value.finish, ...end };
      }
      const piece = step.value.slice(0, mostCharacters - text.length);
      text += piece;
      yield piece;
      if (text.length < mostCharacters) continue;
      const end = countsOf({ finish: "length", usage: undefined }, estimate, text);
      // Nobody says what it charges for the rest.
      used = { ...end, outcome: "length", state: "lost" };
      return { text, finish: "length", ...end };
    }
  } catch (error) {
    used = chargedFor(error, { estimate, text, maxOutputTokens });
    throw error;
  } finally {
    const { inputTokens, outputTokens, outcome, state } =
      used ?? chargedFor(new ProviderError("aborted", ""), { estimate, text, maxOutputTokens });
    // Should either fail, the reservation stands and counts as spent: an answer that is paid is not thrown away for it.
    await Promise.allSettled([
      stream.return({ finish: "other", usage: undefined }),
      service("reembed_end_completion", {
        ticket,
        input_tokens: inputTokens,
        output_tokens: outputTokens,
        latency_ms: Math.round(performance.now() - began),
        outcome,
        state,
      }),
    ]);
  }
}

interface Used {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly outcome: string;
  readonly state: "settled" | "lost";
}

/** A server that states no usage still has a price: the estimate keeps its budget honest. */
function countsOf({ usage }: ChatEnd, estimate: number, text: string) {
  return usage ?? { inputTokens: estimate, outputTokens: text === "" ? 0 : estimateTokens(text) };
}

/** What the ledger says of a request that failed or was given up. What was written was charged; where nothing came it may have been all of it. */
function chargedFor(
  error: unknown,
  { estimate, text, maxOutputTokens }: { estimate: number; text: string; maxOutputTokens: number },
): Used {
  const outcome = error instanceof ProviderError ? error.fault : "unforeseen";
  if (text === "" && error instanceof ProviderError && error.billed === "no") {
    return { inputTokens: 0, outputTokens: 0, outcome, state: "settled" };
  }
  const outputTokens = text === "" ? maxOutputTokens : estimateTokens(text);
  return { inputTokens: estimate, outputTokens, outcome, state: "lost" };
}

/** No amounts: what the owner may spend is not the visitor's to know. */
function refusalOf(
  answer: { refused: "rate" | "budget"; retry_seconds: number } | { refused: "model" },
  modelId: string,
): ReembedError {
  switch (answer.refused) {
    case "model":
      return new ReembedError(
        "environment_conflict",
        `the language model is ${modelId}, which the database does not know`,
        "Set OPENAI_CHAT_MODEL to a model of reembed.completion_models, or make it known with its price: reembed.set_completion_model.",
      );
    case "rate":
      return new QueryRefused(
        "rate_limited",
        "too many questions from this caller",
        "Wait as long as retry-after says; a server of your own sends a secret key, which has no rate.",
        answer.retry_seconds * 1000,
      );
    case "budget":
      return new QueryRefused(
        "budget_spent",
        "the budget for language models is spent",
        "Ask again when the budget renews.",
        answer.retry_seconds * 1000,
      );
  }
}
