/**
 * Runs the edge functions in one Deno process, as the edge runtime would: `/<name>/...` goes to `<name>/index.ts`, whose default export is
 * `{ fetch }`. Started by functions.ts with the folder's URL as its argument; prints one line of JSON with its port.
 */
import { errorResponse } from "./error-response.ts";

/** The part of Deno that this file uses: the project is type-checked as Node's. */
declare const Deno: {
  readonly args: readonly string[];
  readonly stdin: { readonly readable: ReadableStream<Uint8Array> };
  exit(code: number): never;
  stat(path: URL): Promise<{ readonly isFile: boolean }>;
  serve(
    options: { hostname: string; port: number; onListen: (address: { port: number }) => void },
    handler: (request: Request) => Promise<Response>,
  ): unknown;
};

interface EdgeFunction {
  fetch(request: Request): Response | Promise<Response>;
}

const folder = new URL(Deno.args[0] ?? "");

async function dispatch(request: Request): Promise<Response> {
  const requestId = request.headers.get("x-request-id") ?? crypto.randomUUID();
  const name = new URL(request.url).pathname.split("/")[1] ?? "";
  const entrypoint = new URL(`${name}/index.ts`, folder);
  // The pattern keeps `_shared` and everything outside the folder out of reach.
  if (!/^[a-z][a-z0-9-]*$/.test(name) || !(await isFile(entrypoint))) {
    return errorResponse(
      "not_found",
      "there is no such function",
      "check the name after /functions/v1/",
      requestId,
    );
  }
  let edgeFunction: EdgeFunction;
  try {
    edgeFunction = functionOf(await import(entrypoint.href));
  } catch (error) {
    console.error(`function ${name} does not load: ${error instanceof Error ? error.message : error}`);
    return errorResponse(
      "function_unavailable",
      `the function ${name} does not load`,
      "the reason is in the log of the stack; mend it and start the stack again",
      requestId,
    );
  }
  try {
    return await edgeFunction.fetch(request);
  } catch (error) {
    // Where it was thrown, not its message: that may hold a text or a vector.
    const frames =
      error instanceof Error
        ? error.stack
            ?.match(/^\s+at .*$/gm)
            ?.slice(0, 4)
            .join("\n")
        : "";
    console.error(
      `function ${name} threw ${error instanceof Error ? error.name : typeof error}\n${frames ?? ""}`,
    );
    return errorResponse(
      "internal_error",
      `the function ${name} failed`,
      "report it with the request id",
      requestId,
    );
  }
}

function functionOf(module: { default?: unknown }): EdgeFunction {
  const candidate = module.default;
  if (typeof candidate === "object" && candidate !== null && "fetch" in candidate) {
    const { fetch } = candidate;
    if (typeof fetch === "function") return { fetch: (request) => fetch.call(candidate, request) };
  }
  throw new TypeError("index.ts has no `export default { fetch }`");
}

async function isFile(url: URL): Promise<boolean> {
  return Deno.stat(url).then(
    (info) => info.isFile,
    () => false,
  );
}

/** The pipe from the stack closes when the stack ends, in whatever way: then this process has nothing left to do. */
async function endWithParent(): Promise<never> {
  for await (const _ of Deno.stdin.readable);
  return Deno.exit(0);
}

void endWithParent();
Deno.serve(
  {
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => console.log(JSON.stringify({ port })),
  },
  dispatch,
);
