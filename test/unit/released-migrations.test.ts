/** A migration that a released version has is not changed any more: a database that took it would never get the change. What has to change comes in a new one. */
import { readdir, readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { migrationHashes } from "../support/migration-hashes.ts";

const RELEASED = new URL("../upgrade/", import.meta.url);
const versions = (await readdir(RELEASED, { withFileTypes: true }))
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

test("there is a released version", () => {
  expect(versions).not.toEqual([]);
});

test.each(versions)("the migrations of %s are as they were released", async (version) => {
  const now = new Set((await migrationHashes()).split("\n"));
  const released = await readFile(new URL(`${version}/migrations.sha256`, RELEASED), "utf8");
  expect(released.split("\n").filter((line) => !now.has(line))).toEqual([]);
});
