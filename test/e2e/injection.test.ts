/**
 * Hostile names, URLs and texts through every option and argument of every command: nothing of them is executed, fetched or written elsewhere, and what is wrong is
 * told with a documented code. Told from the command line's own list: a command or an option that is new is tried without a line here.
 */
import { existsSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { type Failure, failureOf } from "../../scripts/lib/output.ts";
import { createProgram } from "../../scripts/lib/program.ts";
import { ERRORS } from "../../supabase/functions/_shared/errors.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

/** They go on until they are stopped: of these the parsers of the options are asked alone. */
const ENDLESS = new Set(["dev", "work"]);
/** Where a connection is opened because that is what was asked for. */
const CONNECTS = new Set(["--db-url"]);

/** What a command needs beside the hostile value to get as far as it can. */
const REST: Readonly<Record<string, readonly string[]>> = {
  add: [
    "pages",
    "--columns",
    "title,body",
    "--old-column",
    "none",
    "--new-space",
    "hash/words-and-ngrams@16",
    "--lexical",
    "none",
    "--vectors",
    "table",
    "--project",
    "project",
  ],
  init: ["--into", "project"],
  ingest: ["pages", "--base-url", "https://example.org/"],
  "ingest-products": ["products.json"],
  finalize: ["--project", "project"],
  search: ["a query"],
  pause: ["hash/words-and-ngrams@8"],
  resume: ["hash/words-and-ngrams@8"],
  canary: ["--percent", "0"],
  cutover: ["--force", "--reason", "an attack"],
};

/** A collection in two versions of the offline provider, the first one loaded, and a table that is none yet. */
const NOTES = `
  create table public.notes (id int primary key, title text, embedding extensions.vector(8), embedding_2 extensions.vector(16));
  create table public.pages (id int primary key, title text, body text);
  create function public.notes_input(n public.notes) returns text language sql immutable set search_path = pg_catalog, pg_temp as 'select n.title';
  select reembed.add_space('hash', 'words-and-ngrams', 8), reembed.add_space('hash', 'words-and-ngrams', 16),
         reembed.add_collection('notes', 'public.notes', array['id', 'title']);
  select reembed.add_version('notes', 'hash/words-and-ngrams@8', 'embedding', 'public.notes_input'),
         reembed.add_version('notes', 'hash/words-and-ngrams@16', 'embedding_2', 'public.notes_input');
  select reembed.start_loading('notes', 1), reembed.finish_enqueueing('notes', 1);
  insert into public.notes values (1, 'a note');`;

/** Values of options that must be given. */
const MANDATORY: Readonly<Record<string, string>> = {
  "--version": "2",
  "--base-url": "https://example.org/",
  "--reason": "an attack",
};

const options = createProgram().commands.flatMap((command) =>
  command.options
    .filter(({ required, optional }) => required || optional)
    .map((option) => ({ name: `${command.name()} ${option.long}`, command, option })),
);
const positional = createProgram().commands.flatMap((command) =>
  command.registeredArguments.map((argument, at) => ({
    name: `${command.name()} <${argument.name()}>`,
    command,
    at,
  })),
);

describePostgres("hostile values on the command line", () => {
  let sandbox: string;
  let client: Client;
  let databaseUrl: string;
  let server: Server;
  let hostile: readonly string[];
  const asked: string[] = [];
  const home = process.cwd();

  beforeAll(async () => {
    sandbox = await mkdtemp(join(tmpdir(), "injection-test-"));
    await mkdir(join(sandbox, "a/b/project/supabase/migrations"), { recursive: true });
    await mkdir(join(sandbox, "a/b/pages"));
    await writeFile(join(sandbox, "a/b/pages/one.html"), "<main><h2 id='x'>X</h2><p>Text.</p></main>");
    await writeFile(join(sandbox, "a/b/project/supabase/config.toml"), 'project_id = "attacked"\n');
    await writeFile(join(sandbox, "a/b/products.json"), "[]");
    await writeFile(join(sandbox, "canary"), "alive");
    server = createServer((request, response) => {
      asked.push(request.url ?? "");
      response.end("no");
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    hostile = [
      "x'); drop table public.canary; --",
      'x"; drop table public.canary; --',
      `$(touch ${sandbox}/executed)\`touch ${sandbox}/executed\`;touch ${sandbox}/executed`,
      "../../outside",
      `${"../".repeat(20)}${sandbox.slice(1)}/outside`,
      `http://127.0.0.1:${port}/fetched`,
      "file:///etc/passwd",
      "__proto__",
      "-1",
      "\u202e\n%s%n",
      "a".repeat(20_000),
      "",
    ];
    const database = await createDatabase();
    databaseUrl = database.url;
    client = await connect(database.url);
    await client.query(NOTES);
    const db = await openDatabase(databaseUrl, 1);
    await work(db, (space) => createEmbedder(space, {}), { collection: "notes" });
    await db.close();
    await client.query("create table public.canary (word text); insert into public.canary values ('alive')");
    process.chdir(join(sandbox, "a/b"));
  });
  afterAll(async () => {
    process.chdir(home);
    await client?.end();
    server?.close();
    await rm(sandbox, { recursive: true, force: true });
  });

  /** What `reembed ...` says and how it ends, in this process. */
  async function run(args: readonly string[]): Promise<{ failure: Failure | undefined; said: string }> {
    let said = "";
    const write = (chunk: unknown) => {
      said += String(chunk);
      return true;
    };
    const spies = [
      vi.spyOn(process.stdout, "write").mockImplementation(write),
      vi.spyOn(process.stderr, "write").mockImplementation(write),
    ];
    let failure: Failure | undefined;
    try {
      await createProgram().parseAsync(args, { from: "user" });
    } catch (error) {
      failure = failureOf(error, "reembed");
    } finally {
      for (const spy of spies) spy.mockRestore();
      process.exitCode = undefined;
    }
    return { failure, said };
  }

  /** All that must be as it was. */
  async function expectUnharmed(what: string): Promise<void> {
    const { rows } = await client.query("select word from public.canary");
    expect({ what, rows }).toEqual({ what, rows: [{ word: "alive" }] });
    expect({ what, asked }).toEqual({ what, asked: [] });
    expect(await readFile(join(sandbox, "canary"), "utf8")).toBe("alive");
    expect(existsSync(join(sandbox, "executed"))).toBe(false);
    // A folder that was named as such is the one thing that may be made.
    expect(readdirSync(sandbox).filter((name) => !["a", "canary", "outside"].includes(name))).toEqual([]);
    expect(readdirSync(join(sandbox, "a")).filter((name) => name !== "b")).toEqual([]);
  }

  async function attempt(args: readonly string[]): Promise<void> {
    const { failure, said } = await run(args);
    const what = args.map((arg) => (arg.length > 100 ? `${arg.slice(0, 100)}...` : arg)).join(" ");
    if (failure !== undefined) {
      expect({ what, code: failure.code, known: failure.code in ERRORS }).toEqual({
        what,
        code: expect.not.stringMatching(/^internal_error$/),
        known: true,
      });
      expect({ what, message: failure.message !== "" }).toEqual({ what, message: true });
    }
    expect({ what, trace: /^\s+at .*:\d+:\d+/m.test(said) }).toEqual({ what, trace: false });
  }

  const argumentsOf = (command: Command, without: string | undefined): string[] => {
    // What contradicts an option is left out beside it.
    const clashing = without === "--text" ? "--columns" : without;
    const rest = [...(REST[command.name()] ?? [])];
    const at = clashing === undefined ? -1 : rest.indexOf(clashing);
    if (at !== -1) rest.splice(at, 2);
    for (const option of command.options.filter(
      ({ mandatory, long }) => mandatory && long !== without && !rest.includes(long ?? ""),
    ))
      rest.push(option.long ?? "", MANDATORY[option.long ?? ""] ?? "1");
    const known = new Set(command.options.map(({ long }) => long));
    if (known.has("--db-url") && without !== "--db-url") rest.push("--db-url", databaseUrl);
    if (known.has("--collection") && without !== "--collection") rest.push("--collection", "notes");
    return rest;
  };

  test.each(options.filter(({ command }) => !ENDLESS.has(command.name())))(
    "$name",
    async ({ command, option }) => {
      const long = option.long ?? "";
      for (const value of hostile) {
        if (CONNECTS.has(long) && value.startsWith("http")) continue;
        await attempt([command.name(), ...argumentsOf(command, long), `${long}=${value}`]);
        await expectUnharmed(`${long} ${value.slice(0, 60)}`);
      }
    },
    120_000,
  );

  test.each(positional.filter(({ command }) => !ENDLESS.has(command.name())))(
    "$name",
    async ({ command, at }) => {
      for (const value of hostile) {
        const rest = argumentsOf(command, undefined);
        const first = rest.findIndex((word) => word.startsWith("--"));
        const words = first === -1 ? rest : rest.slice(0, first);
        words[at] = value;
        await attempt([command.name(), ...(first === -1 ? [] : rest.slice(first)), "--", ...words]);
        await expectUnharmed(`${command.name()} ${value.slice(0, 60)}`);
      }
    },
    120_000,
  );

  describe("commands that go on until they are stopped", () => {
    const ofEndless = options.filter(
      ({ command, option }) => ENDLESS.has(command.name()) && !CONNECTS.has(option.long ?? ""),
    );
    test.each(ofEndless)("$name takes no text", ({ option }) => {
      for (const value of hostile) expect(() => option.parseArg?.(value, undefined)).toThrow();
    });
  });

  test("another machine's database is refused unless it is allowed", async () => {
    for (const url of [
      "postgresql://x@192.0.2.1/x",
      "postgresql://127.0.0.1@192.0.2.1/x",
      "postgresql://192.0.2.1/x?host=127.0.0.1",
    ]) {
      const { failure } = await run(["status", "--db-url", url]);
      expect({ url, code: failure?.code }).toEqual({
        url,
        code: expect.stringMatching(/^(forbidden|invalid_request)$/),
      });
    }
  });
});
