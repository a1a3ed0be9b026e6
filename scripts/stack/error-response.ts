/** The error object of the whole project, for what the stack itself has to answer; runs on Node and on Deno. */
import { ERRORS, type ErrorCode } from "../../supabase/functions/_shared/errors.ts";

/** A response `{ "error": { code, message, hint, request_id } }` with the code's own status. */
export function errorResponse(code: ErrorCode, message: string, hint: string, requestId: string): Response {
  return Response.json(
    { error: { code, message, hint, request_id: requestId } },
    { status: ERRORS[code].status, headers: { "x-request-id": requestId } },
  );
}
