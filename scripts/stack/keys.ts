/** The keys of a local stack: made once for a project, kept in its folder where only its owner may read them. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

const stackKeys = z.object({
  publishableKey: z.string().startsWith("sb_publishable_"),
  secretKey: z.string().startsWith("sb_secret_"),
  /** The named secret with which cron, or the local ticker, wakes the backfill function. */
  backfillKey: z.string().startsWith("sb_secret_"),
  /** Signs the users' tokens, HS256. */
  jwtSecret: z.string().min(32),
});

export type StackKeys = z.infer<typeof stackKeys>;

/** New random keys, of no use to anyone but the stack that is started with them. */
export function generateKeys(): StackKeys {
  const random = (bytes: number) => randomBytes(bytes).toString("base64url");
  return {
    publishableKey: `sb_publishable_${random(24)}`,
    secretKey: `sb_secret_${random(24)}`,
    backfillKey: `sb_secret_${random(24)}`,
    jwtSecret: random(48),
  };
}

/**
 * The keys of a project folder, generated the first time.
 * @throws ReembedError `invalid_request` when the file was damaged.
 */
export async function projectKeys(directory: string): Promise<StackKeys> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, "keys.json");
  try {
    await writeFile(path, `${JSON.stringify(generateKeys(), null, 2)}\n`, { mode: 0o600, flag: "wx" });
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
  }
  try {
    return stackKeys.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    throw new ReembedError(
      "invalid_request",
      `${path} does not hold the four keys of a stack`,
      `delete ${path}: the next start makes new keys`,
      { cause: error },
    );
  }
}
