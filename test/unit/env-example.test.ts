/** .env.example names each environment variable that the code reads, and no other. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const FOLDERS = ["bench", "scripts", "supabase/functions", "test"];

/** What the system, npm and bash set themselves: nobody fills it in. */
const SET_BY_OTHERS = new Set(["PATH", "HOME", "npm_config_json", "EUID", "BASH_SOURCE", "ID", "CI"]);

const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

function sources(extension: string): string[] {
  return FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(extension))
      .map((name) => join(folder, name)),
  );
}

const firstGroups = (text: string, pattern: RegExp): string[] =>
  [...text.matchAll(pattern)].map(([, found = ""]) => found);

/** By property of an object called env, by name, by destructuring, or declared as the functions' environment or as a switch. */
function readByTypeScript(path: string): string[] {
  const text = read(path);
  const destructured = firstGroups(text, /\{([^{}]*)\}(?: = process\.env|: Environment)\b/g);
  return [
    ...firstGroups(text, /\benv\.([A-Za-z]+_\w+|[A-Z]+)\b/g),
    ...firstGroups(text, /\benv(?:\.get\(|\[)["'](\w+)["']/g),
    ...firstGroups(text, /\bseedFrom\("(\w+)"\)/g),
    ...destructured.flatMap((list) => list.split(",").map((name) => name.split(":", 1)[0]?.trim() ?? "")),
    ...(/_shared\/(env|switches)\.ts$/.test(path) ? firstGroups(text, /^ {2}([A-Z][A-Z0-9_]+):/gm) : []),
  ];
}

/** What a script expands and does not assign. */
function readByBash(path: string): string[] {
  const text = read(path).replace(/#.*$/gm, "");
  const assigned = new Set(firstGroups(text, /\b([A-Z][A-Z_]*)=/g));
  return firstGroups(text, /\$\{?([A-Z][A-Z_]+)/g).filter((name) => !assigned.has(name));
}

test(".env.example names every variable that is read, and no other", () => {
  const found = [
    ...sources(".ts").flatMap(readByTypeScript),
    ...[...sources(".sh"), ".ci/run"].flatMap(readByBash),
  ];
  const used = new Set(found.filter((name) => name !== "" && !SET_BY_OTHERS.has(name)));
  const named = firstGroups(read(".env.example"), /^# ([A-Z][A-Z0-9_]+)=/gm);
  expect(named.toSorted()).toEqual([...used].sort());
});

test(".env.example says in one line above each variable what it is for, and sets none", () => {
  const lines = read(".env.example").split("\n");
  for (const [index, line] of lines.entries()) {
    if (/^# [A-Z0-9_]+=/.test(line)) expect(lines[index - 1]).toMatch(/^# [A-Z0-9].{20,}[.)]$/);
  }
  expect(lines.filter((line) => line !== "" && !line.startsWith("#"))).toEqual([]);
});
