/** Keys in environment files that git tracks: whoever clones the repository has them, and its history keeps them. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { type Finding, type Rule, SECRET } from "./rule.ts";

const run = promisify(execFile);

/** `.env`, `.env.local`, `production.env`. */
const ENVIRONMENT_FILE = /^\.env(\..+)?$|\.env$/;
const TEMPLATE = /\.(example|sample|template|dist)$/;

export const secretsInFiles: Rule = {
  number: 25,
  name: "secrets-in-files",
  async check({ project }) {
    let tracked: readonly string[];
    try {
      const { stdout } = await run("git", ["-C", project, "ls-files", "-z"], { maxBuffer: 64 * 1_048_576 });
      tracked = stdout.split("\0").filter((path) => path !== "");
    } catch {
      return { skipped: `${project} is not in a git repository, or there is no git` };
    }
    const findings = await Promise.all(
      tracked.filter((path) => ENVIRONMENT_FILE.test(basename(path))).map((path) => look(project, path)),
    );
    return findings.flat();
  },
};

async function look(project: string, path: string): Promise<Finding[]> {
  const text = await readFile(join(project, path), "utf8").catch(() => undefined);
  if (text === undefined) return [];
  const untrack = `git rm --cached ${JSON.stringify(path)} and add it to .gitignore`;
  if (new RegExp(SECRET).test(text)) {
    const fix = `Make a new key, since the history keeps this one; ${TEMPLATE.test(path) ? "take it out of the file" : untrack}.`;
    return [{ level: "error", object: path, message: "git tracks it, and it holds a key", fix }];
  }
  if (TEMPLATE.test(path)) return [];
  return [
    { level: "warning", object: path, message: "git tracks this environment file", fix: `${untrack}.` },
  ];
}
