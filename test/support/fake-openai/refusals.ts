/** OpenAI's error answers, in its own words: status, type, param, code and message. */

export interface Refusal {
  readonly status: number;
  readonly body: {
    readonly error: {
      readonly message: string;
      readonly type: string;
      readonly param: string | null;
      readonly code: string | null;
    };
  };
}

function refusal(
  status: number,
  message: string,
  code: string | null,
  type = "invalid_request_error",
  param: string | null = null,
): Refusal {
  return { status, body: { error: { message, type, param, code } } };
}

const KEYS_PAGE = "You can find your API key at https://platform.openai.com/account/api-keys.";

export const REFUSALS = {
  noKey: () =>
    refusal(
      401,
      "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). " +
        KEYS_PAGE,
      null,
    ),
  /** The real service repeats the key with its middle starred out. */
  wrongKey: (key: string) =>
    refusal(
      401,
      `Incorrect API key provided: ${key.slice(0, 8)}${"*".repeat(Math.max(2, key.length - 12))}${key.length > 12 ? key.slice(-4) : ""}. ${KEYS_PAGE}`,
      "invalid_api_key",
    ),
  unknownUrl: (method: string, path: string) => refusal(404, `Invalid URL (${method} ${path})`, null),
  wrongMethod: (method: string, path: string) =>
    refusal(405, `Not allowed to ${method} on ${path}.`, "method_not_supported"),
  notJson: () =>
    refusal(
      400,
      "We could not parse the JSON body of your request. (HINT: This likely means you aren’t using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
      null,
    ),
  noModel: () => refusal(400, "you must provide a model parameter", null),
  unknownModel: (model: string) =>
    refusal(404, `The model \`${model}\` does not exist or you do not have access to it.`, "model_not_found"),
  invalidField: (field: string) =>
    refusal(
      400,
      `'$.${field}' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.`,
      null,
    ),
  tooManyInputs: (count: number, most: number) =>
    refusal(
      400,
      `Invalid 'input': array too long. Expected an array with maximum length ${most}, but got an array with length ${count} instead.`,
      "array_above_max_length",
      "invalid_request_error",
      "input",
    ),
  inputTooLong: (tokens: number, most: number) =>
    refusal(
      400,
      `This model's maximum context length is ${most} tokens, however you requested ${tokens} tokens (${tokens} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.`,
      null,
    ),
  contextTooLong: (most: number, tokens: number) =>
    refusal(
      400,
      `This model's maximum context length is ${most} tokens. However, your messages resulted in ${tokens} tokens. Please reduce the length of the messages.`,
      "context_length_exceeded",
      "invalid_request_error",
      "messages",
    ),
  requestTooLarge: (tokens: number, most: number) =>
    refusal(
      400,
      `Requested ${tokens} tokens, max ${most} tokens per request`,
      "max_tokens_per_request",
      "max_tokens_per_request",
    ),
  noSuch: (kind: "File" | "Batch", id: string) =>
    refusal(404, `No such ${kind} object: ${id}`, null, "invalid_request_error", "id"),
  noDimensions: () => refusal(400, "This model does not support specifying dimensions.", null),
  tooManyDimensions: (dimensions: number, most: number) =>
    refusal(
      400,
      `Invalid value for 'dimensions' = ${dimensions}. Must be less than or equal to ${most}.`,
      null,
    ),
  rateLimited: (
    of: "requests" | "tokens",
    model: string,
    limit: number,
    used: number,
    requested: number,
    wait: string,
  ) =>
    refusal(
      429,
      `Rate limit reached for ${model} in organization org-fake on ${of} per min (${of === "tokens" ? "TPM" : "RPM"}): Limit ${limit}, Used ${used}, Requested ${requested}. Please try again in ${wait}. Visit https://platform.openai.com/account/rate-limits to learn more.`,
      "rate_limit_exceeded",
      of,
    ),
  largerThanRate: (model: string, limit: number, requested: number) =>
    refusal(
      429,
      `Request too large for ${model} in organization org-fake on tokens per min (TPM): Limit ${limit}, Requested ${requested}. The input or output tokens must be reduced in order to run successfully. Visit https://platform.openai.com/account/rate-limits to learn more.`,
      "rate_limit_exceeded",
      "tokens",
    ),
  noQuota: () =>
    refusal(
      429,
      "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
      "insufficient_quota",
      "insufficient_quota",
    ),
  serverError: (status: number) =>
    status === 503
      ? refusal(
          503,
          "The engine is currently overloaded, please try again later.",
          null,
          "service_unavailable",
        )
      : refusal(
          status,
          "The server had an error while processing your request. Sorry about that!",
          null,
          "server_error",
        ),
} as const;
