/** Which hosts are this machine: what writes anywhere else asks first. */
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

/**
 * Refuses a database on another machine unless the caller allowed it.
 * @throws ReembedError `forbidden` naming the flag; `invalid_request` when this is no connection string. Neither shows a password.
 */
export function requireLoopback(databaseUrl: string, allowRemote: boolean): void {
  const url = URL.canParse(databaseUrl) ? new URL(databaseUrl) : undefined;
  if (!url || !["postgres:", "postgresql:"].includes(url.protocol)) {
    throw new ReembedError(
      "invalid_request",
      "the database url is not a connection string",
      "write it as postgresql://user:password@host:port/database",
    );
  }
  // libpq's `host` and `hostaddr` parameters override the host of the authority: look at all of them.
  const hosts = [url.hostname, ...url.searchParams.getAll("host"), ...url.searchParams.getAll("hostaddr")];
  const remote = hosts.find((host) => !isLoopback(host));
  if (remote === undefined || allowRemote) return;
  throw new ReembedError(
    "forbidden",
    `the database is on ${remote}, not on this machine`,
    "give --allow-remote when it is really that database you mean",
  );
}

function isLoopback(host: string): boolean {
  return (
    host === "" ||
    host === "localhost" ||
    host === "[::1]" ||
    host === "::1" ||
    host.startsWith("/") ||
    /^127\.\d+\.\d+\.\d+$/.test(host)
  );
}
