/** docs/privileges.md is what the migrations and the functions make, under both of Supabase's default privileges; nothing has no line in it. */
import { readFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { type ObjectPrivileges, readPrivileges, readStrays } from "../../scripts/lib/privileges/catalogue.ts";
import { privilegesDocument } from "../../scripts/lib/privileges/document.ts";
import { type FunctionKeys, readFunctionKeys } from "../../scripts/lib/privileges/edge.ts";
import { withClient } from "../../scripts/lib/test-server.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const written = await readFile(new URL("../../docs/privileges.md", import.meta.url), "utf8");

/** Something that a migration may do, and what must show of it. */
const CHANGES = [
  ["create table public.new_table (id int primary key)", "`new_table`"],
  ["create view public.new_view as select 1 as one", "`new_view`"],
  ["create function public.new_function() returns int language sql as 'select 1'", "`new_function`"],
  ["create sequence reembed.new_sequence", "`new_sequence`"],
  ["grant update (title) on public.course_content to anon", "update (title)"],
  [
    "create policy new_policy on public.course_content for delete to authenticated using (true)",
    "delete to authenticated",
  ],
  [
    "alter function public.match_course_content security definer",
    "`match_course_content` | execute | execute | execute | | its owner's rights",
  ],
] as const;

describePostgres("docs/privileges.md", () => {
  let functions: FunctionKeys[];
  beforeAll(async () => {
    functions = await readFunctionKeys();
  });

  describe.each(["old", "new"] as const)("under the %s default privileges", (defaults) => {
    let database: TestDatabase;
    beforeAll(async () => {
      database = await createDatabase({ defaults });
    });

    const read = () => withClient(database.url, readPrivileges);
    test("says what is; npm run privileges -- --write writes it", async () => {
      expect(privilegesDocument(await read(), functions)).toBe(written);
    });

    test("whatever is new shows: an object, a column, a policy, a function that takes its owner's rights", async () => {
      const text = await withClient(database.url, async (client) => {
        await client.query("begin");
        await client.query(CHANGES.map(([change]) => change).join(";"));
        return privilegesDocument(await readPrivileges(client), functions);
      });
      const known = written.split("\n");
      const shown = text
        .split("\n")
        .filter((line) => !known.includes(line))
        .join("\n");
      for (const [, line] of CHANGES) expect(shown).toContain(line);
    });

    test("whatever stands in a schema that it has no place for shows, and there is none", async () => {
      const strays = (change: string) =>
        withClient(database.url, async (client) => {
          await client.query("begin");
          await client.query(change);
          return readStrays(client);
        });
      expect(await strays("")).toEqual([]);
      expect(
        await strays(`create schema hidden; create table hidden.stray (id int);
          create function extensions.stray() returns int language sql as 'select 1'`),
      ).toEqual(["function extensions.stray", "table hidden.stray"]);
    });

    test("nothing in reembed is open to anybody", async () => {
      const isOpen = ({ schema, name, kind, rights }: ObjectPrivileges) =>
        (schema === "reembed" || (kind === "schema" && name === "reembed")) &&
        rights.some((right) => right !== "");
      expect((await read()).filter(isOpen)).toEqual([]);
    });
  });

  test("every function takes a key, or says that it takes none", () => {
    expect(functions.map(({ name }) => name)).toContain("search");
    for (const { name, methods, keys } of functions)
      expect({ name, methods: methods.length > 0, keys: keys.length > 0 }).toEqual({
        name,
        methods: true,
        keys: true,
      });
  });
});
