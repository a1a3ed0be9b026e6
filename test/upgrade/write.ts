/**
 * `npm run upgrade:dump -- <version>`: writes test/upgrade/<version>/dump.sql, a database of today's migrations with a move under way, and the hashes of these
 * migrations. Run once for each version that is released: test/db/upgrade.test.ts then upgrades it to whatever comes later, and test/unit/released-migrations.test.ts
 * holds its migrations unchanged. Neither is ever written anew.
 */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { MIGRATIONS_DIRECTORY } from "../../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, findServer } from "../../scripts/lib/test-server.ts";
import { migrationHashes } from "../support/migration-hashes.ts";
import { projectDump } from "../support/pg-dump.ts";
import { beginMove } from "../support/upgrade.ts";

const [version = ""] = process.argv.slice(2);

async function main(): Promise<number> {
  if (!/^\d+\.\d+\.\d+$/.test(version)) {
    console.error("error: which version?\nnpm run upgrade:dump -- 1.2.3");
    return 2;
  }
  const file = new URL(`${version}/dump.sql`, import.meta.url);
  if (existsSync(file)) {
    console.error(`error: ${version} has its dump: it is what that version was, and stays`);
    return 1;
  }
  const server = await findServer(process.env);
  if (server === null) {
    console.error("error: a dump needs PostgreSQL\nhint: npm run postgres starts one");
    return 1;
  }
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    const url = databaseUrl(server, name, "postgres");
    await beginMove(url);
    await mkdir(new URL(".", file), { recursive: true });
    await writeFile(file, await projectDump(url));
    await writeFile(new URL("migrations.sha256", file), await migrationHashes());
  } finally {
    await dropDatabase(server, name);
  }
  console.log(`wrote test/upgrade/${version}/dump.sql and migrations.sha256`);
  return 0;
}

process.exitCode = await main();
