/** `/functions/v1`: the edge functions in one Deno process, started with the stack and ended with it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type Server, serverVariables } from "../../supabase/functions/_shared/servers.ts";
import { errorResponse } from "./error-response.ts";
import type { StackKeys } from "./keys.ts";

const PROJECT = fileURLToPath(new URL("../../", import.meta.url));
const DISPATCHER = fileURLToPath(new URL("./dispatcher.ts", import.meta.url));
const PROVIDER = "https://api.openai.com";

export interface FunctionsOptions {
  readonly directory: string;
  /** The stack's own URL, which the functions call back. */
  readonly stackUrl: string;
  readonly keys: StackKeys;
  readonly openai: { readonly apiKey?: string | undefined; readonly baseUrl?: string | undefined };
  /** The other servers that speak OpenAI's API, by their providers' names. */
  readonly servers?: Readonly<Record<string, Server>> | undefined;
  /** Where files of images stand that are named without a URL. */
  readonly imageFilesUrl?: string | undefined;
  /** The environment's switches (switches.ts), by name. */
  readonly switches?: Readonly<Record<string, string>> | undefined;
  /** Receives each line that a function prints. */
  readonly onLog: (line: string) => void;
}

export interface Functions {
  /** Passes a request on; its path begins with the function's name. A process that died is started again. */
  fetch(request: Request, requestId: string): Promise<Response>;
  stop(): Promise<void>;
}

interface RunningProcess {
  readonly child: ChildProcess;
  readonly origin: string;
}

/** Starts the process and waits until it listens. */
export async function startFunctions(options: FunctionsOptions): Promise<Functions> {
  let running: Promise<RunningProcess> | undefined;
  let stopped = false;
  const process = (): Promise<RunningProcess> => {
    if (running) return running;
    const starting = startProcess(options);
    running = starting;
    const forget = () => {
      if (running === starting) running = undefined;
    };
    starting.then(({ child }) => child.once("exit", forget), forget);
    return starting;
  };
  await process();

  return {
    async fetch(request, requestId) {
      try {
        if (stopped) throw new Error("the stack is stopping");
        const { origin } = await process();
        return await forward(request, origin, requestId);
      } catch (error) {
        if (request.signal.aborted) throw error;
        return errorResponse(
          "function_unavailable",
          "the process of the functions does not answer",
          "try again; if it stays so, the log of the stack says why",
          requestId,
        );
      }
    },
    async stop() {
      stopped = true;
      const current = await running?.catch(() => undefined);
      if (current) await end(current.child);
    },
  };
}

async function forward(request: Request, origin: string, requestId: string): Promise<Response> {
  const url = new URL(request.url);
  const headers = new Headers(request.headers);
  headers.delete("host");
  headers.delete("connection");
  // fetch would unpack a compressed answer and keep the header that says it is compressed.
  headers.set("accept-encoding", "identity");
  headers.set("x-request-id", requestId);
  const body = request.method === "GET" || request.method === "HEAD" ? null : await request.arrayBuffer();
  return fetch(`${origin}${url.pathname}${url.search}`, {
    method: request.method,
    headers,
    body,
    redirect: "manual",
    signal: request.signal,
  });
}

async function startProcess(options: FunctionsOptions): Promise<RunningProcess> {
  const child = spawn(denoProgram(), denoArguments(options), {
    cwd: PROJECT,
    env: environment(options),
    stdio: ["pipe", "pipe", "pipe"],
    // A group of its own: Ctrl-C reaches the stack, which then ends this process in order.
    detached: true,
  });
  createInterface({ input: child.stderr }).on("line", options.onLog);
  const port = new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`Deno ended with code ${code} before it listened`)));
    const lines = createInterface({ input: child.stdout });
    lines.once("line", (line) => {
      lines.on("line", options.onLog);
      resolve(Number(JSON.parse(line).port));
    });
  });
  return { child, origin: `http://127.0.0.1:${await port}` };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const late = setTimeout(() => child.kill("SIGKILL"), 3_000);
  await exited;
  clearTimeout(late);
}

/** As narrow as the functions can live with: read the code, call the stack and the providers, listen on loopback. */
function denoArguments(options: FunctionsOptions): string[] {
  const { directory, stackUrl, openai, servers = {}, imageFilesUrl } = options;
  // An address that is none is told to whoever needs it, by name.
  const providers = [openai.baseUrl ?? PROVIDER, ...Object.values(servers).map(({ baseURL }) => baseURL)];
  const hosts = providers.flatMap((address) =>
    address !== undefined && URL.canParse(address) ? [new URL(address).host] : [],
  );
  const net = ["127.0.0.1:0", new URL(stackUrl).host, ...hosts.filter((host) => host !== "")];
  // Images are fetched from wherever a table says that they stand; safe-fetch.ts keeps to the public internet.
  const fetchesImages = imageFilesUrl !== undefined || "clip" in servers;
  const read = [directory, join(PROJECT, "node_modules"), dirname(DISPATCHER)];
  return [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-lock",
    "--no-remote",
    "--node-modules-dir=manual",
    `--config=${join(directory, "deno.json")}`,
    fetchesImages ? "--allow-net" : `--allow-net=${net.join(",")}`,
    `--allow-read=${read.join(",")}`,
    // The environment is made below and holds nothing that a function may not see.
    "--allow-env",
    DISPATCHER,
    pathToFileURL(`${directory}/`).href,
  ];
}

function environment(options: FunctionsOptions): Record<string, string> {
  const { keys, openai } = options;
  return {
    DENO_DIR: join(PROJECT, "node_modules", ".cache", "deno"),
    DENO_NO_UPDATE_CHECK: "1",
    NO_COLOR: "1",
    SUPABASE_URL: options.stackUrl,
    SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishableKey }),
    SUPABASE_SECRET_KEYS: JSON.stringify({ default: keys.secretKey, backfill: keys.backfillKey }),
    ...(openai.apiKey && { OPENAI_API_KEY: openai.apiKey }),
    ...(openai.baseUrl && { OPENAI_BASE_URL: openai.baseUrl }),
    ...serverVariables(options.servers ?? {}),
    ...(options.imageFilesUrl && { IMAGE_FILES_URL: options.imageFilesUrl }),
    ...options.switches,
  };
}

/** The binary itself: the package's own launcher is a process between us and it, which a signal would stop at. */
function denoProgram(): string {
  const { runInstall } = createRequire(import.meta.url)("deno/install_api.cjs") as {
    runInstall: () => string;
  };
  return runInstall();
}
