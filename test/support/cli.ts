/** The real command line as a child process, with no more of this process's environment than it needs. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const REEMBED = fileURLToPath(new URL("../../scripts/reembed.ts", import.meta.url));

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  /** Resolves when stderr holds this text; rejects when the command ends without it. */
  said(text: string): Promise<void>;
  /** Resolves when the process has ended and its output is read. */
  readonly finished: Promise<Finished>;
}

/** Starts `reembed ...`. */
export function startCli(args: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
  const child = spawn(process.execPath, [REEMBED, ...args], {
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  const listeners = new Set<() => void>();
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    for (const listener of listeners) listener();
  });
  const finished = once(child, "close").then(([code]) => ({ code: code as number | null, stdout, stderr }));
  return {
    child,
    finished,
    said: (text) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (!stderr.includes(text)) return;
          listeners.delete(look);
          resolve();
        };
        listeners.add(look);
        look();
        finished.then(() => reject(new Error(`it ended without saying ${JSON.stringify(text)}:\n${stderr}`)));
      }),
  };
}

/** Runs `reembed ...` to its end. */
export function runCli(args: readonly string[], env?: Readonly<Record<string, string>>): Promise<Finished> {
  return startCli(args, env).finished;
}

/** Runs `reembed ... --json` and returns its exit code and its answer: the one line on stdout. Throws when there is more or less than that. */
export async function runJson(
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<{ code: number | null; answer: Record<string, unknown>; stderr: string }> {
  const { code, stdout, stderr } = await runCli([...args, "--json"], env);
  const lines = stdout.split("\n");
  if (lines.length !== 2 || lines[1] !== "")
    throw new Error(`stdout is not one line:\n${stdout}\nstderr:\n${stderr}`);
  return { code, answer: JSON.parse(lines[0] ?? ""), stderr };
}
