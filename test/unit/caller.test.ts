/** Whom the rate of searches takes for one and the same caller. */
import { createHmac } from "node:crypto";
import { describe, expect, test } from "vitest";
import { callerBucket, hashCaller } from "../../supabase/functions/_shared/caller.ts";

const SECRET = "sb_secret_test";
const KEY = "sb_publishable_test";

const tokenOf = (claims: unknown) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;
const hash = (token: string | null, headers: Record<string, string> = {}) =>
  hashCaller({ apikey: KEY, token, headers: new Headers(headers) }, SECRET);
const hmac = (text: string) => createHmac("sha256", SECRET).update(text).digest("hex");

describe("a caller", () => {
  test("who is signed in is the user, wherever the request comes from", async () => {
    const token = tokenOf({ sub: "a-user", name: "J\u00fcrgen\u{1f600}" });
    expect(await hash(token, { "x-forwarded-for": "192.0.2.1" })).toBe(hmac("user:a-user"));
    expect(await hash(token, { "x-forwarded-for": "192.0.2.2" })).toBe(hmac("user:a-user"));
  });

  test("who is not is the address that the platform saw, not the one that the client wrote", async () => {
    expect(await hash(null, { "x-forwarded-for": "192.0.2.1" })).toBe(hmac("address:192.0.2.1"));
    expect(await hash(null, { "x-forwarded-for": "198.51.100.7, 192.0.2.1" })).toBe(
      hmac("address:192.0.2.1"),
    );
    expect(await hash(null, { "cf-connecting-ip": "192.0.2.9", "x-forwarded-for": "198.51.100.7" })).toBe(
      hmac("address:192.0.2.9"),
    );
  });

  test("of whom nothing is known shares with all who hold the key", async () => {
    expect(await hash(null)).toBe(hmac(`key:${KEY}`));
    expect(await hash(null, { "x-forwarded-for": " " })).toBe(hmac(`key:${KEY}`));
  });

  test.each([
    ["no dots", "nonsense"],
    ["a payload that is no JSON", "a.bm9uc2Vuc2U.c"],
    ["a payload that is no base64", "a.%%%.c"],
    ["no subject", tokenOf({ role: "anon" })],
    ["an empty subject", tokenOf({ sub: "" })],
    ["a subject that is no text", tokenOf({ sub: 1 })],
    ["a payload that is null", tokenOf(null)],
  ])("whose token has %s counts by the address", async (_, token) => {
    expect(await hash(token, { "x-forwarded-for": "192.0.2.1" })).toBe(hmac("address:192.0.2.1"));
  });
});

test("a caller's places in two collections say nothing of each other: the first callers of all canaries are not the same", async () => {
  const callers = Array.from({ length: 40 }, (_, n) => new Headers({ "x-reembed-caller": `caller ${n}` }));
  const places = (collection: string) =>
    Promise.all(callers.map((headers) => callerBucket(headers, collection)));
  expect(await places("notes")).toEqual(await places("notes"));
  expect(await places("letters")).not.toEqual(await places("notes"));
});
