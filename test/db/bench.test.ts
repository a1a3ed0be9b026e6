/** The benchmarks run and say what they measured. Whether a bar holds is for a quiet machine and the full size: never for a test. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { adminUrl, describePostgres } from "../support/postgres.ts";

const RUN = fileURLToPath(new URL("../../bench/run.ts", import.meta.url));
const RESULT = fileURLToPath(new URL("../../bench/results/ingest.json", import.meta.url));
const run = (...flags: string[]) =>
  promisify(execFile)(process.execPath, [RUN, ...flags], {
    env: { PATH: process.env.PATH, TEST_DATABASE_URL: adminUrl() },
  }).catch((error: { code: number; stdout: string; stderr: string }) => error);

describePostgres("npm run bench", () => {
  test("ingest, small, prints one object with its figures and bars", async () => {
    const { stdout } = await run("--only", "ingest", "--rows", "200", "--json");
    expect(JSON.parse(stdout)).toEqual({
      name: "ingest",
      server: expect.stringMatching(/^PostgreSQL 1\d/),
      rows: 200,
      figures: {
        bare_ms: expect.any(Number),
        one_version_ms: expect.any(Number),
        two_versions_ms: expect.any(Number),
      },
      bars: [
        { name: expect.any(String), value: expect.any(Number), bound: 1, holds: expect.any(Boolean) },
        { name: expect.any(String), value: expect.any(Number), bound: 1, holds: expect.any(Boolean) },
      ],
    });
  });

  test("without --json it says what each number means, and a small run leaves the results as they are", async () => {
    const written = await readFile(RESULT, "utf8");
    const { stdout } = await run("--only", "ingest", "--rows", "200");
    expect(stdout).toMatch(
      /^ingest, 200 rows, PostgreSQL 1\d.*\n {2}One insert of all rows.*\n {2}Texts of /,
    );
    expect(stdout).toMatch(
      /\n {2}bare_ms: [\d.]+ \([\d.]+ to [\d.]+\), the insert where nothing is registered\n/,
    );
    expect(stdout).toMatch(
      /\n {2}(holds|BROKEN): cost of the first version .* is .*, the bound is at most 1\n/,
    );
    expect(await readFile(RESULT, "utf8")).toBe(written);
  });

  test.each([
    ["backfill", "100", ["speed relative to a raw binary update"]],
    ["status", "1000", ["milliseconds that status takes"]],
    ["lag", "1000", ["ticks that 95 of 100 edits wait at most"]],
    ["memory", "1000", ["megabytes that the worker holds at most"]],
    [
      "interference",
      "2000",
      [
        "p95 of a search beside 500 rows a second, relative to alone",
        "p95 of a search beside a backfill flat out, relative to alone",
        "p95 of a one-row write beside a backfill flat out, relative to alone",
        "milliseconds of the longest one-row write",
      ],
    ],
    ["edge", "100", ["seconds of CPU for 100 rows", "seconds of CPU for the dearest request"]],
    ["move", "200", ["times as fast as index first, row by row"]],
    [
      "search",
      "200",
      [
        "time of the RPC in SQL over what is allowed: 1.15 times the query by hand, or 0.15 ms more, at its worst",
        "recall@10 of the RPC as it is, at its worst",
        "times as long as in a tenth of the rows, at its worst",
      ],
    ],
    [
      "recall",
      "200",
      [
        "recall@10 at the default, vector(1536)",
        "recall@10 at the default, halfvec(3072)",
        "the recommended ef_search, which the default reaches",
      ],
    ],
    [
      "storage",
      "200",
      ["vector(1536)", "halfvec(1536)", "halfvec(3072)"].flatMap((type) => [
        `how far the reckoning of a column of ${type} is off, as a share`,
        `how far the reckoning of the index of ${type} is off, as a share`,
      ]),
    ],
    [
      "hammer",
      "400",
      [
        "milliseconds that a cutover's locks last",
        "milliseconds that a rollback's locks last",
        "milliseconds from a rollback until the last reader has followed",
        "rows that were neither current nor queued, in all snapshots",
        "searches and writes that failed or were answered wrongly",
      ],
    ],
    [
      "filtered",
      "1000",
      [
        "rows that exist, were asked for and did not come",
        "least recall of any caller",
        ...["owner", "membership"].flatMap((policy) =>
          [3, 2, 100].map((rows) => `milliseconds of p95 of a caller who sees ${rows} rows by ${policy}`),
        ),
      ],
    ],
    ["concurrency", "1000", ["searches that failed", "rows that exist, were asked for and did not come"]],
    [
      "news",
      "400",
      [
        "milliseconds that status takes",
        "milliseconds that 95 of 100 searches of the old vectors take",
        "milliseconds that 95 of 100 searches of the new vectors take",
        "time of a search by similarity and age, relative to similarity alone",
      ],
    ],
    [
      "hybrid",
      "200",
      [
        "time of the hybrid search relative to the semantic one",
        "time of the search by meaning, words and spelling, for headwords as they stand or mistyped, relative to the semantic one",
      ],
    ],
    [
      "storm",
      "100",
      [
        "share of the allowed rate",
        "seconds after the storm until the allowed rate is caught up with",
        "share of the requests refused",
      ],
    ],
  ])(
    "%s, small, prints its figures and bars",
    async (name, rows, bars) => {
      const { stdout } = await run("--only", name, "--rows", rows, "--json");
      const outcome = JSON.parse(stdout);
      expect(outcome).toMatchObject({ name, rows: Number(rows) });
      expect(outcome.bars.map((bar: { name: string }) => bar.name)).toEqual(bars);
      for (const figure of Object.values(outcome.figures)) expect(figure).toEqual(expect.any(Number));
    },
    60_000,
  );

  test.each([
    ["an unknown name", ["--only", "speed"], "--only"],
    ["too few rows", ["--rows", "10"], "--rows"],
    ["rows that are no number", ["--rows", "many"], "--rows"],
    ["an unknown option", ["--fast"], "--fast"],
    ["a report of a run", ["--report", "--json"], "--report"],
  ])("%s is wrong use", async (_, flags, named) => {
    expect(await run(...flags)).toMatchObject({ code: 2, stderr: expect.stringContaining(named) });
  });
});
