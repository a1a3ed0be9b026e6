/**
 * Servers that speak OpenAI's API, one a provider's name. Every provider that is not built in is such a server, and the environment says where it
 * is: of the provider `ollama` OLLAMA_BASE_URL and, where it asks for one, OLLAMA_API_KEY. So several of them serve spaces at the same time.
 */
import type { Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";

/** What the environment says of one server, not yet checked. */
export interface Server {
  readonly apiKey?: string | undefined;
  /** With its version: `http://127.0.0.1:11434/v1`. */
  readonly baseURL?: string | undefined;
}

/** Providers without a server: what stands in the environment under their names is not ours. */
const WITHOUT_SERVER: readonly string[] = ["hash", "supabase", "described", "external"];

/** The providers that need no address to be known. Of these clip is reached at one, CLIP_BASE_URL. */
export const BUILT_IN_PROVIDERS: readonly string[] = [...WITHOUT_SERVER, "clip"];

/** The one server that has an address of its own and always asks for a key. */
export const OPENAI = "openai";

/** The variables that say where a provider's server is: its name in capitals, a dash as an underscore. */
export function variablesOf(provider: string): {
  readonly apiKey: string;
  readonly baseURL: string;
} {
  const name = provider.toUpperCase().replaceAll("-", "_");
  return { apiKey: `${name}_API_KEY`, baseURL: `${name}_BASE_URL` };
}

/** The servers beside OpenAI that an environment names, by their providers' names. Nothing is checked before a space asks for one: others may have variables of such names, too. */
export function serversIn(
  variables: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, Server>> {
  const servers: Record<string, Server> = {};
  for (const [name, value] of Object.entries(variables)) {
    const [, prefix] = /^([A-Z][A-Z0-9_]*)_BASE_URL$/.exec(name) ?? [];
    if (prefix === undefined || !value?.trim()) continue;
    const provider = prefix.toLowerCase().replaceAll("_", "-");
    if (provider === OPENAI || WITHOUT_SERVER.includes(provider)) continue;
    servers[provider] = { baseURL: value, apiKey: variables[variablesOf(provider).apiKey] };
  }
  return servers;
}

/** The variables of these servers, as `serversIn` reads them: for a process that is to reach them, too. */
export function serverVariables(servers: Readonly<Record<string, Server>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(servers).flatMap(([provider, { apiKey, baseURL }]) => {
      const names = variablesOf(provider);
      return [
        [names.baseURL, baseURL],
        [names.apiKey, apiKey],
      ].flatMap(([name, value]) => (name && value?.trim() ? [[name, value]] : []));
    }),
  );
}

/**
 * Where a space's server is, checked: refused at once is what would otherwise look like a broken connection at each request.
 * @returns the key, undefined where the server asks for none, and its address, undefined for OpenAI's own
 * @throws ReembedError `provider_unavailable` that names the variable and the rule, never its value
 */
export function checkServer(
  space: Pick<Space, "id" | "provider">,
  server: Server | undefined,
): { readonly apiKey: string | undefined; readonly baseURL: string | undefined } {
  const names = variablesOf(space.provider);
  const refuse = (what: string, hint: string) =>
    new ReembedError("provider_unavailable", `${space.id}: ${what}`, hint);
  const apiKey = server?.apiKey?.trim() || undefined;
  const baseURL = server?.baseURL?.trim() || undefined;
  if (space.provider === OPENAI && apiKey === undefined) {
    throw refuse(
      `${names.apiKey} is not set`,
      `Set ${names.apiKey}; for a server of your own that asks for no key, any word will do.`,
    );
  }
  if (space.provider !== OPENAI && baseURL === undefined) {
    throw refuse(
      `${names.baseURL} is not set`,
      `A provider other than ${[OPENAI, ...WITHOUT_SERVER].join(", ")} is a server: say where it is, with its version, such as ${names.baseURL}=http://127.0.0.1:11434/v1.`,
    );
  }
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw refuse(`${names.apiKey} holds a character that no key has`, "Copy the key again, without quotes.");
  }
  if (baseURL !== undefined && !(/^https?:\/\//.test(baseURL) && URL.canParse(baseURL))) {
    throw refuse(
      `${names.baseURL} is not an http(s) URL`,
      "Give it with its version: http://127.0.0.1:11434/v1",
    );
  }
  return { apiKey, baseURL };
}
