/**
 * Answers a question from a collection: rows are retrieved through the active version as the caller may see them, a language model answers from them, and what
 * it writes is passed on as far as it cites them. Where no model can be asked, the passages themselves are the answer, and it says so.
 */
import { z } from "zod";
import { CitationFilter } from "./ask/citations.ts";
import { cut, type Passage, type PromptBudget, passagesOf, promptOf, type Turn } from "./ask/passages.ts";
import type { ChatModel } from "./chat-model.ts";
import { type Completion, startCompletion } from "./completions.ts";
import { ReembedError } from "./errors.ts";
import {
  FALLBACK_REASONS,
  type FallbackReason,
  type Found,
  retrieve,
  type SearchPorts,
  type SearchRow,
} from "./search.ts";

export type { Turn } from "./ask/passages.ts";

export interface AskRequest {
  readonly collection: string;
  readonly question: string;
  /** What was asked and answered before, oldest first. */
  readonly history?: readonly Turn[] | undefined;
  /** The version's number; none: the active one. */
  readonly version?: number | undefined;
  /** How many rows are retrieved. */
  readonly match_count?: number | undefined;
  /** A similarity from -1 to 1 that a row needs to be an answer's ground; none: the environment's, else the version's own. */
  readonly match_threshold?: number | undefined;
  /** Values for the collection's filter columns. */
  readonly filters?: Readonly<Record<string, string>> | undefined;
}

export interface AskPorts extends SearchPorts {
  /** Undefined: none is configured. */
  readonly model: ChatModel | undefined;
  /** Ends the work on the answer. */
  readonly signal?: AbortSignal | undefined;
}

/** Why the passages are the answer. */
export type ExtractiveReason = "not_configured" | FallbackReason;

/** Why there is no answer: no row is near enough, the model found none in them, or it said nothing that it could cite. */
export type UnsupportedReason = "no_passage" | "not_in_passages" | "no_citation";

export interface Source {
  readonly number: number;
  readonly title: string;
  readonly url: string;
  readonly similarity: number | null;
}

/** What is known before the answer begins. */
export interface AskGround {
  readonly collection: string;
  readonly version: number;
  readonly space: string;
  readonly coverage?: number | undefined;
  /** What an [n] of the answer may be, best first. */
  readonly sources: readonly Source[];
  /** Turns that the model is shown, and older ones that had no room. */
  readonly history: { readonly used: number; readonly dropped: number };
}

/** What is known when the answer has ended. */
export interface AskEnd {
  /** False: the rows do not answer; the text says so and cites nothing. */
  readonly supported: boolean;
  readonly unsupported?: UnsupportedReason | undefined;
  readonly answered: "model" | "extractive";
  readonly reason?: ExtractiveReason | undefined;
  /** The numbers that the answer cites. */
  readonly cited: readonly number[];
  /** Sentences of the model that cited nothing and were left out. */
  readonly omitted: number;
  /** Whether the model stopped at its limit of tokens, or the provider withheld the rest. */
  readonly cut: boolean;
  readonly model?: string | undefined;
  readonly usage?: { readonly input_tokens: number; readonly output_tokens: number } | undefined;
}

export interface Asking {
  readonly ground: AskGround;
  /**
   * The text piece by piece, and in the end what became of it. Iterate it: a language model may have been asked.
   * @throws ProviderError from within the loop
   */
  readonly answer: AsyncGenerator<string, AskEnd>;
}

const ROWS = 6;
const ANSWER_TOKENS = 800;
const BUDGET: PromptBudget = { passage: 1_000, passages: 5_000, history: 2_000 };
/** Of a model that takes fewer tokens than all of it: what rules and question take at most, and the shares of the rest. */
const FIXED_TOKENS = 1_500;
const EXTRACT_TOKENS = 90;
const EXTRACTS = 3;

const UNSUPPORTED: Readonly<Record<UnsupportedReason, string>> = {
  no_passage: "Nothing that was found answers this question.",
  not_in_passages: "The passages that were found do not answer this question.",
  no_citation: "No answer could be given that rests on the passages that were found.",
};

/**
 * Retrieves, and begins to answer.
 * @throws ReembedError of the search; `rate_limited` when the caller asks too often; `environment_conflict` when the database does not know the model
 */
export async function ask(ports: AskPorts, request: AskRequest): Promise<Asking> {
  const { model } = ports;
  const [found, limits] = await Promise.all([
    find(ports, request),
    model === undefined ? undefined : limitsOf(ports, model),
  ]);
  const passages = passagesOf(found.rows);
  const history = request.history ?? [];
  const mark = `=${crypto.randomUUID().replaceAll("-", "")}=`;
  const prompt = promptOf(request.question, passages, history, budgetWithin(limits), mark);
  const asking = (answer: Asking["answer"], shown: readonly Passage[], turns: number): Asking => ({
    ground: {
      collection: found.collection,
      version: found.version,
      space: found.space,
      ...(found.coverage === undefined ? {} : { coverage: found.coverage }),
      sources: shown.map(({ text: _text, ...source }) => source),
      history: { used: turns, dropped: history.length - turns },
    },
    answer,
  });
  const extractive = (reason: ExtractiveReason) => asking(extracts(passages, reason), passages, 0);

  if (passages.length === 0) {
    const by =
      model === undefined ? ({ answered: "extractive", reason: "not_configured" } as const) : BY_MODEL;
    return asking(says("no_passage", by), [], 0);
  }
  if (model === undefined) return extractive("not_configured");
  const completion = await startCompletion(
    { service: ports.service, model },
    {
      purpose: "answer",
      messages: prompt.messages,
      maxOutputTokens: ANSWER_TOKENS,
      callerHash: ports.callerHash,
      signal: ports.signal,
    },
  ).catch((error: unknown) => reasonOf(error));
  if (typeof completion === "string") return extractive(completion);
  return asking(cited(completion, prompt.passages, model.id), prompt.passages, prompt.turns);
}

/** The answer in one piece. */
export async function wholeAnswer({
  ground,
  answer,
}: Asking): Promise<AskGround & AskEnd & { answer: string }> {
  let text = "";
  for (;;) {
    const step = await answer.next();
    if (step.done) return { answer: text.trim(), ...ground, ...step.value };
    text += step.value;
  }
}

interface Ground extends Omit<Found, "threshold" | "results"> {
  readonly rows: readonly SearchRow[];
}

/** The rows that may be an answer's ground: near enough to the question, or found by its words. */
async function find(ports: AskPorts, request: AskRequest): Promise<Ground> {
  const { question, history = [], match_threshold, ...where } = request;
  const match_count = request.match_count ?? ROWS;
  const before = history.at(-1)?.question;
  // What is asked next is often only half a question. To the words, `or` is either of the two.
  const query = before === undefined ? question : `${question} or ${before}`;
  const { results, threshold, ...found } = await retrieve(ports, {
    ...where,
    match_count,
    query,
    mode: "best",
  });
  const least = match_threshold ?? threshold;
  const isFar = ({ similarity }: SearchRow) => similarity !== null && similarity < least;
  if (!results.some(isFar) || !found.hasWords)
    return { ...found, rows: results.filter((row) => !isFar(row)) };
  const { results: byWords } = await retrieve(ports, {
    ...where,
    match_count,
    query: question,
    mode: "lexical",
  });
  const named = new Set(byWords.map(identityOf));
  return { ...found, rows: results.filter((row) => !isFar(row) || named.has(identityOf(row))) };
}

/** A row without what a search says about it. */
function identityOf({ similarity: _s, score: _c, citation: _n, ...row }: SearchRow): string {
  return JSON.stringify(row);
}

const limits = z.object({ max_input_tokens: z.number() }).nullable();

async function limitsOf({ service }: AskPorts, { id }: ChatModel): Promise<number | undefined> {
  return limits.parse(await service("reembed_completion_model", { model_id: id }))?.max_input_tokens;
}

/** The budget of a prompt, less where the model takes less. */
function budgetWithin(most: number | undefined): PromptBudget {
  const wanted = BUDGET.passages + BUDGET.history;
  const share = Math.max(0, Math.min(1, ((most ?? Number.POSITIVE_INFINITY) - FIXED_TOKENS) / wanted));
  return {
    passage: Math.floor(BUDGET.passage * share),
    passages: Math.floor(BUDGET.passages * share),
    history: Math.floor(BUDGET.history * share),
  };
}

/** @throws the error itself where it is the caller's or the operator's to mend */
function reasonOf(error: unknown): ExtractiveReason {
  const reason = error instanceof ReembedError ? FALLBACK_REASONS[error.code] : undefined;
  if (reason === undefined) throw error;
  return reason;
}

const BY_MODEL = { answered: "model" } as const;

async function* cited(
  completion: AsyncGenerator<string, Completion>,
  passages: readonly Passage[],
  modelId: string,
): AsyncGenerator<string, AskEnd> {
  const filter = new CitationFilter(passages);
  let hasText = false;
  try {
    for (;;) {
      const step = await completion
        .next()
        .catch((error: unknown) => (hasText ? fail(error) : reasonOf(error)));
      if (typeof step === "string") return yield* extracts(passages, step);
      const text = step.done ? filter.end() : filter.push(step.value);
      if (text !== "") {
        hasText = true;
        yield text;
      }
      if (!step.done) continue;
      const { finish, inputTokens, outputTokens } = step.value;
      const end = {
        ...BY_MODEL,
        omitted: filter.omitted,
        cut: finish !== "stop",
        model: modelId,
        usage: { input_tokens: inputTokens, output_tokens: outputTokens },
      };
      if (filter.cited.length > 0) return { supported: true, cited: filter.cited, ...end };
      return yield* says(filter.saidNoAnswer ? "not_in_passages" : "no_citation", end);
    }
  } finally {
    // Ends the request where whoever listens has left.
    await completion.return({ text: "", finish: "other", inputTokens: 0, outputTokens: 0 });
  }
}

function fail(error: unknown): never {
  throw error;
}

async function* says(
  why: UnsupportedReason,
  end: Partial<AskEnd> & Pick<AskEnd, "answered">,
): AsyncGenerator<string, AskEnd> {
  yield UNSUPPORTED[why];
  return { cited: [], omitted: 0, cut: false, ...end, supported: false, unsupported: why };
}

/** The first passages themselves, each with its number. */
async function* extracts(
  passages: readonly Passage[],
  reason: ExtractiveReason,
): AsyncGenerator<string, AskEnd> {
  // What a row holds may look like a link or a citation, and is neither here.
  const quotation = new CitationFilter([]);
  const shown = passages.slice(0, EXTRACTS);
  for (const [index, { number, text }] of shown.entries()) {
    const quoted = quotation.clean(cut(text, EXTRACT_TOKENS)).replace(/\s+/g, " ").trim();
    yield `${index === 0 ? "" : "\n\n"}${quoted} [${number}]`;
  }
  return {
    supported: true,
    answered: "extractive",
    reason,
    cited: shown.map(({ number }) => number),
    omitted: 0,
    cut: false,
  };
}
