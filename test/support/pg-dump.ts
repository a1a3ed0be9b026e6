/** A database as text, by the pg_dump that came with the server. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { withClient } from "../../scripts/lib/test-server.ts";

const ROOT = `${process.env.REEMBED_POSTGRES_HOME ?? "/var/lib/reembed/postgres-17"}/root`;
const OWN = "/usr/lib/postgresql/17/bin/pg_dump";

/** How `npm run postgres` installed it: with the system, or in a root of its own, which only root may enter; else the one on the PATH. */
function command(): readonly [program: string, ...args: string[]] {
  if (existsSync(OWN)) return [OWN];
  if (existsSync(`${ROOT}${OWN}`)) return ["chroot", ROOT, OWN];
  return ["pg_dump"];
}

async function dump(url: string, ...options: readonly string[]): Promise<string> {
  const [program, ...args] = command();
  const { stdout } = await promisify(execFile)(
    program,
    [...args, ...options, "--restrict-key=reembed", url],
    {
      maxBuffer: 64 * 1024 * 1024,
    },
  );
  return stdout;
}

/** `pg_dump --schema-only`, the same text for the same schema. */
export const schemaDump = (url: string): Promise<string> => dump(url, "--schema-only");

/** What the migrations made and the rows in it, as SQL that any client can run in a database as a new Supabase project has it. */
export async function projectDump(url: string): Promise<string> {
  const text = await dump(
    url,
    "--exclude-schema=auth",
    "--exclude-schema=extensions",
    "--exclude-extension=*",
    "--no-publications",
    "--inserts",
    "--rows-per-insert=50",
  );
  // Those that a project has from the beginning are not its owner's.
  const { rows } = await withClient(url, (client) =>
    client.query<{ statement: string }>(
      `select format('create extension if not exists %I with schema %I;', e.extname, n.nspname) as statement
         from pg_extension e join pg_namespace n on n.oid = e.extnamespace where pg_get_userbyid(e.extowner) = current_user order by 1`,
    ),
  );
  // Without what psql alone understands.
  return [...rows.map(({ statement }) => statement), text.replace(/^\\.*\n/gm, "")].join("\n");
}
