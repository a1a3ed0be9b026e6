/** Spaces as an operator writes them, `provider/model@dimensions`, and what is known about the usual ones. */
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import {
  BUILT_IN_PROVIDERS,
  OPENAI,
  type Server,
  variablesOf,
} from "../../../supabase/functions/_shared/servers.ts";

export interface SpaceChoice {
  readonly id: string;
  readonly provider: string;
  readonly model: string;
  readonly dimensions: number;
  /** US dollars per million tokens. */
  readonly pricePerMtok: number;
  /** Similarity below which unrelated texts usually lie; 0 where nobody measured it. */
  readonly threshold: number;
  readonly maxInputTokens: number;
}

/** Prices and limits as the providers publish them; thresholds as this repository's own collections use them. */
const KNOWN: Readonly<Record<string, Pick<SpaceChoice, "pricePerMtok" | "threshold" | "maxInputTokens">>> = {
  "openai/text-embedding-3-small": { pricePerMtok: 0.02, threshold: 0.25, maxInputTokens: 8192 },
  "openai/text-embedding-3-large": { pricePerMtok: 0.13, threshold: 0.25, maxInputTokens: 8192 },
  "openai/text-embedding-ada-002": { pricePerMtok: 0.1, threshold: 0.75, maxInputTokens: 8192 },
  "supabase/gte-small": { pricePerMtok: 0, threshold: 0.75, maxInputTokens: 512 },
};
/** What HNSW holds as vector, and as halfvec. */
const MOST_VECTOR_DIMENSIONS = 2_000;
const MOST_DIMENSIONS = 4_000;

/**
 * Reads a space.
 * @param field what the message calls it, such as `--new-space`
 * @param servers the servers that the environment names, by their providers' names
 * @throws ReembedError `invalid_request` that names the field and the rule
 */
export function parseSpace(
  text: string,
  field: string,
  servers: Readonly<Record<string, Server>> = {},
  pricePerMtok?: number,
): SpaceChoice {
  const refuse = (rule: string, hint: string) =>
    new ReembedError("invalid_request", `${field}: ${JSON.stringify(text.slice(0, 100))} ${rule}`, hint);
  const [, provider = "", model = "", width = ""] =
    /^([a-z][a-z0-9-]*)\/([A-Za-z0-9][A-Za-z0-9._:/+-]*)@(\d+)$/.exec(text) ?? [];
  if (provider === "")
    throw refuse("is not provider/model@dimensions", "Such as openai/text-embedding-3-small@1536.");
  const known = [OPENAI, ...BUILT_IN_PROVIDERS];
  if (!known.includes(provider) && !(provider in servers)) {
    throw refuse(
      `names the provider ${provider}, which is not known`,
      `Known providers: ${known.join(", ")}, and any server that speaks OpenAI's API, when ${variablesOf(provider).baseURL} says where it is.`,
    );
  }
  const dimensions = Number(width);
  if (dimensions < 1 || dimensions > MOST_DIMENSIONS)
    throw refuse(
      `has ${width} dimensions`,
      `An index holds 1 to ${MOST_DIMENSIONS}; over ${MOST_VECTOR_DIMENSIONS} as halfvec.`,
    );
  const facts = KNOWN[`${provider}/${model}`] ?? { pricePerMtok: 0, threshold: 0, maxInputTokens: 8192 };
  return {
    id: `${provider}/${model}@${dimensions}`,
    provider,
    model,
    dimensions,
    ...facts,
    ...(pricePerMtok !== undefined && { pricePerMtok }),
  };
}

/** The column type for vectors of so many dimensions: halfvec where vector could not be indexed. */
export function vectorType(dimensions: number): string {
  return `extensions.${dimensions > MOST_VECTOR_DIMENSIONS ? "halfvec" : "vector"}(${dimensions})`;
}

/** The space that vectors of this width most likely are of, to be suggested and never assumed. */
export function likelySpace(dimensions: number): string {
  if (dimensions === 1536) return "openai/text-embedding-ada-002@1536";
  if (dimensions === 384) return "supabase/gte-small@384";
  if (dimensions === 3072) return "openai/text-embedding-3-large@3072";
  return `external/my-model@${dimensions}`;
}
