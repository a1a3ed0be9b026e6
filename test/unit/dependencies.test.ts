/** Every version is exact and the same everywhere, and a known fault of a package is mended or explained until a day. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import lock from "../../package-lock.json" with { type: "json" };
import exceptions from "../../scripts/audit-exceptions.json" with { type: "json" };
import { type Exception, Exceptions, judgeFindings, readFindings } from "../../scripts/lib/audit.ts";

const declared: Readonly<Record<string, string>> = {
  ...packageJson.dependencies,
  ...packageJson.devDependencies,
};

describe("versions", () => {
  test.each(Object.entries(declared))("%s is exact, and the lockfile's", (name, version) => {
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
    const packages: Readonly<Record<string, { version?: string }>> = lock.packages;
    expect(packages[`node_modules/${name}`]?.version).toBe(version);
  });

  test("the lockfile was made from this package.json", () => {
    const root = lock.packages[""];
    expect({ ...root.dependencies, ...root.devDependencies }).toEqual(declared);
  });

  test("the edge functions import what npm installs, no other version", () => {
    const { imports }: { imports: Record<string, string> } = JSON.parse(
      readFileSync(new URL("../../supabase/functions/deno.json", import.meta.url), "utf8"),
    );
    for (const [name, specifier] of Object.entries(imports)) {
      const [, imported, version] =
        /^npm:((?:@[\w-]+\/)?[\w.-]+)@(\d+\.\d+\.\d+)(?:\/|$)/.exec(specifier) ?? [];
      expect({ name, imported, version }).toEqual({
        name,
        imported: expect.stringMatching(/./),
        version: declared[imported ?? ""],
      });
    }
  });
});

describe("npm run audit", () => {
  const report = {
    vulnerabilities: {
      broken: {
        via: [
          { url: "https://github.com/advisories/GHSA-aaaa-bbbb-cccc", title: "Breaks", severity: "high" },
        ],
      },
      user: { via: ["broken"] },
    },
  };
  const explained: Exception = {
    advisory: "GHSA-aaaa-bbbb-cccc",
    package: "broken",
    reason: "It is used by a test alone, on texts of ours.",
    expires: "2027-01-01",
  };

  test("counts a fault once, where it is, and takes what is no report for no answer", () => {
    expect(readFindings(report)).toEqual([
      { advisory: "GHSA-aaaa-bbbb-cccc", package: "broken", severity: "high", title: "Breaks" },
    ]);
    expect(readFindings({ vulnerabilities: {} })).toEqual([]);
    for (const answer of [undefined, {}, { message: "405 Method Not Allowed", error: { summary: "" } }])
      expect(readFindings(answer)).toBeUndefined();
  });

  test("refuses a finding that nobody has explained, an explanation that ran out, and one of nothing", () => {
    const findings = readFindings(report) ?? [];
    expect(judgeFindings(findings, [explained], "2026-12-31")).toEqual([]);
    expect(judgeFindings(findings, [], "2026-12-31")).toEqual([expect.stringContaining("explain it")]);
    expect(judgeFindings(findings, [explained], "2027-01-01")).toEqual([
      expect.stringContaining("ran out on 2027-01-01"),
    ]);
    expect(judgeFindings([], [explained], "2026-12-31")).toEqual([
      expect.stringContaining("not found any more"),
    ]);
  });

  test("the explanations have a reason and a day", () => {
    expect(Exceptions.safeParse(exceptions).success).toBe(true);
    expect(Exceptions.safeParse([{ ...explained, reason: "fine" }]).success).toBe(false);
    expect(Exceptions.safeParse([{ ...explained, expires: "never" }]).success).toBe(false);
  });
});
