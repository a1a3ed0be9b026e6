/** Where the files of an added table go, and how they come there: all of them or none, and none over another. */
import { link, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";

/** Paths relative to the project's folder. The way back stands beside the migrations, which the Supabase CLI would apply. */
export interface AddedFiles {
  readonly migration: string;
  readonly test: string;
  readonly down: string;
}

/**
 * Names the files so that the migration comes after every other one of the project.
 * @param project the folder that holds supabase/
 * @throws ReembedError `invalid_request` when it holds no supabase/config.toml and no supabase/migrations
 */
export async function nameFiles(project: string, collection: string, now: Date): Promise<AddedFiles> {
  const version = await nextVersion(project, now);
  return {
    migration: `supabase/migrations/${version}_add_${collection}.sql`,
    test: `supabase/tests/${collection}.test.sql`,
    down: `supabase/down/${version}_add_${collection}.sql`,
  };
}

/**
 * The number of a migration that comes after every other one of the project.
 * @param project the folder that holds supabase/
 * @throws ReembedError `invalid_request` when it holds no supabase/config.toml and no supabase/migrations
 */
export async function nextVersion(project: string, now: Date): Promise<string> {
  const root = join(resolve(project), "supabase");
  const migrations = await readdir(join(root, "migrations")).catch(() => undefined);
  const configured = await readFile(join(root, "config.toml")).then(
    () => true,
    () => false,
  );
  if (migrations === undefined && !configured) {
    throw new ReembedError(
      "invalid_request",
      `--project: ${resolve(project)} holds no supabase/config.toml`,
      "Name the folder of a Supabase project; supabase init makes one.",
    );
  }
  const last = (migrations ?? [])
    .map((name) => /^(\d{1,18})_.+\.sql$/.exec(name)?.[1] ?? "")
    .reduce((latest, version) => (BigInt(version || 0) > BigInt(latest || 0) ? version : latest), "");
  return versionAfter(last, now);
}

/** The path of the project's migration with this name, whatever its number; undefined where there is none. */
export async function findMigration(project: string, name: string): Promise<string | undefined> {
  const folder = "supabase/migrations";
  const names = await readdir(join(resolve(project), folder)).catch(() => []);
  const found = names.find((file) => /^\d+_/.test(file) && file.replace(/^\d+_/, "") === name);
  return found && `${folder}/${found}`;
}

/** The time as migrations write it, or the number after the last one where that is later. */
function versionAfter(last: string, now: Date): string {
  const stamp = now.toISOString().replace(/\D/g, "").slice(0, 14);
  return BigInt(stamp) > BigInt(last || 0) ? stamp : String(BigInt(last) + 1n);
}

/** @throws ReembedError `refused` when one of them is there already or cannot be written; nothing is left behind then. */
export async function writeFiles(
  project: string,
  files: readonly { readonly path: string; readonly text: string }[],
): Promise<void> {
  const written: string[] = [];
  const drafts: string[] = [];
  try {
    for (const { path, text } of files) {
      const draft = draftOf(join(resolve(project), path));
      await mkdir(dirname(draft), { recursive: true });
      drafts.push(draft);
      await writeFile(draft, text);
    }
    // Whole or not at all, also when this process is killed meanwhile: a link takes no other file's place.
    for (const { path } of files) {
      const file = join(resolve(project), path);
      await link(draftOf(file), file);
      written.push(file);
    }
  } catch (error) {
    await Promise.all(written.map((file) => rm(file, { force: true })));
    const there = error instanceof Error && "code" in error && error.code === "EEXIST" && "path" in error;
    throw new ReembedError(
      "refused",
      there
        ? `${String("dest" in error ? error.dest : error.path)} is there already`
        : "the files could not be written",
      there
        ? "Move or remove it, or choose another --name."
        : "See that the project's folder is yours to write to.",
      { cause: error },
    );
  } finally {
    await Promise.all(drafts.map((draft) => rm(draft, { force: true })));
  }
}

/** The Supabase CLI takes it for no migration. */
const draftOf = (file: string): string => join(dirname(file), `.${basename(file)}.draft`);
