/**
 * The one way in which this code talks to the database: named functions of the schema public with named arguments.
 * Over the API it is PostgREST's /rpc (here), in the CLI a statement on a connection (`scripts/lib/connection.ts`).
 */
import type { SupabaseClient } from "@supabase/supabase-js";
import { type ErrorCode, ReembedError } from "./errors.ts";

/** Calls a database function with named arguments and returns its value. Throws ReembedError. */
export type Rpc = (name: string, args: Readonly<Record<string, unknown>>) => Promise<unknown>;

/** What PostgreSQL and PostgREST tell about an error. */
export interface DatabaseFault {
  readonly code?: string | undefined;
  readonly message: string;
  readonly hint?: string | null | undefined;
}

/** This project's own SQLSTATEs and the others that a caller can do something about. `docs/errors.md` lists them. */
export const CODE_OF_SQLSTATE: Readonly<Record<string, ErrorCode>> = {
  RE001: "wrong_width",
  RE002: "wrong_space",
  RE003: "invalid_vector",
  RE004: "invalid_request",
  RE005: "unknown_collection",
  RE006: "unknown_version",
  RE007: "refused",
  RE008: "invalid_request",
  RE009: "busy",
  RE010: "version_retired",
  // A function that is not there (any more): PostgREST's word for it, and PostgreSQL's.
  PGRST202: "version_retired",
  "42883": "version_retired",
  // A token that PostgREST does not accept.
  PGRST301: "unauthorized",
  PGRST303: "unauthorized",
  "42501": "forbidden",
  "55P03": "busy",
  // A value that does not fit its type, or text that PostgreSQL cannot hold: it takes no NUL.
  "22003": "invalid_request",
  "22007": "invalid_request",
  "22008": "invalid_request",
  "22021": "invalid_request",
  "22P02": "invalid_request",
  "22P05": "invalid_request",
  // A conflict with another transaction that ended this one.
  "40001": "busy",
  "40P01": "busy",
  "57014": "database_timeout",
};

/** A database error whose message may be shown: ours, or a safe sentence instead of PostgreSQL's, which may quote a row. */
export function databaseError(fault: DatabaseFault): ReembedError {
  const code = CODE_OF_SQLSTATE[fault.code ?? ""];
  if (code !== undefined && fault.code?.startsWith("RE")) {
    return new ReembedError(code, fault.message, fault.hint ?? "");
  }
  switch (code) {
    case "version_retired":
      return new ReembedError(
        code,
        "the version's match function is not there",
        "It was finalized, or its migration is missing.",
      );
    case "unauthorized":
      return new ReembedError(code, "the token is not valid", "Sign in again and send the new access token.");
    case "forbidden":
      return new ReembedError(
        code,
        "this key or token may not do that",
        "Use a key of the role the function is for.",
      );
    case "busy":
      return new ReembedError(code, "a lock was not to be had in time", "Nothing was changed; try again.");
    case "database_timeout":
      return new ReembedError(
        code,
        "the database took too long and cancelled the call",
        "Nothing was changed; ask for less at once, or try again.",
      );
    case "invalid_request":
      return new ReembedError(
        code,
        `the database does not take one of the values (${fault.code})`,
        "Check the values: a filter must fit its column's type, and text holds no NUL character.",
      );
    default:
      return new ReembedError(
        "database_unavailable",
        `the database could not answer${fault.code ? ` (${fault.code})` : ""}`,
        "Try again; the database's own log has the details.",
      );
  }
}

/** Calls over PostgREST, as whoever the client's keys and token stand for. */
export function createRpc(client: SupabaseClient): Rpc {
  return async (name, args) => {
    const { data, error } = await client.rpc(name, args);
    if (error) throw databaseError(error);
    return data;
  };
}
