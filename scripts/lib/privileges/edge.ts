/** Which keys each edge function takes: asked of the functions themselves, wired as they are deployed, beside a database that does not answer. */
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { readDeclaredFunctions } from "../../check-functions.ts";

const SUPABASE = new URL("../../../supabase/", import.meta.url);
/** Nobody listens there: a function that let the caller in cannot do anything. */
const NO_STACK = "http://127.0.0.1:9";
const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];

export interface FunctionKeys {
  readonly name: string;
  /** What is not answered with 405. */
  readonly methods: readonly string[];
  /** The kinds of key that are not answered with 401; `nothing` where it can be called without. */
  readonly keys: readonly string[];
}

/** The functions that config.toml declares. */
export async function readFunctionKeys(): Promise<FunctionKeys[]> {
  const declared = readDeclaredFunctions(await readFile(new URL("config.toml", SUPABASE), "utf8"));
  const names = declared.map(({ name }) => name);
  const secrets = Object.fromEntries(
    ["default", ...names, "another"].map((name) => [name, `sb_secret_of_${name}`]),
  );
  const publishable = "sb_publishable_of_default";
  const environment = {
    SUPABASE_URL: NO_STACK,
    SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: publishable }),
    SUPABASE_SECRET_KEYS: JSON.stringify(secrets),
  };
  // What an edge runtime has and Node has not: each index.ts reads its environment from it, once.
  Object.assign(globalThis, { Deno: { env: { toObject: () => environment } } });
  const keys: Readonly<Record<string, string | undefined>> = {
    nothing: undefined,
    publishable,
    ...Object.fromEntries(Object.entries(secrets).map(([name, key]) => [`secret ${name}`, key])),
  };
  const found: FunctionKeys[] = [];
  for (const { name, settings } of declared) {
    const call = await fetchOf(new URL(settings.get("entrypoint") ?? "", SUPABASE));
    const statusOf = async (method: string, key: string | undefined) => {
      const body = method === "GET" ? {} : { body: "{}" };
      const headers = { "content-type": "application/json", ...(key === undefined ? {} : { apikey: key }) };
      const response = await call(new Request(`http://functions.test/${name}`, { method, headers, ...body }));
      await response.body?.cancel();
      return response.status;
    };
    const methods: string[] = [];
    for (const method of METHODS) if ((await statusOf(method, undefined)) !== 405) methods.push(method);
    const taken: string[] = [];
    for (const [kind, key] of Object.entries(keys)) {
      const statuses = await Promise.all(methods.map((method) => statusOf(method, key)));
      if (statuses.some((status) => status !== 401)) taken.push(kind);
    }
    found.push({ name, methods, keys: taken });
  }
  return found;
}

async function fetchOf(entrypoint: URL): Promise<(request: Request) => Promise<Response>> {
  const module: { default: { fetch(request: Request): Promise<Response> } } = await import(
    pathToFileURL(entrypoint.pathname).href
  );
  return (request) => module.default.fetch(request);
}
