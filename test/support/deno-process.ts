/** The Deno process behind a stack's functions, for those who kill it or count its time. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** The id of the one process of edge functions that this process has started. */
export async function denoPid(): Promise<number> {
  const { stdout } = await promisify(execFile)("ps", ["-A", "-o", "pid=,ppid=,args="]);
  const pids = stdout
    .split("\n")
    .map((line) => /^\s*(\d+)\s+(\d+)\s+.*\/stack\/dispatcher\.ts\s/.exec(line))
    .filter((match) => Number(match?.[2]) === process.pid)
    .map((match) => Number(match?.[1]));
  const [pid] = pids;
  if (pid === undefined || pids.length > 1)
    throw new Error(`${pids.length} processes of functions, instead of one`);
  return pid;
}
