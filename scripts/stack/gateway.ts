/** The stack's one port: `/rest/v1`, `/auth/v1` and `/functions/v1`, open to browsers of any origin as a hosted project is. */
import type { RequestListener } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { errorResponse } from "./error-response.ts";

export interface Routes {
  readonly rest: (request: Request) => Promise<Response>;
  readonly functions: (request: Request, requestId: string) => Promise<Response>;
}

/**
 * @param routes asked anew for each request: undefined until the stack is up
 * @param onLog receives a line for each answer of 500 and above: method, path and status, nothing of what was sent
 */
export function createGateway(
  routes: () => Routes | undefined,
  onLog: (line: string) => void,
): RequestListener {
  return getRequestListener(async (request) => {
    if (request.method === "OPTIONS") return preflight(request);
    const requestId = crypto.randomUUID();
    const response = await answer(request, routes(), requestId);
    if (response.status >= 500) {
      onLog(`${request.method} ${new URL(request.url).pathname} ${response.status} ${requestId}`);
    }
    return withCors(response, requestId);
  });
}

async function answer(request: Request, routes: Routes | undefined, requestId: string): Promise<Response> {
  const url = new URL(request.url);
  if (routes === undefined) {
    return errorResponse(
      "database_unavailable",
      "the stack is starting",
      "try again in a few seconds",
      requestId,
    );
  }
  try {
    if (/^\/(rest|auth)\/v1(\/|$)/.test(url.pathname)) return await routes.rest(request);
    const functionPath = /^\/functions\/v1(\/.*)$/.exec(url.pathname)?.[1];
    if (functionPath !== undefined) {
      url.pathname = functionPath;
      return await routes.functions(new Request(url, request), requestId);
    }
  } catch {
    return errorResponse("internal_error", "the request failed", "report it with the request id", requestId);
  }
  return errorResponse(
    "not_found",
    "there is no such route",
    "the stack serves /rest/v1, /auth/v1 and /functions/v1",
    requestId,
  );
}

function preflight(request: Request): Response {
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-origin": "*",
      "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
      "access-control-allow-headers":
        request.headers.get("access-control-request-headers") ??
        "authorization, apikey, content-type, x-client-info",
      "access-control-max-age": "600",
      vary: "access-control-request-headers",
    },
  });
}

function withCors(response: Response, requestId: string): Response {
  const headers = new Headers(response.headers);
  headers.set("access-control-allow-origin", "*");
  headers.set("access-control-expose-headers", "content-range, retry-after, x-request-id, x-sb-error-code");
  if (!headers.has("x-request-id")) headers.set("x-request-id", requestId);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
