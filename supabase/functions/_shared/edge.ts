/** Wires an edge function: from the environment to the ports that handlers take. Keys are checked here, in constant time. */
import { extractCredentials, verifyCredentials } from "@supabase/server/core";
import { createClient } from "@supabase/supabase-js";
import { hashCaller } from "./caller.ts";
import type { ChatModel } from "./chat-model.ts";
import type { Embedder, Space } from "./embedder.ts";
import type { Env } from "./env.ts";
import { ReembedError } from "./errors.ts";
import { nodeConnection } from "./node-connection.ts";
import type { SupabaseAi } from "./providers/supabase.ts";
import { createChatModel, createEmbedder, picturesFrom, serverConfig } from "./providers.ts";
import { createRpc, type Rpc } from "./rpc.ts";

/** Key modes as @supabase/server writes them, for example `secret:backfill`. */
type KeyMode = "publishable:*" | "secret:*" | `secret:${string}`;

export interface Edge {
  /** The database as service_role. */
  readonly service: Rpc;
  /** The database as the caller: with the key and the token that the request carries, which RLS then judges. */
  caller(request: Request): Promise<Rpc>;
  /** Who asks, for the rate of searches, as 64 hexadecimal digits; null for the holder of a secret key. Of a request that `caller` has taken. */
  callerHash(request: Request): Promise<string | null>;
  /** Throws ReembedError `unauthorized` unless `apikey` holds a secret key of one of these names. */
  requireSecret(request: Request, ...names: string[]): Promise<void>;
  embedderFor(space: Space): Embedder;
  /** The language model that the environment configures; undefined where there is none. */
  chatModel(): ChatModel | undefined;
}

/** The ports of a function. `ai` is the edge runtime's own inference, where it has one. */
export function createEdge(env: Env, ai?: SupabaseAi): Edge {
  const server = {
    url: env.SUPABASE_URL,
    publishableKeys: env.SUPABASE_PUBLISHABLE_KEYS,
    secretKeys: env.SUPABASE_SECRET_KEYS,
    jwks: null,
  };
  const connect = (key: string, token?: string): Rpc =>
    createRpc(
      createClient(env.SUPABASE_URL, key, {
        auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
        ...(token === undefined ? {} : { accessToken: async () => token }),
      }),
    );
  const requireKey = async (request: Request, auth: KeyMode[]): Promise<string> => {
    const { apikey } = extractCredentials(request);
    // The key alone: a token is for PostgREST to judge, which knows its issuer.
    const { error } = await verifyCredentials({ apikey, token: null }, { auth, env: server });
    if (error || apikey === null) {
      throw new ReembedError(
        "unauthorized",
        apikey === null ? "the header apikey is missing" : "the key in apikey is not valid here",
        "Send a key of the project in the header apikey.",
      );
    }
    return apikey;
  };
  const providers = serverConfig(env, env.servers, env);
  const secretKey = env.SUPABASE_SECRET_KEYS.default ?? Object.values(env.SUPABASE_SECRET_KEYS)[0];
  if (secretKey === undefined) throw new Error("SUPABASE_SECRET_KEYS holds no key");

  const service = connect(secretKey);
  return {
    service,
    async caller(request) {
      const apikey = await requireKey(request, ["publishable:*", "secret:*"]);
      const { token } = extractCredentials(request);
      // Whoever sends something means to be somebody: what cannot be read is refused, never taken for nobody.
      if (token === null && request.headers.get("authorization")) {
        throw new ReembedError(
          "unauthorized",
          "the header authorization is not of the form Bearer <token>",
          "Send the user's access token so, or leave the header out.",
        );
      }
      // Clients without a session repeat their key as the bearer: that is no token.
      return connect(apikey, token === null || token === apikey ? undefined : token);
    },
    async callerHash(request) {
      const { apikey, token } = extractCredentials(request);
      if (apikey === null || Object.values(env.SUPABASE_SECRET_KEYS).includes(apikey)) return null;
      return hashCaller(
        { apikey, token: token === apikey ? null : token, headers: request.headers },
        secretKey,
      );
    },
    async requireSecret(request, ...names) {
      await requireKey(
        request,
        names.map((name) => `secret:${name}` as const),
      );
    },
    embedderFor: (space) =>
      createEmbedder(space, {
        ...providers,
        supabaseAi: ai,
        ...picturesFrom(env, nodeConnection),
        service,
      }),
    chatModel: () => createChatModel(providers),
  };
}
