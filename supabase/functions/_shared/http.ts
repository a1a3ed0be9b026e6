/** What every edge function does the same way: CORS, a request id, the body within its limit, and errors as one JSON object. */
import type { z } from "zod";
import { ReembedError } from "./errors.ts";

/** A handler's answer: a JSON value, sent with 200, or a Response of its own, such as a stream or another status. */
export type Handler = (request: Request, context: RequestContext) => Promise<unknown>;

export interface RequestContext {
  readonly requestId: string;
}

export interface ErrorObject {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly hint: string;
    readonly request_id: string;
  };
}

/** What a function takes beside POST. */
export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

const CORS = {
  "access-control-allow-origin": "*",
  "access-control-allow-headers":
    "authorization, x-client-info, apikey, content-type, x-request-id, x-region, x-reembed-caller",
  "access-control-expose-headers": "x-request-id, retry-after",
  "access-control-max-age": "86400",
};

/**
 * Turns a handler into `fetch` for requests of these methods. Every answer carries CORS headers and `x-request-id`; every failure is
 * `{ error: { code, message, hint, request_id } }` with its documented status.
 * @param onBug receives what nobody foresaw, with its request id, for the function's log.
 */
export function serve(
  handler: Handler,
  onBug: (requestId: string, error: unknown) => void,
  methods: readonly Method[] = ["POST"],
): (request: Request) => Promise<Response> {
  const allowed = [...methods, "OPTIONS"].join(", ");
  return async (request) => {
    const requestId = crypto.randomUUID();
    if (request.method === "OPTIONS") {
      return withHeaders(new Response(null, { status: 204 }), requestId, {
        "access-control-allow-methods": allowed,
      });
    }
    try {
      if (!methods.some((method) => method === request.method)) {
        throw new ReembedError(
          "method_not_allowed",
          `${request.method} is not allowed here`,
          `This function takes ${methods.join(", ")}.`,
        );
      }
      const value = await handler(request, { requestId });
      return value instanceof Response ? withHeaders(value, requestId) : json(200, value, requestId);
    } catch (error) {
      if (!(error instanceof ReembedError)) onBug(requestId, error);
      return errorResponse(error, requestId);
    }
  };
}

/** The error object for anything thrown; what is not a ReembedError shows nothing of itself. */
export function errorResponse(error: unknown, requestId: string): Response {
  const shown = known(error);
  const wait = retryAfterSeconds(error);
  return json(
    shown.status,
    errorObject(error, requestId),
    requestId,
    wait === undefined ? {} : { "retry-after": String(wait) },
  );
}

function known(error: unknown): ReembedError {
  if (error instanceof ReembedError) return error;
  return new ReembedError(
    "internal_error",
    "something went wrong here",
    "Please report it with the request id.",
  );
}

/** The body of a failure, whatever was thrown. */
export function errorObject(error: unknown, requestId: string): ErrorObject {
  const { code, message, hint } = known(error);
  return { error: { code, message, hint, request_id: requestId } };
}

function retryAfterSeconds(error: unknown): number | undefined {
  const wait = error instanceof Error && "retryAfterMs" in error ? error.retryAfterMs : undefined;
  return typeof wait === "number" ? Math.ceil(wait / 1000) : undefined;
}

function json(
  status: number,
  value: unknown,
  requestId: string,
  headers: Record<string, string> = {},
): Response {
  return withHeaders(new Response(JSON.stringify(value), { status }), requestId, {
    "content-type": "application/json; charset=utf-8",
    ...headers,
  });
}

function withHeaders(response: Response, requestId: string, headers: Record<string, string> = {}): Response {
  const all = new Headers(response.headers);
  for (const [name, value] of Object.entries({ ...CORS, "x-request-id": requestId, ...headers })) {
    all.set(name, value);
  }
  return new Response(response.body, { status: response.status, headers: all });
}

/**
 * Reads the body as JSON of this shape.
 * @throws ReembedError `body_too_large` above `maxBytes` of UTF-8, `invalid_json`, or `invalid_request` naming the first field that does not fit and the rule.
 */
export async function readBody<T extends z.ZodType>(
  request: Request,
  schema: T,
  maxBytes: number,
): Promise<z.output<T>> {
  const text = new TextDecoder().decode(await readBytes(request, maxBytes));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ReembedError(
      "invalid_json",
      "the body is not JSON",
      "Send a JSON object with the header content-type: application/json.",
    );
  }
  return checkShape(schema, value);
}

/**
 * A value of this shape.
 * @throws ReembedError `invalid_request` naming the first field that does not fit and the rule
 */
export function checkShape<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field =
    issue === undefined || issue.path.length === 0
      ? "the body"
      : issue.path.map(String).join(".").slice(0, 100);
  throw new ReembedError(
    "invalid_request",
    `${field}: ${issue?.message ?? "does not fit"}`.slice(0, 300),
    "Mend the field and send the request again.",
  );
}

/**
 * Reads the body.
 * @throws ReembedError `body_too_large` above `maxBytes`, before more than that is read
 */
export async function readBytes(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = () =>
    new ReembedError(
      "body_too_large",
      `the body is larger than ${maxBytes} bytes`,
      "Send less in one request.",
    );
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength;
    if (size > maxBytes) throw tooLarge();
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
