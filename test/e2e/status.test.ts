/** `reembed status --watch` as a person on a terminal, a log and a program have it. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { runCli, runJson, startCli } from "../support/cli.ts";
import { createCollection, insertRow } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

const REEMBED = fileURLToPath(new URL("../../scripts/reembed.ts", import.meta.url));

/** util-linux's `script`, which runs a command on a terminal of its own. */
const hasScript = (() => {
  try {
    return execFileSync("script", ["--version"], { encoding: "utf8" }).includes("util-linux");
  } catch {
    return false;
  }
})();

/** What a process prints, until it is enough; rejects when the process ends before. */
async function untilPrinted(child: ChildProcess, isEnough: (text: string) => boolean): Promise<string> {
  let text = "";
  const ended = once(child, "close").then(() => {
    throw new Error(`it ended after printing:\n${text}`);
  });
  const printed = new Promise<string>((resolve) => {
    child.stdout?.on("data", (part: Buffer | string) => {
      text += String(part);
      if (isEnough(text)) resolve(text);
    });
  });
  ended.catch(() => {});
  return Promise.race([printed, ended]);
}

describePostgres("reembed status --watch", () => {
  let url: string;
  beforeAll(async () => {
    const database = await createDatabase();
    url = database.url;
    const client = await connect(url);
    const collection = await createCollection(client, "watched");
    await insertRow(client, collection, "a text");
    await client.query("select reembed.pause_space('test/model-1@8', 'no credit left')");
    await client.end();
  });
  const args = (...more: string[]) => ["status", "--db-url", url, "--watch", "--interval", "0.1", ...more];

  const watch = (...more: string[]) => {
    const running = startCli(args(...more));
    onTestFinished(() => void running.child.kill("SIGKILL"));
    return running;
  };

  test.each(["SIGINT", "SIGTERM"] as const)(
    "prints lines with their time, and what holds a version up, until %s",
    async (signal) => {
      const watching = watch();
      const lines = (text: string) => text.split("\n").filter((line) => line.includes("watched v1"));
      const text = await untilPrinted(watching.child, (printed) => lines(printed).length >= 2);
      watching.child.kill(signal);
      expect(await watching.finished).toMatchObject({ code: 0, stderr: "" });
      for (const line of lines(text)) {
        expect(line).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z watched v1 /);
        expect(line).toContain(
          ", 0 current (0 % covered), 1 pending, 0 leased, 0 failed, 0 rows/s, ETA -, oldest edit ",
        );
      }
      expect(text).toContain("test/model-1@8 is paused until reembed resume test/model-1@8: no credit left");
      expect(text).not.toContain("\u001b");
    },
  );

  test("with --json each look is one line", async () => {
    const watching = watch("--json");
    const text = await untilPrinted(watching.child, (printed) => printed.split("\n").length > 3);
    watching.child.kill("SIGTERM");
    expect(await watching.finished).toMatchObject({ code: 0, stderr: "" });
    const looks = text
      .split("\n")
      .slice(0, 3)
      .map((line) => JSON.parse(line));
    for (const look of looks) {
      expect(look).toMatchObject({ at: expect.any(String), spaces: expect.any(Array) });
      expect(look.collections.at(-1)).toMatchObject({ collection: "watched", rows: 1 });
    }
    expect(new Set(looks.map(({ at }) => at)).size).toBe(3);
  });

  test.skipIf(!hasScript)("on a terminal the screen is drawn anew, and Ctrl-C ends it", async () => {
    const command = ["exec", process.execPath, REEMBED, ...args()].join(" ");
    const terminal = spawn("script", ["-qfec", command, "/dev/null"], {
      env: { PATH: process.env.PATH ?? "", TERM: "xterm" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    onTestFinished(() => void terminal.kill());
    const text = await untilPrinted(terminal, (printed) => printed.split("\u001b[H").length > 3);
    expect(text).toContain("watched (public.watched, 1 rows)");
    expect(text).toContain("test/model-1@8 is paused until reembed resume test/model-1@8: no credit left");
    // As a terminal sends it: to the processes in its foreground.
    terminal.stdin.write("\u0003");
    expect(await once(terminal, "close")).toEqual([0, null]);
  });

  test("--collection leaves the others out, with --watch too, and an unknown one is told", async () => {
    const one = ["status", "--db-url", url, "--collection"];
    const { answer } = await runJson([...one, "watched"]);
    expect(answer).toMatchObject({
      collections: [{ collection: "watched", rows: 1 }],
      spaces: [
        { space: "test/model-1@8", paused: "no credit left" },
        { space: "test/model-2@8", paused: null },
      ],
    });
    const watching = watch("--json", "--collection", "watched");
    const text = await untilPrinted(watching.child, (printed) => printed.includes("\n"));
    watching.child.kill("SIGTERM");
    expect(await watching.finished).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(text.split("\n")[0] ?? "").collections).toHaveLength(1);
    expect(await runJson([...one, "nowhere"])).toMatchObject({
      code: 1,
      answer: { error: { code: "unknown_collection" } },
    });
  });

  test("--interval without --watch is wrong use", async () => {
    expect(await runCli(["status", "--db-url", url, "--interval", "1"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--interval needs --watch"),
    });
  });
});
