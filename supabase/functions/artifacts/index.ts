import { createEdge } from "../_shared/edge.ts";
import { readEnv } from "../_shared/env.ts";
import { serve } from "../_shared/http.ts";
import { onBug, supabaseAi } from "../_shared/runtime.ts";
import { makeHandler } from "./handler.ts";

const env = readEnv(Deno.env.toObject());
const edge = createEdge(env, supabaseAi());

export default { fetch: serve(makeHandler(edge, env), onBug("artifacts"), ["GET", "POST"]) };
