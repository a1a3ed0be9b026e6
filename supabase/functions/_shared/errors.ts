/**
 * Every error this project throws, in one map: the machine code, the HTTP status it travels with, and what it means.
 * Outcomes such as `stale` or `gone` are values and do not appear here. `docs/errors.md` lists the same codes; a test compares them.
 */
export const ERRORS = {
  invalid_json: { status: 400, meaning: "the body is not JSON" },
  invalid_request: { status: 400, meaning: "a field is missing, of the wrong type or out of range" },
  unauthorized: { status: 401, meaning: "the key or token is absent or not valid" },
  forbidden: { status: 403, meaning: "the key is valid and may not do this" },
  not_found: { status: 404, meaning: "there is no such route, or nothing of this id that the caller sees" },
  unknown_collection: { status: 404, meaning: "no collection has this name" },
  unknown_version: { status: 404, meaning: "the collection has no such version" },
  method_not_allowed: { status: 405, meaning: "the route takes another method" },
  version_retired: { status: 410, meaning: "the version was finalized and its vectors are gone" },
  body_too_large: { status: 413, meaning: "the body is larger than the route takes" },
  unsupported_media_type: {
    status: 415,
    meaning: "the body, or the file in it, is of a kind that the route does not take",
  },
  invalid_image: {
    status: 422,
    meaning: "the picture is damaged, has too many pixels, or the model does not take it",
  },
  invalid_vector: { status: 400, meaning: "the query vector is null, zero or not finite" },
  wrong_width: { status: 400, meaning: "the query vector has another number of dimensions than the space" },
  wrong_space: { status: 400, meaning: "the query vector is of another space than the version" },
  refused: { status: 409, meaning: "the lifecycle does not allow this step now" },
  busy: { status: 409, meaning: "a lock was not to be had in time; nothing was changed" },
  nothing_to_embed: { status: 422, meaning: "there is no text of this kind" },
  rate_limited: {
    status: 429,
    meaning: "the caller searches by text, or asks, more often than its rate allows",
  },
  budget_spent: { status: 429, meaning: "the budget for queries is spent" },
  environment_conflict: { status: 503, meaning: "an environment variable contradicts the database" },
  provider_rejected: { status: 502, meaning: "the provider refused the account or the request" },
  provider_bad_answer: { status: 502, meaning: "the provider's answer cannot be used" },
  provider_unavailable: {
    status: 503,
    meaning: "the provider cannot be reached, fails, or is not configured",
  },
  provider_rate_limited: { status: 503, meaning: "the provider asks us to wait" },
  database_unavailable: { status: 503, meaning: "the database cannot be reached" },
  database_timeout: {
    status: 504,
    meaning: "the database cancelled the call because it took too long; nothing was changed",
  },
  function_unavailable: { status: 503, meaning: "the edge function does not load, or its process is down" },
  provider_timeout: { status: 504, meaning: "the provider did not answer in time" },
  internal_error: { status: 500, meaning: "a bug: please report it with the request id" },
} as const satisfies Record<string, { status: number; meaning: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** An error with a documented code, a message that is safe to show, and a hint that says what to do. */
export class ReembedError extends Error {
  override readonly name = "ReembedError";
  readonly code: ErrorCode;
  readonly hint: string;
  readonly status: number;

  constructor(code: ErrorCode, message: string, hint: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.hint = hint;
    this.status = ERRORS[code].status;
  }
}
