/** What the edge runtime offers beyond the Web's own interfaces, looked up without naming the runtime. */
import type { SupabaseAi, SupabaseAiSession } from "./providers/supabase.ts";

/** The runtime's own inference (`Supabase.ai.Session`), or undefined outside Supabase's edge runtime. */
export function supabaseAi(): SupabaseAi | undefined {
  const runtime = globalThis as {
    readonly Supabase?: { readonly ai?: { readonly Session: new (model: string) => SupabaseAiSession } };
  };
  const Session = runtime.Supabase?.ai?.Session;
  return Session && ((model) => new Session(model));
}

/** Keeps the function up for work that goes on after its answer (`EdgeRuntime.waitUntil`); outside Supabase's edge runtime the process stays up by itself. */
export function keepAlive(work: Promise<unknown>): void {
  const runtime = globalThis as {
    readonly EdgeRuntime?: { waitUntil(work: Promise<unknown>): void };
  };
  runtime.EdgeRuntime?.waitUntil(work);
}

/** Writes what nobody foresaw to the function's log: its kind and place, never its message, which may quote a text. */
export function onBug(name: string): (requestId: string, error: unknown) => void {
  return (requestId, error) => {
    const kind = error instanceof Error ? error.name : typeof error;
    const place = error instanceof Error ? (error.stack ?? "").split("\n").slice(1, 4).join(" ").trim() : "";
    console.error(`${name} ${requestId}: ${kind} ${place}`);
  };
}
