/**
 * Installing Reembed into a Supabase project that exists already: which files it needs, which of them are there, and which stand in the way.
 * Nothing is written before all of that is known.
 */
import { lstat, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { MIGRATIONS_DIRECTORY } from "./migrations.ts";

const SUPABASE = fileURLToPath(new URL("../../supabase/", import.meta.url));
const FUNCTIONS = ["search", "ask", "backfill", "ingest"] as const;

/** The migrations of this project's own tables; what is none of these is the core, which stands alone. */
const DOMAINS = ["course", "news", "bora", "artifacts", "products"];

/** A file to write; the path is relative to the project's folder `supabase`. */
interface NewFile {
  readonly path: string;
  readonly text: string;
}

export interface Installation {
  readonly project: string;
  readonly files: readonly NewFile[];
  /** How many files are there already as they should be. */
  readonly unchanged: number;
  /** Paths that are there and differ; with one of them nothing may be written. */
  readonly conflicts: readonly string[];
  /** The functions that config.toml does not declare yet. */
  readonly sections: readonly string[];
  /** Whether the project has migrations that are later than ours: `db push` then wants to be told. */
  readonly needsIncludeAll: boolean;
  /** config.toml as it will be. */
  readonly config: string;
}

/**
 * Looks at a project and tells what there is to do. Writes nothing.
 * @throws ReembedError `invalid_request` when the folder holds no supabase/config.toml
 */
export async function planInstallation(into: string): Promise<Installation> {
  const project = resolve(into);
  const root = join(project, "supabase");
  const config = await readText(join(root, "config.toml"));
  if (config === undefined) {
    throw new ReembedError(
      "invalid_request",
      `--into: ${project} holds no supabase/config.toml`,
      "Name the folder of a Supabase project; supabase init makes one.",
    );
  }
  if (root === resolve(SUPABASE)) {
    throw new ReembedError("invalid_request", "--into names this project itself", "Name another one.");
  }
  const migrations = await coreMigrations();
  const theirs = await readdir(join(root, "migrations")).catch(() => []);
  const files: NewFile[] = [];
  const conflicts: string[] = [];
  let unchanged = 0;
  for (const path of [...migrations.map((name) => `migrations/${name}`), ...(await functionFiles())]) {
    const text = await readFile(join(SUPABASE, path), "utf8");
    if (!(await isThere(join(root, path)))) files.push({ path, text });
    else if ((await readText(join(root, path))) === text) unchanged += 1;
    else conflicts.push(path);
  }
  // Another migration with the version of one of ours: the Supabase CLI would take one for the other.
  for (const name of theirs) {
    if (migrations.some((ours) => ours !== name && versionOf(ours) === versionOf(name)))
      conflicts.push(`migrations/${name}`);
  }
  const sections = FUNCTIONS.filter((name) => !declares(config, name));
  const ourConfig = await readFile(join(SUPABASE, "config.toml"), "utf8");
  const last = migrations.at(-1) ?? "";
  return {
    project,
    files,
    unchanged,
    conflicts,
    sections,
    needsIncludeAll: theirs.some((name) => /^\d+_.+\.sql$/.test(name) && versionOf(name) > versionOf(last)),
    config: [config.trimEnd(), ...sections.map((name) => sectionOf(ourConfig, name))]
      .join("\n\n")
      .concat("\n"),
  };
}

/** Writes what the plan says; when a write fails, what this call wrote is taken away again. */
export async function writeInstallation(plan: Installation): Promise<void> {
  const root = join(plan.project, "supabase");
  const written: string[] = [];
  try {
    for (const { path, text } of plan.files) {
      const file = join(root, path);
      await mkdir(dirname(file), { recursive: true });
      written.push(file);
      // Exclusively: a file that has appeared since the plan was made is not overwritten.
      await writeFile(file, text, { flag: "wx" }).catch((error: unknown) => {
        if (error instanceof Error && "code" in error && error.code === "EEXIST") written.pop();
        throw error;
      });
    }
    if (plan.sections.length > 0) await writeFile(join(root, "config.toml"), plan.config);
  } catch (error) {
    await Promise.all(written.map((file) => rm(file, { force: true })));
    throw new ReembedError(
      "refused",
      `the files could not be written: ${error instanceof Error ? error.message : "unknown reason"}`,
      "Nothing was left behind; mend the cause and run it again.",
    );
  }
}

async function coreMigrations(): Promise<string[]> {
  const domain = new RegExp(`^\\d+_(${DOMAINS.join("|")})\\.sql$`);
  const names = await readdir(MIGRATIONS_DIRECTORY);
  return names.filter((name) => /^\d+_.+\.sql$/.test(name) && !domain.test(name)).sort();
}

async function functionFiles(): Promise<string[]> {
  const folders = await Promise.all(
    ["_shared", ...FUNCTIONS].map(async (folder) => {
      const entries = await readdir(join(SUPABASE, "functions", folder), {
        recursive: true,
        withFileTypes: true,
      });
      return entries
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => join(parentPath, name).slice(SUPABASE.length));
    }),
  );
  return ["functions/deno.json", ...folders.flat().sort()];
}

const versionOf = (migration: string): string => migration.split("_", 1)[0] ?? "";

function declares(config: string, name: string): boolean {
  return new RegExp(`^\\s*\\[\\s*functions\\s*\\.\\s*"?${name}"?\\s*\\]`, "m").test(config);
}

/** A function's section as it stands in our config.toml, with the comment above it. */
function sectionOf(config: string, name: string): string {
  const lines = config.split("\n");
  const heading = lines.indexOf(`[functions.${name}]`);
  if (heading < 0) throw new Error(`supabase/config.toml has no [functions.${name}]`);
  let first = heading;
  while (lines[first - 1]?.startsWith("#")) first -= 1;
  const end = lines.findIndex((line, index) => index > heading && line.trim() === "");
  return lines
    .slice(first, end < 0 ? undefined : end)
    .join("\n")
    .trimEnd();
}

async function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

/** The file's text, or undefined where there is none that can be read. */
async function readText(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}
