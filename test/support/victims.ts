/** Workers whose process can be killed in the middle of whatever it does: the command line, and the edge function in its Deno. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startStack } from "../../scripts/stack/index.ts";
import { startCli } from "./cli.ts";
import { denoPid } from "./deno-process.ts";
import { NO_TICK_MS } from "./stack.ts";

export interface Victim {
  /** Sends SIGKILL; resolves when the process is gone. Throws when it had ended before. */
  kill(): Promise<void>;
  /** Lets another worker of the same kind work for one slice. Undefined where there is no such worker without its own process. */
  readonly slice: (() => Promise<void>) | undefined;
  /** Ends what else was started. */
  close(): Promise<void>;
}

interface Provider {
  readonly url: string;
  readonly apiKey: string;
}

/** A command of the CLI that works. */
export function startCliVictim(args: readonly string[], databaseUrl: string, openai: Provider): Victim {
  const { child, finished } = startCli(args, {
    DATABASE_URL: databaseUrl,
    OPENAI_API_KEY: openai.apiKey,
    OPENAI_BASE_URL: openai.url,
  });
  return {
    async kill() {
      child.kill("SIGKILL");
      const { stderr } = await finished;
      if (child.signalCode !== "SIGKILL")
        throw new Error(`the command had ended before it was killed:\n${stderr}`);
    },
    slice: undefined,
    close: async () => {},
  };
}

/** The functions of a stack, one of which is poked as cron does it, again whenever it has answered. */
export async function startEdgeVictim(databaseUrl: string, openai: Provider): Promise<Victim> {
  const stateDirectory = await mkdtemp(join(tmpdir(), "kill-test-"));
  const stack = await startStack({
    port: 0,
    database: { url: databaseUrl },
    stateDirectory,
    openai: { apiKey: openai.apiKey, baseUrl: openai.url },
    tickMs: NO_TICK_MS,
  });
  const poke = async () => {
    const response = await fetch(`${stack.url}/functions/v1/backfill`, {
      method: "POST",
      headers: { apikey: stack.backfillKey },
    });
    await response.text();
    return response.ok;
  };
  const pid = await denoPid();
  let killed = false;
  const poking = (async () => {
    while (!killed) await poke();
  })();
  poking.catch(() => {});
  return {
    async kill() {
      killed = true;
      process.kill(pid, "SIGKILL");
      // The poke under way is answered when the stack notices.
      await poking;
    },
    async slice() {
      if (!(await poke()))
        throw new Error("the backfill function did not answer after its process was killed");
    },
    async close() {
      killed = true;
      await stack.stop();
      await rm(stateDirectory, { recursive: true, force: true });
    },
  };
}
