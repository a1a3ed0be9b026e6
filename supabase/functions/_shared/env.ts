/** The environment of the edge functions, read once and reported whole: a missing or malformed name, never a value. */
import { z } from "zod";
import { type Server, serversIn } from "./servers.ts";
import { SWITCHES } from "./switches.ts";

const keyMap = z.string().transform((text, context) => {
  try {
    return z.record(z.string(), z.string().min(1)).parse(JSON.parse(text));
  } catch {
    context.addIssue({ code: "custom", message: "must be a JSON object of names and keys" });
    return z.NEVER;
  }
});

const optional = z
  .string()
  .optional()
  .transform((value) => value?.trim() || undefined);

const schema = z.object({
  SUPABASE_URL: z.url(),
  SUPABASE_PUBLISHABLE_KEYS: keyMap,
  SUPABASE_SECRET_KEYS: keyMap.refine((keys) => Object.keys(keys).length > 0, "must hold at least one key"),
  OPENAI_API_KEY: optional,
  OPENAI_BASE_URL: optional.pipe(z.url().optional()),
  IMAGE_FILES_URL: optional.pipe(z.url({ protocol: /^https?$/ }).optional()),
  ...SWITCHES,
});

export type Env = z.output<typeof schema> & {
  /** The servers beside OpenAI, by their providers' names. */
  readonly servers: Readonly<Record<string, Server>>;
};

/**
 * Reads the environment from a record of variables.
 * @throws Error that lists every missing or malformed name at once.
 */
export function readEnv(variables: Readonly<Record<string, string | undefined>>): Env {
  const parsed = schema.safeParse(variables);
  if (parsed.success) return { ...parsed.data, servers: serversIn(variables) };
  const faults = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new Error(`the environment of this function is not complete: ${faults.join("; ")}`);
}
