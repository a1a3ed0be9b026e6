/**
 * What providers of spaces of images have in common: references are loaded a few at a time, pictures are embedded in groups of a bounded size, and
 * what is wrong with one picture is its own failure.
 */
import {
  type Embedded,
  type Embedder,
  type EmbedOptions,
  type Input,
  type InputFailure,
  makeInputEmbedder,
  type Space,
} from "./embedder.ts";
import type { LoadPicture } from "./picture-loader.ts";
import type { Picture } from "./pictures.ts";
import { ProviderError } from "./provider-error.ts";

/** What became of the pictures of a group, in their order, and what was billed for all of them. */
export interface GroupAnswer {
  readonly outcomes: readonly (readonly number[] | InputFailure)[];
  readonly tokens: number;
}

export interface PictureProvider {
  /** Loads what a document refers to. */
  readonly load: LoadPicture;
  embedTexts(texts: readonly string[], options: EmbedOptions): Promise<Embedded>;
  /** @throws ProviderError where none of the pictures can be embedded now */
  embedGroup(pictures: readonly Picture[], options: EmbedOptions): Promise<GroupAnswer>;
  /** Milliseconds after which no further group begins: a lease lasts two minutes, an edge function little longer. Default: 45,000. */
  readonly budgetMs?: number | undefined;
  /** Milliseconds on a clock that only goes forward. */
  readonly now?: (() => number) | undefined;
}

/** References that are loaded at once. */
const LOADS_AT_ONCE = 4;
/** A group is embedded when it has so many pictures or bytes: an edge function has 256 MB. */
const GROUP_PICTURES = 16;
const GROUP_BYTES = 8 * 1024 * 1024;

const NOT_REACHED: InputFailure = { reason: "the time of the request was over", next: "release" };

/** An Embedder of texts, of pictures, and of references to pictures. */
export function makePictureEmbedder(space: Space, provider: PictureProvider): Embedder {
  return makeInputEmbedder(space, async (inputs, options) => {
    const texts = inputs.filter((input) => typeof input === "string");
    const areTexts = texts.length === inputs.length && options.purpose === "query";
    return areTexts ? provider.embedTexts(texts, options) : embedPictures(provider, inputs, options);
  });
}

type Outcome = readonly number[] | InputFailure;

async function embedPictures(
  provider: PictureProvider,
  inputs: readonly Input[],
  options: EmbedOptions,
): Promise<Embedded> {
  const { load, embedGroup, budgetMs = 45_000, now = () => performance.now() } = provider;
  const began = now();
  const outcomes = new Array<Outcome>(inputs.length).fill(NOT_REACHED);
  let tokens = 0;
  let group: { position: number; picture: Picture }[] = [];
  let isEmbedded = false;

  const flush = async () => {
    if (group.length === 0) return;
    const pictures = group.map(({ picture }) => picture);
    const answer = await embedGroup(pictures, options);
    tokens += answer.tokens;
    for (const [index, { position }] of group.entries()) {
      const outcome = answer.outcomes[index] ?? NOT_REACHED;
      outcomes[position] = outcome;
      isEmbedded ||= !("next" in outcome);
    }
    group = [];
  };

  try {
    for (let at = 0; at < inputs.length && now() - began < budgetMs; at += LOADS_AT_ONCE) {
      const loaded = await Promise.all(
        inputs
          .slice(at, at + LOADS_AT_ONCE)
          .map((input) => (typeof input === "string" ? load(input, options.signal) : input)),
      );
      for (const [index, picture] of loaded.entries()) {
        if ("next" in picture) outcomes[at + index] = picture;
        else group.push({ position: at + index, picture });
      }
      const bytes = group.reduce((sum, { picture }) => sum + picture.bytes.length, 0);
      if (group.length >= GROUP_PICTURES || bytes >= GROUP_BYTES) await flush();
    }
    await flush();
  } catch (error) {
    const fault = asProviderError(error, options);
    if (!(fault instanceof ProviderError) || !isEmbedded) throw fault;
    // What was embedded is kept. The group at which the provider failed spends an attempt, should it be the reason; the rest comes again.
    const next = fault.class === "transient" && fault.fault !== "aborted" ? "retry" : "release";
    for (const { position } of group) outcomes[position] = { reason: fault.message, next };
  }
  return toEmbedded(outcomes, tokens);
}

/** A load that the caller's signal ended is the caller's end, not a fault. */
function asProviderError(error: unknown, { signal }: EmbedOptions): unknown {
  if (error instanceof ProviderError || !signal?.aborted) return error;
  return new ProviderError("aborted", "the request was given up while its pictures were loaded", {
    billed: "no",
  });
}

function toEmbedded(outcomes: readonly Outcome[], tokens: number): Embedded {
  const failures = new Map<number, InputFailure>();
  const vectors = outcomes.map((outcome, position) => {
    if (!("next" in outcome)) return outcome;
    failures.set(position, outcome);
    return null;
  });
  return { vectors, usage: { tokens }, failures };
}
