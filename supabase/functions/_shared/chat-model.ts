/** The port behind which every language model stands: messages in, text out as it is written, and what it used. */
import { estimateTokens } from "./tokens.ts";

export interface TextPart {
  readonly type: "text";
  readonly text: string;
}

/** An image, for models that see. */
export interface ImagePart {
  readonly type: "image";
  /** https, or a data URL such as `data:image/jpeg;base64,...`. */
  readonly url: string;
  /** How closely it is looked at, which decides what it costs; without it the model chooses. */
  readonly detail?: "low" | "high";
}

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string | readonly (TextPart | ImagePart)[];
}

export interface ChatRequest {
  readonly messages: readonly ChatMessage[];
  /** The answer ends there (`length`), whole or not. */
  readonly maxOutputTokens: number;
  readonly signal?: AbortSignal | undefined;
}

/** Why an answer ended: by itself, at its limit, because the provider withheld the rest, or in a way that is not known here. */
export type Finish = "stop" | "length" | "withheld" | "other";

export interface ChatEnd {
  readonly finish: Finish;
  /** The provider's own count; undefined where it states none. */
  readonly usage: { readonly inputTokens: number; readonly outputTokens: number } | undefined;
}

export interface ChatModel {
  /** `provider/model`, as in `reembed.completion_models`. */
  readonly id: string;
  /**
   * Asks once, never again. Yields pieces of the text, none of them empty, and returns how it ended. Leaving the loop ends the request.
   * @throws ProviderError for every failure, also in the middle of an answer
   */
  stream(request: ChatRequest): AsyncGenerator<string, ChatEnd>;
}

/** What a message takes beside its text, and an image at usual detail, by OpenAI's rules for the models that are registered. */
const TOKENS_OF_A_MESSAGE = 4;
const TOKENS_OF_AN_IMAGE = 2_500;

/** An estimate of what a request takes, for its reservation: texts by the rule of tokens.ts, each image by one figure. */
export function estimateRequest(messages: readonly ChatMessage[]): number {
  return messages.reduce(
    (sum, { content }) =>
      sum +
      TOKENS_OF_A_MESSAGE +
      (typeof content === "string"
        ? estimateTokens(content)
        : content.reduce(
            (parts, part) => parts + (part.type === "text" ? estimateTokens(part.text) : TOKENS_OF_AN_IMAGE),
            0,
          )),
    0,
  );
}
