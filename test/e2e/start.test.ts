/** `npm start` as a newcomer runs it: its last line as an object, and the laws it shows. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const run = promisify(execFile);
const START = fileURLToPath(new URL("../../scripts/start.ts", import.meta.url));

describe("npm start", () => {
  test("moves the course pages to another model and back under traffic, and prints the figures", async () => {
    const { stdout, stderr } = await run(process.execPath, [START, "--json"], {
      env: { PATH: process.env.PATH },
      timeout: 110_000,
    });
    const figures = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
    expect(figures).toMatchObject({
      pages: 16,
      sections: 107,
      spaces: { v1: "hash/words-and-ngrams@384", v2: "hash/words-and-ngrams@1536" },
      // The edited page has one section more.
      embedded: { v1: 108, v2: 108 },
      cost_usd: 0,
      violations: 0,
      searches: { failed: 0 },
    });
    expect(figures.searches.total).toBeGreaterThan(0);
    expect(figures.writes).toBeGreaterThan(0);
    expect(figures.requests).toBeGreaterThan(0);
    expect(figures.tokens).toBeGreaterThan(0);
    expect(figures.cutover_ms).toBeGreaterThan(0);
    expect(figures.rollback_ms).toBeGreaterThan(0);
    expect(figures.answers).toHaveLength(3);
    for (const { question, url, title, similarity } of figures.answers) {
      expect(question).toMatch(/\?$/);
      expect(url).toMatch(/^https:\/\/swcarpentry\.github\.io\/git-novice\/.+\.html/);
      expect(title).not.toBe("");
      expect(similarity).toBeGreaterThan(0);
    }
    expect(figures.answers[0].url).toContain("09-conflict.html");

    // The story names the offline provider for what it is, and ends with what to type next.
    expect(stderr).toContain("lexical, not semantic");
    expect(stderr).toContain("Next: npm run dev");
  });

  test("an unknown option is wrong use", async () => {
    const failure = await run(process.execPath, [START, "--fast"]).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 2, stderr: expect.stringContaining("--fast") });
  });

  test("--openai without a key says which variable is missing", async () => {
    const failure = await run(process.execPath, [START, "--openai"], {
      env: { PATH: process.env.PATH },
    }).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 1, stderr: expect.stringContaining("OPENAI_API_KEY is not set") });
  });
});
