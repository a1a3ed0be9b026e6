/** On what a measurement ran: two figures are compared only where this is alike. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { z } from "zod";
import { withClient } from "../scripts/lib/test-server.ts";

export const machineSchema = z.object({
  cpu: z.string(),
  cores: z.number(),
  memory_gb: z.number(),
  node: z.string(),
  pgvector: z.string(),
  settings: z.record(z.string(), z.string()),
});

export type Machine = z.infer<typeof machineSchema>;

/** Of the server, before a benchmark changes its own sessions. */
const SETTINGS = [
  "shared_buffers",
  "effective_cache_size",
  "work_mem",
  "maintenance_work_mem",
  "max_parallel_maintenance_workers",
  "fsync",
  "synchronous_commit",
  "full_page_writes",
  "wal_level",
];

/**
 * The server's name and version, and the machine, which both run on.
 * @param url of a superuser
 */
export function describeMachine(url: string): Promise<{ server: string; machine: Machine }> {
  return withClient(url, async (client) => {
    const { rows } = await client.query<{ version: string; build: string; pgvector: string }>(
      `select current_setting('server_version') as version, version() as build,
              (select default_version from pg_available_extensions where name = 'vector') as pgvector`,
    );
    const { rows: settings } = await client.query<{ name: string; value: string }>(
      "select name, current_setting(name) as value from unnest($1::text[]) name",
      [SETTINGS],
    );
    const { version = "", build = "", pgvector = "" } = rows[0] ?? {};
    return {
      server: serverName(version, build),
      machine: {
        cpu: cpus()[0]?.model.trim() ?? "",
        cores: availableParallelism(),
        memory_gb: Math.round(totalmem() / 1e9),
        node: process.versions.node,
        pgvector,
        settings: Object.fromEntries(settings.map(({ name, value }) => [name, value])),
      },
    };
  });
}

/** PGlite calls itself PostgreSQL; what compiled it tells. */
function serverName(version: string, build: string): string {
  return build.includes("emcc") ? `PGlite (PostgreSQL ${version})` : `PostgreSQL ${version.split(" ", 1)[0]}`;
}
