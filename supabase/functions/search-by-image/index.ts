import { createEdge } from "../_shared/edge.ts";
import { readEnv } from "../_shared/env.ts";
import { serve } from "../_shared/http.ts";
import { onBug, supabaseAi } from "../_shared/runtime.ts";
import { makeHandler } from "./handler.ts";

const edge = createEdge(readEnv(Deno.env.toObject()), supabaseAi());

export default { fetch: serve(makeHandler(edge), onBug("search-by-image")) };
