/** What the migrations are, to hold them unchanged once a version with them is released. */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { MIGRATIONS_DIRECTORY } from "../../scripts/lib/migrations.ts";

/** A line for each migration, in their order: its SHA-256, two blanks, its file's name, as `sha256sum` writes and checks them. */
export async function migrationHashes(): Promise<string> {
  const names = (await readdir(MIGRATIONS_DIRECTORY)).filter((name) => name.endsWith(".sql")).sort();
  const lines = names.map(async (name) => {
    const hash = createHash("sha256").update(await readFile(join(MIGRATIONS_DIRECTORY, name)));
    return `${hash.digest("hex")}  ${name}\n`;
  });
  return (await Promise.all(lines)).join("");
}
