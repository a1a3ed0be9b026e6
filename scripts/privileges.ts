/**
 * `npm run privileges [-- --write]`: compares docs/privileges.md with what the migrations and the functions make, under both default privileges,
 * or writes it. Needs the PostgreSQL of `npm run postgres`. Exit code 1 where they differ.
 */
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { MIGRATIONS_DIRECTORY } from "./lib/migrations.ts";
import { readPrivileges, readStrays } from "./lib/privileges/catalogue.ts";
import { privilegesDocument } from "./lib/privileges/document.ts";
import { readFunctionKeys } from "./lib/privileges/edge.ts";
import {
  cloneDatabase,
  type Defaults,
  databaseUrl,
  dropDatabase,
  findServer,
  withClient,
} from "./lib/test-server.ts";

const DOCUMENT = new URL("../docs/privileges.md", import.meta.url);

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { write: { type: "boolean", default: false } } });
  const server = await findServer(process.env);
  if (server === null) {
    console.error("error: the privileges are read from a PostgreSQL\nhint: npm run postgres starts one");
    return 1;
  }
  const functions = await readFunctionKeys();
  let strays: string[] = [];
  const documentUnder = async (defaults: Defaults) => {
    const name = await cloneDatabase(server, { defaults, migrations: MIGRATIONS_DIRECTORY });
    try {
      const url = databaseUrl(server, name, "postgres");
      strays = await withClient(url, readStrays);
      return privilegesDocument(await withClient(url, readPrivileges), functions);
    } finally {
      await dropDatabase(server, name);
    }
  };
  const [underOld, underNew] = [await documentUnder("old"), await documentUnder("new")];
  if (underOld !== underNew) {
    console.error("error: the two default privileges do not lead to the same rights:");
    printDifference(underNew, underOld);
    console.error("hint: revoke all from public, anon, authenticated and service_role before you grant");
    return 1;
  }
  if (strays.length > 0) {
    console.error(`error: made outside the schemas public and reembed: ${strays.join(", ")}`);
    console.error("hint: make it in reembed, or in public where a client calls it");
    return 1;
  }
  if (values.write) {
    await writeFile(DOCUMENT, underNew);
    console.log("wrote docs/privileges.md");
    return 0;
  }
  const written = await readFile(DOCUMENT, "utf8");
  if (written === underNew) {
    console.log("docs/privileges.md says what is");
    return 0;
  }
  console.error("error: docs/privileges.md does not say what is:");
  printDifference(written, underNew);
  console.error("hint: where the change is meant, npm run privileges -- --write");
  return 1;
}

function printDifference(before: string, after: string): void {
  const [old, now] = [before.split("\n"), after.split("\n")];
  for (const line of old.filter((text) => !now.includes(text))) console.error(`- ${line}`);
  for (const line of now.filter((text) => !old.includes(text))) console.error(`+ ${line}`);
}

process.exitCode = await main();
