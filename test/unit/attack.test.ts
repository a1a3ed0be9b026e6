/** The attacks' table: their files are there, their time adds up, and a seed and a length become their settings. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { ATTACKS, countsIn, planAttacks } from "../attack/attacks.ts";

const at = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

describe("npm run attack", () => {
  test.each(ATTACKS)(
    "$name names tests that are there, and settings that they know",
    ({ files, share, script, settings }) => {
      for (const file of files) expect(existsSync(at(file))).toBe(true);
      if (script !== undefined) expect(existsSync(at(`scripts/${script}`))).toBe(true);
      const known = readFileSync(at(".env.example"), "utf8");
      for (const [name, value] of Object.entries(settings(30, 7))) {
        expect(known).toContain(`# ${name}=`);
        expect(Number.isInteger(value) && value > 0).toBe(true);
      }
      // What is given time chooses at random, and can be repeated.
      if (share > 0) expect(Object.values(settings(30, 7))).toContain(7);
    },
  );

  test("leaves no test out that takes a seed, and none of the doors", () => {
    const tests = readdirSync(at("test"), { recursive: true, encoding: "utf8" })
      .map((file) => `test/${file}`)
      .filter((file) => file.endsWith(".test.ts"));
    const attacked = (file: string) =>
      ATTACKS.some(({ files }) => files.some((part) => file.startsWith(part)));
    const seeded = tests.filter((file) =>
      /support\/(seed|properties)\.ts"/.test(readFileSync(at(file), "utf8")),
    );
    expect(seeded.length).toBeGreaterThan(10);
    expect(seeded.filter((file) => !attacked(file))).toEqual([]);
    expect(ATTACKS.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["privileges", "tenants", "injection", "upgrade", "dependencies"]),
    );
  });

  test("shares its time out: all of it, or all to one", () => {
    const sum = planAttacks(10).reduce((total, { seconds }) => total + seconds, 0);
    expect(sum).toBeCloseTo(600);
    expect(planAttacks(10, "mix").map(({ attack, seconds }) => [attack.name, seconds])).toEqual([
      ["mix", 600],
    ]);
  });

  test.each([
    [["--only", "nobody"], "no attack is called nobody"],
    [["--minutes", "0"], "--minutes must be a number from 0.1 to 1440"],
    [["--seed", "x"], "--seed must be a whole number"],
    [["--fast"], "--fast"],
  ])("%j is wrong use, which names the option and ends with 2", (args, said) => {
    const { status, stderr } = spawnSync(process.execPath, [at("test/attack/run.ts"), ...args], {
      encoding: "utf8",
    });
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining(said) });
  });

  test("believes a run by its last line alone", () => {
    expect(countsIn("3 passed, 0 failed, 0 skipped\n2 passed, 1 failed, 4 skipped\n")).toEqual({
      passed: 2,
      failed: 1,
    });
    expect(countsIn("1 passed, 0 failed, 0 skipped\nkilled\n")).toBeUndefined();
    expect(countsIn("")).toBeUndefined();
  });
});
