/** Digests, as 64 hexadecimal digits. */

/** SHA-256 of a text in UTF-8: what `encode(sha256(convert_to(text, 'UTF8')), 'hex')` is in the database. */
export async function sha256(text: string): Promise<string> {
  return toHex(await crypto.subtle.digest("SHA-256", utf8(text)));
}

/** SHA-256 of bytes. */
export async function sha256OfBytes(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return toHex(await crypto.subtle.digest("SHA-256", bytes));
}

/** HMAC-SHA-256 (RFC 2104) of a text: a digest that nobody without the secret can make, or undo by trying all addresses there are. */
export async function hmacSha256(secret: string, text: string): Promise<string> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", utf8(secret), algorithm, false, ["sign"]);
  return toHex(await crypto.subtle.sign("HMAC", key, utf8(text)));
}

function utf8(text: string) {
  return new TextEncoder().encode(text);
}

function toHex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
