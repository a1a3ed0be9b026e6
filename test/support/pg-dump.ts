/** A database's schema as text, by the pg_dump that came with the server. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";

const ROOT = `${process.env.REEMBED_POSTGRES_HOME ?? "/var/lib/reembed/postgres-17"}/root`;
const OWN = "/usr/lib/postgresql/17/bin/pg_dump";

/** How `npm run postgres` installed it: with the system, or in a root of its own, which only root may enter; else the one on the PATH. */
function command(): readonly [program: string, ...args: string[]] {
  if (existsSync(OWN)) return [OWN];
  if (existsSync(`${ROOT}${OWN}`)) return ["chroot", ROOT, OWN];
  return ["pg_dump"];
}

/** `pg_dump --schema-only`, the same text for the same schema. */
export async function schemaDump(url: string): Promise<string> {
  const [program, ...args] = command();
  const { stdout } = await promisify(execFile)(
    program,
    [...args, "--schema-only", "--restrict-key=reembed", url],
    { maxBuffer: 64 * 1024 * 1024 },
  );
  return stdout;
}
