/** The local stack as its users meet it: supabase-js, a browser, a second database client, a second process. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { createClient, FunctionsHttpError } from "@supabase/supabase-js";
import type { Client } from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { readRunningStack, type Stack, type StackOptions, startStack } from "../../scripts/stack/index.ts";
import { adminUrl, connect, createDatabase, describePostgres } from "../support/postgres.ts";

const SCHEMA = `
  create extension if not exists vector with schema extensions;
  grant usage on schema extensions to anon, authenticated, service_role;
  create table public.notes (
    id int generated always as identity primary key,
    owner uuid default auth.uid(),
    body text,
    embedding extensions.vector(3)
  );
  alter table public.notes enable row level security;
  create policy "own notes" on public.notes for all to authenticated
    using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
  grant all on public.notes to anon, authenticated, service_role;
  create schema internal;
  create table internal.secrets (id int primary key);
  alter table internal.secrets enable row level security;

  create function public.whoami() returns jsonb language sql stable
    as $$ select jsonb_build_object('role', current_user, 'uid', auth.uid()) $$;
  create function public.width(query_embedding extensions.vector, label text default null) returns int language sql stable
    as $$ select extensions.vector_dims(query_embedding) $$;
  create function public.half_width(query_embedding extensions.halfvec) returns int language sql stable
    as $$ select extensions.vector_dims(query_embedding) $$;
  create function public.refuse(query_embedding extensions.vector) returns int language plpgsql as $$
    begin
      raise exception using errcode = 'RE001', message = 'wrong width', hint = 'use the other model', detail = 'has 2';
    end $$;
  create function public.wait_for_lock() returns int language plpgsql as $$ begin perform pg_advisory_xact_lock(4711); return 1; end $$;
  create function public.echo(said text) returns text language sql stable as $$ select said $$;
  grant execute on all functions in schema public to anon, authenticated, service_role;
`;

const FUNCTIONS = {
  hello: `export default { fetch: async (request) => Response.json({
    path: new URL(request.url).pathname,
    body: await request.json(),
    environment: Object.keys(Deno.env.toObject()).sort(),
  }) };`,
  back: `export default { fetch: async (request) => {
    const [apikey] = Object.values(JSON.parse(Deno.env.get('SUPABASE_PUBLISHABLE_KEYS')));
    const answer = await fetch(Deno.env.get('SUPABASE_URL') + '/rest/v1/rpc/whoami', { method: 'POST', headers: { apikey } });
    return Response.json(await answer.json());
  } };`,
  broken: `throw new Error('a function that does not load');`,
  throws: `export default { fetch: () => { throw new Error('[0.25,0.5]'); } };`,
  backfill: `const pokes = [];
    export default { fetch: async (request) => {
      if (request.method === 'GET') return Response.json(pokes);
      pokes.push({ apikey: request.headers.get('apikey'), body: await request.text() });
      return Response.json({});
    } };`,
  _shared: `export default { fetch: () => Response.json('not a function') };`,
};

let folder: string;
let options: StackOptions;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "stack-test-"));
  await mkdir(join(folder, "migrations"));
  await writeFile(join(folder, "migrations", "1_schema.sql"), SCHEMA);
  for (const [name, source] of Object.entries(FUNCTIONS)) {
    await mkdir(join(folder, "functions", name), { recursive: true });
    await writeFile(join(folder, "functions", name, "index.ts"), source);
  }
  await writeFile(join(folder, "functions", "deno.json"), "{}");
  options = {
    port: 0,
    migrationsDirectory: join(folder, "migrations"),
    functionsDirectory: join(folder, "functions"),
    stateDirectory: join(folder, "state"),
  };
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe("on PGlite", () => behavesLikeSupabase(async () => "memory"));

describePostgres("on PostgreSQL", () => {
  const names: string[] = [];

  /** A bare database of a role that is no superuser: what DATABASE_URL is on most machines. */
  const bareDatabase = async () => {
    const name = `reembed_stack_${crypto.randomUUID().slice(0, 8)}`;
    names.push(name);
    const template = await createDatabase({ migrated: false });
    await query(template.adminUrl, `create database ${name} owner postgres template template0`);
    // pgvector is made by the machine's administrator: it is no trusted extension.
    await query(
      onDatabase(template.adminUrl, name),
      "create schema extensions authorization postgres; create extension vector schema extensions",
    );
    return { url: onDatabase(template.url, name) };
  };
  afterAll(async () => {
    for (const name of names) await query(adminUrl(), `drop database if exists ${name} with (force)`);
  });

  behavesLikeSupabase(bareDatabase);

  test("a connection that the server ends under a request fails that request, and no other", async () => {
    const stack = await startStack({
      ...options,
      stateDirectory: join(folder, "state of the killed"),
      database: await bareDatabase(),
    });
    const client = createClient(stack.url, stack.publishableKey, { auth: { persistSession: false } });
    const [holder, admin] = await Promise.all([
      connect(stack.databaseUrl),
      connect(onDatabase(adminUrl(), new URL(stack.databaseUrl).pathname.slice(1))),
    ]);
    await holder.query("select pg_advisory_lock(4711)");
    for (let time = 0; time < 3; time += 1) {
      const waiting = Array.from({ length: 4 }, () => client.rpc("wait_for_lock"));
      const settled = Promise.all(waiting);
      const blocked = `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
      await vi.waitFor(async () => expect((await admin.query(blocked)).rows).toHaveLength(4));
      await admin.query(`select pg_terminate_backend(pid, 10000) from (${blocked}) as waits`);
      for (const { status, error } of await settled) {
        expect(status).toBe(503);
        expect(error).toMatchObject({ code: "08006", message: "the connection to the database was lost" });
      }
      const next = await Promise.all(
        Array.from({ length: 12 }, (_, n) => client.rpc("echo", { said: `${n}` })),
      );
      expect(next.map(({ data }) => data)).toEqual(Array.from({ length: 12 }, (_, n) => `${n}`));
    }
    await Promise.all([holder.end(), admin.end()]);
    await stack.stop();
  });

  test("a database that has Supabase's own auth schema keeps it as it is", async () => {
    const { url } = await createDatabase({ migrated: false });
    const authTables = `select relname from pg_class where relnamespace = 'auth'::regnamespace order by 1`;
    const before = await query(url, authTables);
    const stateDirectory = join(folder, "state of another");
    const stack = await startStack({ ...options, stateDirectory, database: { url } });
    const client = createClient(stack.url, stack.publishableKey, { auth: { persistSession: false } });
    expect((await client.rpc("whoami")).data).toEqual({ role: "anon", uid: null });
    expect(await query(url, authTables)).toEqual(before);
    await stack.stop();
  });
});

function behavesLikeSupabase(database: () => Promise<NonNullable<StackOptions["database"]>>): void {
  let stack: Stack;
  const log: string[] = [];
  // Spied on before the stack starts: what the stack keeps from the console does not reach the spies either.
  const printed = (["error", "warn", "log"] as const).map((method) =>
    vi.spyOn(console, method).mockImplementation(() => {}),
  );

  beforeAll(async () => {
    stack = await startStack({ ...options, database: await database(), onLog: (line) => log.push(line) });
  });
  afterAll(async () => {
    await stack?.stop();
    for (const spy of printed) spy.mockRestore();
  });

  const clientWith = (key: string) =>
    createClient(stack.url, key, { auth: { persistSession: false, autoRefreshToken: false } });
  const anonymous = () => clientWith(stack.publishableKey);
  const signedUp = async () => {
    const client = anonymous();
    const { data, error } = await client.auth.signUp({
      email: `${crypto.randomUUID()}@example.com`,
      password: "correct horse battery staple",
    });
    expect(error).toBeNull();
    return { client, id: data.user?.id };
  };

  test("the key and the token of the caller decide the role", async () => {
    const { client, id } = await signedUp();
    expect((await anonymous().rpc("whoami")).data).toEqual({ role: "anon", uid: null });
    expect((await client.rpc("whoami")).data).toEqual({ role: "authenticated", uid: id });
    expect((await clientWith(stack.secretKey).rpc("whoami")).data).toMatchObject({ role: "service_role" });
    expect((await clientWith(stack.backfillKey).rpc("whoami")).status).toBe(401);
  });

  test("a user sees the own rows only", async () => {
    const [ada, bob] = [await signedUp(), await signedUp()];
    expect(
      (await ada.client.from("notes").insert({ body: "of Ada", embedding: [1, 2, 3] })).error,
    ).toBeNull();
    expect((await ada.client.from("notes").select("body, embedding")).data).toEqual([
      { body: "of Ada", embedding: "[1,2,3]" },
    ]);
    expect((await bob.client.from("notes").select()).data).toEqual([]);
    expect((await anonymous().from("notes").select()).data).toEqual([]);
  });

  test("a vector argument may be an array or its text", async () => {
    const client = anonymous();
    expect((await client.rpc("width", { query_embedding: [1, 0.5, 0] })).data).toBe(3);
    expect((await client.rpc("width", { query_embedding: "[1,0.5]" })).data).toBe(2);
    expect((await client.rpc("half_width", { query_embedding: [1, 0, 0, 0] })).data).toBe(4);
  });

  test("an error raised in SQL arrives whole, and nobody's vector in a log", async () => {
    const { error, status } = await anonymous().rpc("refuse", { query_embedding: [0.125, 0.375] });
    expect(status).toBe(400);
    expect(error).toMatchObject({
      code: "RE001",
      message: "wrong width",
      hint: "use the other model",
      details: "has 2",
    });
    // The database quotes what it cannot read.
    const malformed = await anonymous().rpc("width", { query_embedding: "[0.125,x]" });
    expect(malformed).toMatchObject({ status: 400, error: { message: expect.stringContaining("0.125") } });
    expect(inspect([log, printed.map((spy) => spy.mock.calls)], { depth: 9 })).not.toContain("0.125");
  });

  test("a function that is made anew is found without a restart", async () => {
    const client = anonymous();
    expect((await client.rpc("echo", { said: "a" })).data).toBe("a");
    await withDatabase(stack, (database) =>
      database.query(`
        begin;
        drop function public.echo(text);
        create function public.echo(said extensions.vector) returns int language sql stable
          as $$ select extensions.vector_dims(said) $$;
        grant execute on function public.echo to anon;
        create function public.later(said extensions.vector) returns int language sql stable
          as $$ select extensions.vector_dims(said) $$;
        grant execute on function public.later to anon;
        notify pgrst, 'reload schema';
        commit;`),
    );
    await vi.waitFor(async () => expect((await client.rpc("echo", { said: [1, 2] })).data).toBe(2), {
      timeout: 20_000,
    });
    await withDatabase(stack, (database) =>
      database.query(`
        create function public.unannounced(said extensions.vector) returns int language sql stable
          as $$ select extensions.vector_dims(said) $$;
        grant execute on function public.unannounced to anon;`),
    );
    expect((await client.rpc("unannounced", { said: [1, 2, 3] })).data).toBe(3);
  });

  test("serving requests gives the API roles nothing that the migrations did not", async () => {
    await anonymous().from("notes").select();
    const { rows } = await withDatabase(stack, (database) =>
      database.query(`select has_schema_privilege('anon', 'internal', 'usage') as internal,
        has_table_privilege('anon', 'internal.secrets', 'select') as secrets,
        has_table_privilege('authenticated', 'auth.users', 'select') as users`),
    );
    expect(rows).toEqual([{ internal: false, secrets: false, users: false }]);
  });

  test("other clients of the database get their own answers while requests run", async () => {
    const client = anonymous();
    const requests = Array.from({ length: 20 }, () => client.rpc("width", { query_embedding: [1, 2] }));
    // It sends Parse and Describe, and Bind only when those were answered: half an exchange is always open.
    const pool = postgres(stack.databaseUrl, { max: 4, prepare: false, onnotice: () => {} });
    const questions = Array.from({ length: 100 }, (_, i) => `question ${i}`);
    const answers = await Promise.all(
      questions.map(async (question, i) => {
        const [row] = await pool.unsafe(`select $1::text as question, ${i} as number`, [question]);
        return `${row?.question} is ${row?.number}`;
      }),
    );
    await pool.end();
    expect(answers).toEqual(questions.map((question, i) => `${question} is ${i}`));
    expect((await Promise.all(requests)).map(({ data }) => data)).toEqual(requests.map(() => 2));
  });

  test("functions.invoke reaches the function, which sees its own environment and nothing else", async () => {
    const { data, error } = await anonymous().functions.invoke("hello/there", { body: { a: 1 } });
    expect(error).toBeNull();
    expect(data).toMatchObject({ path: "/hello/there", body: { a: 1 } });
    expect(data.environment.filter((name: string) => !/^(DENO_|NO_COLOR|PATH$)/.test(name))).toEqual([
      "SUPABASE_PUBLISHABLE_KEYS",
      "SUPABASE_SECRET_KEYS",
      "SUPABASE_URL",
    ]);
  });

  test("a function calls the stack back", async () => {
    expect((await anonymous().functions.invoke("back")).data).toEqual({ role: "anon", uid: null });
  });

  test.each([
    ["nope", 404, "not_found"],
    ["_shared", 404, "not_found"],
    ["Hello", 404, "not_found"],
    ["broken", 503, "function_unavailable"],
    ["throws", 500, "internal_error"],
  ])("functions/v1/%s answers %i %s", async (name, status, code) => {
    const { error } = await anonymous().functions.invoke(name);
    expect(error).toBeInstanceOf(FunctionsHttpError);
    const response: Response = error.context;
    expect(response.status).toBe(status);
    const body = await response.json();
    expect(body).toEqual({
      error: { code, message: expect.any(String), hint: expect.any(String), request_id: expect.any(String) },
    });
    expect(JSON.stringify([body, log])).not.toContain("[0.25,0.5]");
  });

  test("a browser of any origin may call everything", async () => {
    for (const path of ["rest/v1/notes", "auth/v1/signup", "functions/v1/hello"]) {
      const preflight = await fetch(`${stack.url}/${path}`, {
        method: "OPTIONS",
        headers: {
          origin: "http://app.example",
          "access-control-request-method": "POST",
          "access-control-request-headers": "apikey,x-client-info",
        },
      });
      expect(preflight.ok).toBe(true);
      expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
      expect(preflight.headers.get("access-control-allow-headers")).toContain("apikey");
      const answer = await fetch(`${stack.url}/${path}`, { headers: { origin: "http://app.example" } });
      expect(answer.headers.get("access-control-allow-origin")).toBe("*");
    }
  });

  test("the backfill function is woken with the named secret and an empty body", async () => {
    await vi.waitFor(async () => {
      const pokes = await fetch(`${stack.url}/functions/v1/backfill`).then((answer) => answer.json());
      expect(pokes[0]).toEqual({ apikey: stack.backfillKey, body: "" });
    });
  });
}

describe("one stack at a time", () => {
  test("a port in use names the process that has it", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    const port = typeof address === "object" && address ? address.port : 0;
    await expect(startStack({ ...options, database: "memory", port })).rejects.toMatchObject({
      code: "busy",
      message: expect.stringContaining(`port ${port} is in use by process ${process.pid}`),
    });
    server.close();
  });

  test("a database on another machine is refused until it is allowed", async () => {
    const database = { url: "postgresql://postgres:hush@db.example.com/postgres" };
    const refusal = await startStack({ ...options, database }).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: "forbidden", hint: expect.stringContaining("--allow-remote") });
    expect(String(refusal)).not.toContain("hush");
  });

  test("a folder held by another process is refused, and taken over when that process was killed", async () => {
    const holder = runModule(`
      import { lockFolder } from ${JSON.stringify(scriptUrl("lock.ts"))};
      await lockFolder(${JSON.stringify(options.stateDirectory)});
      console.log('locked');
      setInterval(() => {}, 1000);`);
    await nextLine(holder);
    const refusal = await startStack(options).catch((error: unknown) => error);
    expect(refusal).toMatchObject({
      code: "busy",
      message: expect.stringContaining(`process ${holder.pid}`),
    });
    await killHard(holder);

    const first = await startStack(options);
    expect(await readRunningStack(options.stateDirectory)).toMatchObject({
      url: first.url,
      databaseUrl: first.databaseUrl,
      secretKey: first.secretKey,
    });
    for (const file of ["stack.json", "keys.json"]) {
      expect((await stat(join(folder, "state", file))).mode & 0o777).toBe(0o600);
    }
    await withDatabase(first, (database) => database.query(`insert into notes (body) values ('kept')`));
    await first.stop();
    expect(await readRunningStack(options.stateDirectory)).toBeUndefined();

    const second = await startStack(options);
    expect(second).toMatchObject({ secretKey: first.secretKey, migrations: [] });
    const { rows } = await withDatabase(second, (database) => database.query("select body from notes"));
    expect(rows).toEqual([{ body: "kept" }]);
    await second.stop();
  });

  test("stop frees the port and leaves no process", async () => {
    const stack = await startStack({ ...options, database: "memory" });
    expect(await functionsProcessesOf(process.pid)).toHaveLength(1);
    await stack.stop();
    await stack.stop();
    expect(await functionsProcessesOf(process.pid)).toEqual([]);
    const again = createServer().listen(Number(new URL(stack.url).port), "127.0.0.1");
    await once(again, "listening");
    again.close();
  });

  test("a stack that is killed takes its functions with it", async () => {
    const owner = runModule(`
      import { startStack } from ${JSON.stringify(scriptUrl("index.ts"))};
      await startStack(${JSON.stringify({ ...options, database: "memory" })});
      console.log('up');`);
    await nextLine(owner);
    const [pid] = await functionsProcessesOf(owner.pid ?? 0);
    expect(pid).toBeDefined();
    await killHard(owner);
    await vi.waitFor(() => expect(() => process.kill(pid ?? 0, 0)).toThrow("ESRCH"), { timeout: 5_000 });
  });
});

async function withDatabase<T>(stack: Stack, work: (database: Client) => Promise<T>): Promise<T> {
  const database = await connect(stack.databaseUrl);
  try {
    return await work(database);
  } finally {
    await database.end();
  }
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const database = await connect(url);
  try {
    return (await database.query(sql)).rows;
  } finally {
    await database.end();
  }
}

function onDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = name;
  return changed.href;
}

function scriptUrl(name: string): string {
  return new URL(`../../scripts/stack/${name}`, import.meta.url).href;
}

function runModule(source: string): ChildProcess {
  return spawn(process.execPath, ["--input-type=module", "-e", source], {
    cwd: fileURLToPath(new URL("../../", import.meta.url)),
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function nextLine(child: ChildProcess): Promise<void> {
  if (child.stdout === null) throw new Error("the child has no stdout");
  await Promise.race([
    once(child.stdout, "data"),
    once(child, "exit").then(([code]) => Promise.reject(new Error(`the child ended with ${code}`))),
  ]);
}

async function killHard(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}

/** The running Deno processes that a process has started. */
async function functionsProcessesOf(parent: number): Promise<number[]> {
  const found: number[] = [];
  for (const name of (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry))) {
    const status = await readFile(`/proc/${name}/status`, "utf8").catch(() => "");
    const command = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    if (status.includes(`\nPPid:\t${parent}\n`) && command.includes("dispatcher.ts"))
      found.push(Number(name));
  }
  return found;
}
