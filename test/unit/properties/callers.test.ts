/** Who asks, as a number and as a hash: the same caller is always the same, and what a caller may write says nothing about another. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import { callerBucket, hashCaller } from "../../../supabase/functions/_shared/caller.ts";
import { anyText, holds } from "../../support/properties.ts";

const tokenOf = (claims: unknown) =>
  `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.${"x".repeat(8)}`;
const user = anyText(40).filter((text) => text !== "");
/** What a header may hold: the platform refuses the rest. */
const headerText = fc
  .string({ unit: fc.constantFrom(..."abcXYZ019-_.~ é"), minLength: 1, maxLength: 40 })
  .filter((text) => text.trim() !== "");
const bearer = (token: string) => new Headers({ authorization: `Bearer ${token}` });

describe("the place of a caller among a hundred", () => {
  // A canary of n percent answers the places below n: one caller must not see two versions in turn.
  holds(
    "follows from the user alone, whatever else the token and the request say",
    fc.asyncProperty(
      user,
      fc.dictionary(fc.constantFrom("iat", "exp", "role"), fc.integer()),
      headerText,
      async (sub, claims, named) => {
        const first = await callerBucket(bearer(tokenOf({ sub })), "notes");
        expect(first).toBeGreaterThanOrEqual(0);
        expect(first).toBeLessThan(100);
        expect(Number.isInteger(first)).toBe(true);
        const headers = bearer(tokenOf({ ...claims, sub }));
        headers.set("x-reembed-caller", named);
        expect(await callerBucket(headers, "notes")).toBe(first);
      },
    ),
  );

  holds(
    "is there for who is named, and for nobody else, whatever the token is",
    fc.asyncProperty(fc.option(headerText), fc.option(headerText), async (named, token) => {
      const headers = new Headers(token === null ? {} : { authorization: `Bearer ${token}` });
      if (named !== null) headers.set("x-reembed-caller", named);
      expect((await callerBucket(headers, "notes")) === undefined).toBe(named === null);
    }),
  );
});

describe("the hash of a caller", () => {
  const base = { apikey: "sb_publishable_1", headers: new Headers() };
  // The rate counts by it: two users that share one would throttle each other.
  holds(
    "differs between users and secrets, and shows neither",
    fc.asyncProperty(user, user, anyText(20), async (one, other, secret) => {
      fc.pre(one !== other);
      const hash = await hashCaller({ ...base, token: tokenOf({ sub: one }) }, `s${secret}`);
      expect(hash).toMatch(/^[0-9a-f]{64}$/);
      expect(await hashCaller({ ...base, token: tokenOf({ sub: other }) }, `s${secret}`)).not.toBe(hash);
      expect(await hashCaller({ ...base, token: tokenOf({ sub: one }) }, `t${secret}`)).not.toBe(hash);
    }),
  );

  // Whoever writes addresses in front of the proxy's own must not get a rate for each of them.
  holds(
    "of who has no token does not follow what stands before the nearest proxy's entry",
    fc.asyncProperty(fc.ipV4(), fc.array(headerText, { maxLength: 3 }), async (address, before) => {
      const headers = new Headers({ "x-forwarded-for": [...before, address].join(", ") });
      const honest = new Headers({ "x-forwarded-for": address });
      const hashOf = (of: Headers) => hashCaller({ ...base, token: null, headers: of }, "secret");
      expect(await hashOf(headers)).toBe(await hashOf(honest));
    }),
  );
});
