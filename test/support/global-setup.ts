/** Looks once for the PostgreSQL that tests run on and tells all workers. */
import type { TestProject } from "vitest/node";
import { findServer, sweepOldDatabases } from "../../scripts/lib/test-server.ts";
import type {} from "./postgres.ts";

export default async function setup(project: TestProject): Promise<void> {
  const adminUrl = await findServer(process.env);
  if (adminUrl !== null) await sweepOldDatabases(adminUrl);
  project.provide("postgresAdminUrl", adminUrl);
}
