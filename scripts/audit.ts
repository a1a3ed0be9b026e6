/**
 * `npm run audit`: asks the registry for known faults of the packages in the lockfile. Each must be mended or explained in audit-exceptions.json, until a day.
 * A registry that does not answer is said and is no failure, unless REQUIRE_AUDIT=1 asks for an answer.
 */
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Exceptions, judgeFindings, readFindings } from "./lib/audit.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const EXCEPTIONS = new URL("audit-exceptions.json", import.meta.url);
const LONGEST_MS = 60_000;

async function main(): Promise<number> {
  const exceptions = Exceptions.parse(JSON.parse(await readFile(EXCEPTIONS, "utf8")));
  const { stdout } = spawnSync("npm", ["audit", "--json"], {
    cwd: ROOT,
    encoding: "utf8",
    timeout: LONGEST_MS,
    stdio: ["ignore", "pipe", "ignore"],
  });
  const findings = readFindings(parse(stdout));
  if (findings === undefined) {
    console.error("not audited: the registry does not answer npm audit");
    return process.env.REQUIRE_AUDIT === "1" ? 1 : 0;
  }
  const problems = judgeFindings(findings, exceptions, new Date().toISOString().slice(0, 10));
  for (const problem of problems) console.error(`error: ${problem}`);
  if (problems.length === 0) console.log(`audited: ${findings.length} findings, all explained`);
  return problems.length === 0 ? 0 : 1;
}

function parse(text: string | null): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
}

process.exitCode = await main();
