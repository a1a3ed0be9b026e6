/**
 * One stack for each project folder. The lock is the file `stack.json`: its holder writes who it is first and, once the
 * stack is up, where it can be reached, so that the CLI finds a running stack in the file that proves it runs.
 * Two processes that open one PGlite folder lose rows in silence; this file is what keeps the second one out.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { link, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

const runningStack = z.object({
  url: z.string(),
  databaseUrl: z.string(),
  publishableKey: z.string(),
  secretKey: z.string(),
  backfillKey: z.string(),
  jwtSecret: z.string(),
});

/** What another process on this machine needs to use a running stack. */
export type RunningStack = z.infer<typeof runningStack>;

const lockFile = z.object({
  pid: z.number().int(),
  /** When the process was born, as the system tells it: a process id alone may have been given to another since. */
  born: z.string(),
  stack: runningStack.optional(),
});

type LockFile = z.infer<typeof lockFile>;

export interface FolderLock {
  /** Tells the project's other processes where the stack is. */
  publish(stack: RunningStack): Promise<void>;
  release(): Promise<void>;
}

/**
 * Takes the lock of a project folder; the lock of a process that is gone is taken over.
 * @throws ReembedError `busy` naming the process that holds it.
 */
export async function lockFolder(directory: string): Promise<FolderLock> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, "stack.json");
  const mine: LockFile = { pid: process.pid, born: birthOf(process.pid) ?? "" };
  while (!(await createExclusively(path, JSON.stringify(mine)))) {
    const text = await readIfThere(path);
    if (text === undefined) continue;
    const holder = parseLock(text);
    if (holder && isAlive(holder)) throw heldBy(holder, directory);
    await takeAway(path, text);
  }
  return {
    async publish(stack) {
      const draft = `${path}.${randomUUID()}`;
      await writeFile(draft, JSON.stringify({ ...mine, stack }, null, 2), { mode: 0o600 });
      await rename(draft, path);
    },
    async release() {
      await rm(path, { force: true });
    },
  };
}

/** The stack that runs in a project folder, or undefined when none does. */
export async function readRunningStack(directory: string): Promise<RunningStack | undefined> {
  const text = await readIfThere(join(directory, "stack.json"));
  const holder = text === undefined ? undefined : parseLock(text);
  return holder && isAlive(holder) ? holder.stack : undefined;
}

async function createExclusively(path: string, text: string): Promise<boolean> {
  // Written aside and linked into place: nobody ever reads half a lock, and link() fails when the name is taken.
  const draft = `${path}.${randomUUID()}`;
  await writeFile(draft, text, { mode: 0o600 });
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false;
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

/** Removes a dead process's lock, and gives it back when another process replaced it after we had read it. */
async function takeAway(path: string, stale: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return;
    throw error;
  }
  if ((await readFile(aside, "utf8")) !== stale) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function heldBy(holder: LockFile, directory: string): ReembedError {
  const where = holder.stack ? ` and serves ${holder.stack.url}` : "";
  return new ReembedError(
    "busy",
    `the local stack of ${directory} is already running: process ${holder.pid} holds its lock${where}`,
    `use that stack, or end it first (kill ${holder.pid})`,
  );
}

function parseLock(text: string): LockFile | undefined {
  try {
    return lockFile.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function isAlive(holder: LockFile): boolean {
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    // EPERM: it runs, as another user.
    if (errorCode(error) !== "EPERM") return false;
  }
  const born = birthOf(holder.pid);
  return born === undefined || holder.born === "" || born === holder.born;
}

/** The start time of a process in clock ticks since boot, where the system has /proc (field 22 of proc_pid_stat(5)). */
function birthOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the command in parentheses and may itself hold spaces: count from after it.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

function errorCode(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}
