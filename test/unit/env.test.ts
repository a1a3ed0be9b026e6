import { describe, expect, test } from "vitest";
import { readEnv } from "../../supabase/functions/_shared/env.ts";

const COMPLETE = {
  SUPABASE_URL: "http://127.0.0.1:54321",
  SUPABASE_PUBLISHABLE_KEYS: '{"default":"sb_publishable_1"}',
  SUPABASE_SECRET_KEYS: '{"default":"sb_secret_1","backfill":"sb_secret_2"}',
};

describe("the environment of a function", () => {
  test("is read with its key maps; the provider's part may be missing or empty", () => {
    expect(readEnv({ ...COMPLETE, OPENAI_API_KEY: " ", OPENAI_BASE_URL: "", PATH: "/bin" })).toEqual({
      SUPABASE_URL: "http://127.0.0.1:54321",
      SUPABASE_PUBLISHABLE_KEYS: { default: "sb_publishable_1" },
      SUPABASE_SECRET_KEYS: { default: "sb_secret_1", backfill: "sb_secret_2" },
      OPENAI_API_KEY: undefined,
      OPENAI_BASE_URL: undefined,
      servers: {},
    });
    expect(readEnv({ ...COMPLETE, OLLAMA_BASE_URL: "http://127.0.0.1:11434/v1" }).servers).toEqual({
      ollama: { baseURL: "http://127.0.0.1:11434/v1", apiKey: undefined },
    });
    expect(readEnv({ ...COMPLETE, OPENAI_API_KEY: " sk-1\n" }).OPENAI_API_KEY).toBe("sk-1");
  });

  test("is reported whole: every missing or malformed name at once, never a value", () => {
    const read = () =>
      readEnv({
        SUPABASE_URL: "hush, no url",
        SUPABASE_SECRET_KEYS: '["hush"]',
        OPENAI_BASE_URL: "hush",
      });
    expect(read).toThrow(/SUPABASE_URL.*SUPABASE_PUBLISHABLE_KEYS.*SUPABASE_SECRET_KEYS.*OPENAI_BASE_URL/);
    expect(read).not.toThrow(/hush/);
  });

  test.each(["{", "[]", '"sb_secret_1"', '{"default":""}', '{"default":1}'])(
    "refuses a key map that is none: %s",
    (SUPABASE_SECRET_KEYS) => {
      expect(() => readEnv({ ...COMPLETE, SUPABASE_SECRET_KEYS })).toThrow(
        "SUPABASE_SECRET_KEYS: must be a JSON object of names and keys",
      );
    },
  );

  test("refuses to work without any secret key", () => {
    expect(() => readEnv({ ...COMPLETE, SUPABASE_SECRET_KEYS: "{}" })).toThrow(
      "SUPABASE_SECRET_KEYS: must hold at least one key",
    );
  });
});
