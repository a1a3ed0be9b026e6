/** Who asks, as a hash: what the rate of searches counts by and a canary shares out by. Neither a user's id nor an address is ever stored. */
import { z } from "zod";
import { hmacSha256, sha256 } from "./digest.ts";

const claims = z.object({ sub: z.string().min(1) });

export interface Caller {
  readonly apikey: string;
  /** The bearer token, where there is one. It is read here and not verified: ask the database as this caller first, which refuses a forged one. */
  readonly token: string | null;
  readonly headers: Headers;
}

/**
 * A hash of the user's id, else of the client's address, else of the key (then all who share the key share a rate).
 * @param secret known to the server alone, so that a hash cannot be undone by trying all addresses
 */
export function hashCaller({ apikey, token, headers }: Caller, secret: string): Promise<string> {
  const user = subjectOf(token);
  if (user !== undefined) return hmacSha256(secret, `user:${user}`);
  const address = addressOf(headers);
  return hmacSha256(secret, address === undefined ? `key:${apikey}` : `address:${address}`);
}

/** By which an app tells callers apart that have no user's token: an opaque text of its own. */
const CALLER_HEADER = "x-reembed-caller";

/**
 * The caller's place among a hundred: a canary of n percent answers the places below n, so that one caller is always answered by the same version and a
 * growing share only adds callers. Of each collection others come first. From the user's id, else the header `x-reembed-caller`; undefined without either.
 * The token is not verified here: ask the database as this caller, which refuses a forged one.
 * @returns 0 to 99
 */
export async function callerBucket(headers: Headers, collection: string): Promise<number | undefined> {
  const [, token] = /^Bearer +(.+)$/i.exec(headers.get("authorization") ?? "") ?? [];
  const user = subjectOf(token ?? null);
  const named = headers.get(CALLER_HEADER)?.trim();
  if (user === undefined && !named) return undefined;
  const digest = await sha256(`${collection}\n${user === undefined ? `caller:${named}` : `user:${user}`}`);
  return Number.parseInt(digest.slice(0, 8), 16) % 100;
}

/** The claim `sub` of a JWT; undefined where there is none to read. */
function subjectOf(token: string | null): string | undefined {
  const payload = token?.split(".")[1];
  if (payload === undefined) return undefined;
  try {
    const bytes = Uint8Array.from(atob(payload.replaceAll("-", "+").replaceAll("_", "/")), (char) =>
      char.charCodeAt(0),
    );
    return claims.parse(JSON.parse(new TextDecoder().decode(bytes))).sub;
  } catch {
    return undefined;
  }
}

/**
 * The client's address as the platform saw it. `cf-connecting-ip` is set anew by the network in front of hosted projects; of `x-forwarded-for` only the last
 * entry is the nearest proxy's own: what stands before it the client may have written.
 */
function addressOf(headers: Headers): string | undefined {
  const address = headers.get("cf-connecting-ip") ?? headers.get("x-forwarded-for")?.split(",").at(-1);
  return address?.trim() || undefined;
}
