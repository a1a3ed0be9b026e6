/** The figures of the documents are those of the results, which `npm run bench` writes. */
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { reportFiles } from "../../bench/report.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

test("the tables and pictures are what the results give; else run: npm run bench -- --report", async () => {
  for (const [path, text] of await reportFiles()) {
    expect(readFileSync(path, "utf8"), relative(ROOT, path)).toBe(text);
  }
});

test("README.md quotes no figure of speed, size or cost but those of the results", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8")
    .replace(/<!-- written by npm run bench[\s\S]*?<!-- until here -->/, "")
    // What commands print.
    .replace(/^```[\s\S]*?^```/gm, "");
  expect(
    readme.match(
      /\d[\d.,]*\s*(ms|milliseconds|seconds?|minutes?|MB|GB|kB|bytes|rows? a second|times|%)(?!\w)/g,
    ),
  ).toBeNull();
});
