/**
 * Checks what `supabase functions deploy` finds out only when it is too late: every folder of `supabase/functions` is declared in
 * config.toml and every declared function is there, with its entry point and import map; then `deno check` of every entry point.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SUPABASE_DIRECTORY = fileURLToPath(new URL("../supabase/", import.meta.url));

export interface DeclaredFunction {
  readonly name: string;
  /** The keys of its section as they stand: `verify_jwt`, `import_map`, `entrypoint`. */
  readonly settings: ReadonlyMap<string, string>;
}

/** Reads the sections `[functions.<name>]` of a config.toml, whose values are plain strings and booleans. */
export function readDeclaredFunctions(toml: string): DeclaredFunction[] {
  const declared: { name: string; settings: Map<string, string> }[] = [];
  let current: Map<string, string> | undefined;
  for (const line of toml.split("\n")) {
    const section = /^\s*\[([^\]]+)\]/.exec(line)?.[1];
    if (section !== undefined) {
      const name = /^functions\.([\w-]+)$/.exec(section)?.[1];
      current = name === undefined ? undefined : new Map();
      if (name !== undefined && current !== undefined) declared.push({ name, settings: current });
    }
    const [, key, value] = /^\s*(\w+)\s*=\s*(?:"([^"]*)"|\w+)/.exec(line) ?? [];
    if (key !== undefined) current?.set(key, value ?? line.split("=")[1]?.trim() ?? "");
  }
  return declared;
}

/** What is wrong between the declarations and the folders; `exists` takes a path as config.toml writes it. */
export function findMismatches(
  declared: readonly DeclaredFunction[],
  folders: readonly string[],
  exists: (path: string) => boolean,
): string[] {
  const names = new Set(declared.map((one) => one.name));
  const problems = folders
    .filter((folder) => !names.has(folder))
    .map((folder) => `functions/${folder} is not declared in config.toml`);
  for (const { name, settings } of declared) {
    if (!folders.includes(name))
      problems.push(`[functions.${name}] is declared and functions/${name} is missing`);
    if (!settings.has("verify_jwt")) problems.push(`[functions.${name}] must say verify_jwt`);
    for (const key of ["entrypoint", "import_map"]) {
      const path = settings.get(key);
      if (path === undefined) problems.push(`[functions.${name}] must say ${key}`);
      else if (!exists(path)) problems.push(`[functions.${name}] ${key} names ${path}, which is missing`);
    }
  }
  return problems;
}

if (import.meta.main) {
  const toml = await readFile(`${SUPABASE_DIRECTORY}config.toml`, "utf8");
  const declared = readDeclaredFunctions(toml);
  const entries = await readdir(`${SUPABASE_DIRECTORY}functions`, { withFileTypes: true });
  const folders = entries
    .filter((entry) => entry.isDirectory() && !/^[_.]/.test(entry.name))
    .map((entry) => entry.name);
  const at = (path: string) => resolve(SUPABASE_DIRECTORY, path);

  const problems = findMismatches(declared, folders, (path) => existsSync(at(path)));
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exit(1);

  // On the command line and not in deno.json, which is deployed: locally Deno takes the packages that npm installed. Read as an import map alone, it leaves
  // package.json to be found, which has the types of Node's modules.
  const options = [
    "check",
    "--no-lock",
    "--node-modules-dir=manual",
    "--no-config",
    `--import-map=${at("functions/deno.json")}`,
  ];
  const entrypoints = declared.map(({ settings }) => at(settings.get("entrypoint") ?? ""));
  const deno = fileURLToPath(new URL("../node_modules/.bin/deno", import.meta.url));
  process.exit(spawnSync(deno, [...options, ...entrypoints], { stdio: "inherit" }).status ?? 1);
}
