/** Who asks, as a hash: what the rate of searches counts by. Neither a user's id nor an address is ever stored. */
import { z } from "zod";
import { hmacSha256 } from "./digest.ts";

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
