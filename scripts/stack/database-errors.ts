/**
 * What PostgREST answers to an error of the database. @supabase/lite knows the usual SQLSTATEs and answers 500 with the code `SUP`, without
 * hint and details, to all others, among them the ones this project's functions raise.
 */

interface DatabaseError {
  readonly code: string;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
}

/** By the longest prefix of the SQLSTATE; from PostgREST's documentation, "Errors: HTTP status codes". All others are 400. */
const STATUS_BY_SQLSTATE: Readonly<Record<string, number>> = {
  "08": 503,
  "09": 500,
  "0L": 403,
  "0P": 403,
  "23503": 409,
  "23505": 409,
  "25": 500,
  "25006": 405,
  "28": 403,
  "2D": 500,
  "38": 500,
  "39": 500,
  "3B": 500,
  "40": 500,
  "42883": 404,
  "42P01": 404,
  "42P17": 500,
  "42501": 403,
  "53": 503,
  "53400": 500,
  "54": 500,
  "55": 500,
  "57": 500,
  "57P01": 503,
  "58": 500,
  F0: 500,
  HV: 500,
  P0: 500,
  P0001: 400,
  XX: 500,
};

/** The answer as supabase-js reads it: `{ code, message, details, hint }`. Undefined for what is no error of the database. */
export function postgrestError(error: unknown): Response | undefined {
  if (!isDatabaseError(error)) return undefined;
  const { code, message, detail, hint } = error;
  const status = STATUS_BY_SQLSTATE[code] ?? STATUS_BY_SQLSTATE[code.slice(0, 2)] ?? 400;
  return Response.json({ code, message, details: detail ?? null, hint: hint ?? null }, { status });
}

function isDatabaseError(error: unknown): error is DatabaseError {
  return (
    error instanceof Error &&
    "code" in error &&
    typeof error.code === "string" &&
    /^[0-9A-Z]{5}$/.test(error.code)
  );
}
