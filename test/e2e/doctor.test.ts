/** `reembed doctor` as a person and a program call it, on PGlite, where some of what it looks at is not there. */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { RULES } from "../../scripts/lib/doctor/examine.ts";
import { type Stack, startStack } from "../../scripts/stack/index.ts";
import { runCli, runJson } from "../support/cli.ts";
import { NO_TICK_MS } from "../support/stack.ts";

let stack: Stack;
let client: Client;

beforeAll(async () => {
  stack = await startStack({ port: 0, database: "memory", tickMs: NO_TICK_MS, onLog: () => {} });
  client = new Client(stack.databaseUrl);
  await client.connect();
});
afterAll(async () => {
  await client?.end();
  await stack?.stop();
});

const ARGS = () => ["doctor", "--db-url", stack.databaseUrl, "--project", "/"];

test("where all is well it ends with 0, and says what it could not check and why", async () => {
  const { code, answer } = await runJson([...ARGS(), "--no-provider"]);
  expect({ code, answer }).toMatchObject({ code: 0, answer: { errors: 0, rules: RULES.length } });
  expect(answer.skipped).toMatchObject([
    { number: 10, rule: "schedule", reason: "pg_cron is not installed here" },
    { rule: "poke-answers" },
    { rule: "secrets-in-cron" },
    { rule: "secrets-in-files" },
    { rule: "provider", reason: "--no-provider" },
    { rule: "drift" },
  ]);
});

test("an error makes it end with 1; each finding has its rule, what it is about and what to do", async () => {
  await client.query(
    "select reembed.pause_space(v.space_id, 'the bill') from reembed.version_numbered('course_content', 1) v",
  );
  const { code, stdout } = await runCli([...ARGS(), "--no-provider"]);
  expect(code).toBe(1);
  expect(stdout).toMatch(
    /^error 15 paused-spaces: \S+: it is paused: the bill; \d+ jobs wait\n {2}fix: .*reembed\.resume_space\(/m,
  );
  expect(stdout).toMatch(/\d+ rules: 1 error, \d+ warnings?, 6 not checked\n$/);
  await client.query(
    "select reembed.resume_space(v.space_id) from reembed.version_numbered('course_content', 1) v",
  );
});

test("a switch that contradicts the database is an error; a provider without a key is none", async () => {
  const { code, answer } = await runJson(ARGS(), { USE_VECTOR_1536: "true" });
  expect(code).toBe(1);
  expect(answer.findings).toMatchObject(
    expect.arrayContaining([
      expect.objectContaining({ rule: "environment", level: "error", object: "USE_VECTOR_1536" }),
      expect.objectContaining({ rule: "provider", level: "info" }),
    ]),
  );
});

test("docs/doctor.md has a section for each rule, by its number and name, and no other", () => {
  const read = (name: string) => readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");
  const text = read("doctor.md");
  const sections = [...text.matchAll(/^### (\d+) ([a-z-]+)$/gm)].map(([, number, name]) => [
    Number(number),
    name,
  ]);
  expect(sections).toEqual(RULES.map(({ number, name }) => [number, name]));
  expect(read("operations.md")).toContain(`goes through ${RULES.length} rules`);
});
