/**
 * What can go wrong with an embedding provider, in one table. The class says what the engine does next; the code is what a caller of
 * the HTTP door sees; `billed` says what the ledger must assume when nothing more is known about the request.
 */
import { type ErrorCode, ReembedError } from "./errors.ts";
import type { ProviderRate } from "./provider-rate.ts";

/**
 * - `rate_limit`: wait, then send the same again.
 * - `transient`: the same request may well succeed later.
 * - `input`: this request never succeeds as it is. Halve it until the culprit stands alone.
 * - `account`: no request succeeds until a person changes the key, the bill, the model or the base URL. Pause the space.
 * - `bug`: the provider does not understand what we sent. Neither waiting nor halving helps.
 */
export type ProviderErrorClass = "rate_limit" | "transient" | "input" | "account" | "bug";

/** Whether the provider charges for the failed request: `no`, `maybe` (its answer was lost), or the tokens its answer states. */
export type Billed = "no" | "maybe" | number;

interface FaultRow {
  readonly class: ProviderErrorClass;
  readonly code: ErrorCode;
  readonly billed: "no" | "maybe";
  readonly hint: string;
}

export const PROVIDER_FAULTS = {
  rate_limited: {
    class: "rate_limit",
    code: "provider_rate_limited",
    billed: "no",
    hint: "Wait and try again; lower the rate of this space, or ask the provider for a higher limit.",
  },
  server_error: {
    class: "transient",
    code: "provider_unavailable",
    billed: "no",
    hint: "Try again later; look at the status page of the provider.",
  },
  gateway_error: {
    class: "transient",
    code: "provider_unavailable",
    billed: "maybe",
    hint: "Try again later; look at the status page of the provider.",
  },
  unreachable: {
    class: "transient",
    code: "provider_unavailable",
    billed: "no",
    hint: "Check the base URL of the provider and the network.",
  },
  connection_lost: {
    class: "transient",
    code: "provider_unavailable",
    billed: "maybe",
    hint: "Try again later; if it happens often, send smaller requests.",
  },
  timeout: {
    class: "transient",
    code: "provider_timeout",
    billed: "maybe",
    hint: "Try again later; if it happens often, send smaller requests or allow more time.",
  },
  aborted: {
    class: "transient",
    code: "provider_timeout",
    billed: "maybe",
    hint: "The caller gave up on this request; send it again.",
  },
  bad_answer: {
    class: "transient",
    code: "provider_bad_answer",
    billed: "maybe",
    hint: "Nothing was stored. If it happens again, check that the model of the space and its dimensions are what this server offers.",
  },
  request_too_large: {
    class: "input",
    code: "provider_rejected",
    billed: "no",
    hint: "Send fewer or shorter inputs in one request.",
  },
  input_refused: {
    class: "input",
    code: "provider_rejected",
    billed: "no",
    hint: "One of the inputs is empty, too long or not allowed: halve the request until it stands alone.",
  },
  quota_exhausted: {
    class: "account",
    code: "provider_rejected",
    billed: "no",
    hint: "The account has no credit left: pay or raise its limit, then resume the space.",
  },
  account_refused: {
    class: "account",
    code: "provider_rejected",
    billed: "no",
    hint: "Check the key, its permissions, the model of the space and the base URL, then resume the space.",
  },
  request_refused: {
    class: "bug",
    code: "provider_rejected",
    billed: "no",
    hint: "The provider does not understand this request: check that the base URL is an embeddings API, or report a bug.",
  },
} as const satisfies Record<string, FaultRow>;

export type ProviderFault = keyof typeof PROVIDER_FAULTS;

export interface ProviderErrorDetails {
  /** Overrides the table where more is known: the tokens of an answer that was read whole, or that nothing was ever sent. */
  readonly billed?: Billed;
  /** How long the provider asks us to wait, in milliseconds. */
  readonly retryAfterMs?: number | undefined;
  /** The rate that the provider allows, where its answer said so. */
  readonly rate?: ProviderRate | undefined;
  /** The request alone exceeds what the provider takes in one request (or in one minute): the same again never succeeds, a smaller one may. */
  readonly requestTooLarge?: boolean;
  /** The HTTP status of the answer, where there was one. */
  readonly status?: number | undefined;
  /** The provider's own id of the request, for its support. */
  readonly requestId?: string | undefined;
}

/**
 * A provider that could not answer, or answered with something unusable. Its message is safe to show and to log: it holds no key, no
 * text and no vector. For that reason it carries no `cause`: the libraries' own errors quote answers, and answers quote inputs.
 */
export class ProviderError extends ReembedError {
  readonly fault: ProviderFault;
  readonly class: ProviderErrorClass;
  readonly billed: Billed;
  readonly retryAfterMs: number | undefined;
  readonly rate: ProviderRate | undefined;
  readonly requestTooLarge: boolean;
  readonly providerStatus: number | undefined;
  readonly providerRequestId: string | undefined;

  constructor(fault: ProviderFault, message: string, details: ProviderErrorDetails = {}) {
    const row = PROVIDER_FAULTS[fault];
    super(row.code, message, row.hint);
    this.fault = fault;
    this.class = row.class;
    this.billed = details.billed ?? row.billed;
    this.retryAfterMs = details.retryAfterMs;
    this.rate = details.rate;
    this.requestTooLarge = details.requestTooLarge ?? fault === "request_too_large";
    this.providerStatus = details.status;
    this.providerRequestId = details.requestId;
  }
}

/** Machine codes by which OpenAI and servers that speak its API say more than the status does. */
const FAULT_OF_CODE = new Map<string, ProviderFault>([
  ["max_tokens_per_request", "request_too_large"],
  ["array_above_max_length", "request_too_large"],
  ["insufficient_quota", "quota_exhausted"],
  ["billing_hard_limit_reached", "quota_exhausted"],
  ["billing_not_active", "quota_exhausted"],
  ["model_not_found", "account_refused"],
  ["invalid_api_key", "account_refused"],
  ["account_deactivated", "account_refused"],
  ["unsupported_country_region_territory", "account_refused"],
]);

const FAULT_OF_STATUS = new Map<number, ProviderFault>([
  [400, "input_refused"],
  [401, "account_refused"],
  [402, "quota_exhausted"],
  [403, "account_refused"],
  [404, "account_refused"],
  [408, "server_error"],
  [409, "server_error"],
  [413, "request_too_large"],
  [422, "input_refused"],
  [429, "rate_limited"],
  [500, "server_error"],
  [503, "server_error"],
]);

/**
 * The fault that an HTTP answer other than 2xx stands for. A 5xx that is neither 500 nor 503 comes from a gateway, behind which the work may
 * have been done and charged.
 * @param code the machine code in the error body, where it has one; it wins over the status.
 */
export function faultOfAnswer(status: number, code: string | undefined): ProviderFault {
  const byCode = code === undefined ? undefined : FAULT_OF_CODE.get(code);
  return byCode ?? FAULT_OF_STATUS.get(status) ?? (status >= 500 ? "gateway_error" : "request_refused");
}

/**
 * How long an answer asks us to wait, in milliseconds: `retry-after-ms`, else `retry-after` (seconds or an HTTP date), else the later of OpenAI's
 * `x-ratelimit-reset-requests` and `-tokens` (durations such as `6m0s` or `12ms`). Undefined where it does not say.
 * @param now the present, in milliseconds since 1970; only an HTTP date needs it.
 */
export function retryAfterMs(headers: Headers, now: number = Date.now()): number | undefined {
  const milliseconds = parseAmount(headers.get("retry-after-ms"));
  if (milliseconds !== undefined) return Math.ceil(milliseconds);

  const told = headers.get("retry-after");
  const seconds = parseAmount(told);
  if (seconds !== undefined) return Math.ceil(seconds * 1000);
  const date = told === null ? Number.NaN : Date.parse(told);
  if (!Number.isNaN(date)) return Math.max(0, date - now);

  const resets = ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"]
    .map((name) => parseDuration(headers.get(name)))
    .filter((reset) => reset !== undefined);
  return resets.length === 0 ? undefined : Math.max(...resets);
}

function parseAmount(text: string | null): number | undefined {
  return text !== null && /^\s*\d+(\.\d+)?\s*$/.test(text) ? Number(text) : undefined;
}

const MILLISECONDS_OF_UNIT: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Go's notation of a duration (`1h2m3.5s`, `12ms`); a bare number, which some servers send, is seconds. */
function parseDuration(text: string | null): number | undefined {
  if (text === null) return undefined;
  const bare = parseAmount(text);
  if (bare !== undefined) return Math.ceil(bare * 1000);
  if (!/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    total += Number(amount) * (MILLISECONDS_OF_UNIT[unit ?? ""] ?? 0);
  }
  return Math.ceil(total);
}

const LONGEST_PROSE = 300;

/**
 * The provider's own words, made fit to show: one line, cut short, without anything like a key (whole, partly starred out, or the
 * one in use) or an account's id, and none at all where they repeat an input.
 * @returns the cleaned words, or undefined when there is nothing that may be shown.
 */
export function safeProse(prose: unknown, apiKey: string, inputs: readonly string[]): string | undefined {
  if (typeof prose !== "string" || prose.trim() === "") return undefined;
  if (inputs.some((input) => input.trim() !== "" && prose.includes(input.trim().slice(0, 24))))
    return undefined;
  const cleaned = (apiKey === "" ? prose : prose.replaceAll(apiKey, "[redacted]"))
    .replace(/\b(sk|org|proj)[-_][\w*.-]+/g, "$1-[redacted]")
    .replace(/\bBearer\s+\S+/gi, "Bearer [redacted]")
    .replace(/\S*\*{2,}\S*/g, "[redacted]")
    .replace(/\s+/g, " ")
    .trim();
  return cleaned.length > LONGEST_PROSE ? `${cleaned.slice(0, LONGEST_PROSE)}…` : cleaned;
}
