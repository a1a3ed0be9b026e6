/**
 * The local stack as the end-to-end tests use it: over both databases, in a folder of its own, before a fake OpenAI, and with no worker but the one that a test
 * wakes.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import { type Client, escapeIdentifier } from "pg";
import { describe } from "vitest";
import { type RunningStack, type Stack, type StackOptions, startStack } from "../../scripts/stack/index.ts";
import { type FakeOpenAI, startFakeOpenAI } from "./fake-openai.ts";
import { connect, createDatabase, describePostgres } from "./postgres.ts";

/** An hour: the stack wakes the worker once at its start, and then the test does. */
export const NO_TICK_MS = 3_600_000;

export type StackDatabase = NonNullable<StackOptions["database"]>;

/** The same tests over PGlite and, where there is a server, over PostgreSQL. */
export function describeStack(
  define: (database: () => Promise<StackDatabase>, server: "PGlite" | "PostgreSQL") => void,
): void {
  describe("on PGlite", () => define(async () => "memory", "PGlite"));
  describePostgres("on PostgreSQL", () => define(bareDatabase, "PostgreSQL"));
}

/** A database of the role postgres without migrations and without a schema `auth`: the stack makes both, so that users can sign up. */
export async function bareDatabase(): Promise<{ readonly url: string }> {
  const { name, url, adminUrl } = await createDatabase({ migrated: false });
  const admin = await connect(adminUrl);
  await admin.query("drop schema auth cascade");
  await admin.query(`grant create on database ${escapeIdentifier(name)} to postgres`);
  await admin.end();
  return { url };
}

export interface TestStack {
  readonly stack: Stack;
  /** The provider `openai` of its functions. */
  readonly openai: FakeOpenAI;
  /** A connection of the role that owns everything. */
  readonly db: Client;
  /** A folder for the test's own files, which goes with the stack. */
  readonly folder: string;
  /** Ends all of it. */
  stop(): Promise<void>;
}

/** Starts one on a free port; when anything fails, what was started already is ended again. */
export async function startTestStack(
  options: Omit<StackOptions, "port" | "stateDirectory" | "openai" | "tickMs">,
): Promise<TestStack> {
  const started = new AsyncDisposableStack();
  try {
    const folder = await mkdtemp(join(tmpdir(), "stack-test-"));
    started.defer(() => rm(folder, { recursive: true, force: true }));
    const openai = await startFakeOpenAI();
    started.defer(() => openai.close());
    const stack = await startStack({
      ...options,
      port: 0,
      stateDirectory: join(folder, "state"),
      openai: { apiKey: openai.apiKey, baseUrl: openai.url },
      tickMs: NO_TICK_MS,
    });
    started.defer(() => stack.stop());
    const db = await connect(stack.databaseUrl);
    started.defer(() => db.end());
    return { stack, openai, db, folder, stop: () => started.disposeAsync() };
  } catch (error) {
    await started.disposeAsync();
    throw error;
  }
}

/** Lets the fake OpenAI embed for version 1 of `course_content`, whose own provider no local stack can call. */
export async function embedCourseByOpenAI(db: Client): Promise<void> {
  await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, 0.02, 0.25)");
  await db.query("select reembed.set_space('course_content', 1, 'openai/text-embedding-3-small@384')");
}

/** A client of supabase-js that keeps no session and starts no timer; without a key it is a visitor's. */
export function clientOf(stack: RunningStack, key: string = stack.publishableKey): SupabaseClient {
  return createClient(stack.url, key, { auth: { persistSession: false, autoRefreshToken: false } });
}

export interface SignedUp {
  readonly id: string;
  /** The access token. */
  readonly token: string;
}

/** Makes a user, as whom the client speaks from now on. */
export async function signUp(
  client: SupabaseClient,
  email: string = `${crypto.randomUUID()}@example.com`,
): Promise<SignedUp> {
  const { data, error } = await client.auth.signUp({ email, password: "correct horse battery staple" });
  if (error) throw error;
  if (!data.user || !data.session) throw new Error("the user has no session");
  return { id: data.user.id, token: data.session.access_token };
}

/** What the worker answers; its counts are read as they are needed. */
export type SliceReport = Readonly<Record<string, unknown>> & {
  readonly ended: string;
  readonly done: number;
};

/** Wakes the worker for one slice and returns its report; the slice that the stack began at its start is waited for. */
export async function wakeWorker(stack: RunningStack): Promise<SliceReport> {
  for (;;) {
    const response = await fetch(`${stack.url}/functions/v1/backfill`, {
      method: "POST",
      headers: { apikey: stack.backfillKey },
    });
    const text = await response.text();
    if (!response.ok) throw new Error(text);
    const report: SliceReport = JSON.parse(text);
    if (report.ended !== "running") return report;
  }
}
