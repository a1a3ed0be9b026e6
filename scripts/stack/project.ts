/** Where the local stack of this project stands, for whoever looks for it without starting one. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type RunningStack, readRunningStack as readLock } from "./lock.ts";

/** The project's folder. */
export const PROJECT = fileURLToPath(new URL("../../", import.meta.url));

/** Where a project keeps its keys, its PGlite and the lock of its running stack. */
export const STATE_DIRECTORY = join(PROJECT, ".reembed");

/** The port of Supabase's own local stack. */
export const DEFAULT_PORT = 54321;

/** The project's running stack, as its other processes on this machine find it, or undefined when none runs. */
export async function readRunningStack(stateDirectory = STATE_DIRECTORY): Promise<RunningStack | undefined> {
  return readLock(stateDirectory);
}
