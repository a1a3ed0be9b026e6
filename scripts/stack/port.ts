/** Taking a loopback port, and saying who has it when it is taken. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { createServer, type RequestListener, type Server } from "node:http";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

/**
 * Listens on 127.0.0.1; `port` 0 takes a free one.
 * @throws ReembedError `busy` naming the process that listens there.
 */
export async function listen(
  listener: RequestListener,
  port: number,
): Promise<{ server: Server; port: number }> {
  const server = createServer(listener);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, "127.0.0.1", () => {
        server.off("error", reject);
        resolve();
      });
    });
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EADDRINUSE")) throw error;
    const holder = await whoListens(port);
    throw new ReembedError(
      "busy",
      `port ${port} is in use${holder ? ` by process ${holder.pid} (${holder.command})` : ""}`,
      `end that process or choose another port with --port`,
    );
  }
  const address = server.address();
  if (address === null || typeof address === "string") throw new TypeError("the server has no port");
  return { server, port: address.port };
}

/** The process that listens on a local TCP port, where the system has /proc and lets us look. */
async function whoListens(port: number): Promise<{ pid: number; command: string } | undefined> {
  const inodes = await listeningInodes(port);
  if (inodes.size === 0) return undefined;
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => "");
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
      if (inode !== undefined && inodes.has(inode))
        return { pid: Number(pid), command: await commandOf(pid) };
    }
  }
  return undefined;
}

async function listeningInodes(port: number): Promise<Set<string>> {
  const inodes = new Set<string>();
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of (await readFile(table, "utf8").catch(() => "")).split("\n").slice(1)) {
      const [, local = "", , state, , , , , , inode] = line.trim().split(/\s+/);
      // 0A is LISTEN; the local address is HEXADDRESS:HEXPORT (proc_net(5)).
      if (state === "0A" && inode && Number.parseInt(local.split(":")[1] ?? "", 16) === port)
        inodes.add(inode);
    }
  }
  return inodes;
}

/** The program and its script, not its other arguments: those may hold a connection string. */
async function commandOf(pid: string): Promise<string> {
  const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  const [program = "unknown command", script = ""] = text.split("\0");
  return /^[\w./-]+$/.test(script) && !script.startsWith("-") ? `${program} ${script}` : program;
}
