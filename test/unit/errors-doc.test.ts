/** docs/errors.md lists what the code knows, all of it and nothing else. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { MIGRATIONS_DIRECTORY } from "../../scripts/lib/migrations.ts";
import { ERRORS } from "../../supabase/functions/_shared/errors.ts";
import { PROVIDER_FAULTS } from "../../supabase/functions/_shared/provider-error.ts";
import { CODE_OF_SQLSTATE } from "../../supabase/functions/_shared/rpc.ts";

const DOCUMENT = readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8");

/** The cells of the tables under a heading, without the lines of their heads. */
function tableUnder(heading: string): string[][] {
  const section = DOCUMENT.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? "";
  const rows = section.match(/^\|.*\|$/gm) ?? [];
  return rows
    .map((row) =>
      row
        .slice(1, -1)
        .split(" | ")
        .map((cell) => cell.trim()),
    )
    .filter(([first]) => first?.startsWith("`"));
}

const unquoted = (cell = ""): string => cell.replaceAll("`", "");

describe("docs/errors.md", () => {
  test("lists every code with its status and meaning, and what to do", () => {
    const rows = tableUnder("Codes");
    expect(rows.map(([code, status, meaning]) => [unquoted(code), Number(status), meaning])).toEqual(
      Object.entries(ERRORS).map(([code, { status, meaning }]) => [code, status, meaning]),
    );
    for (const [, , , whatToDo] of rows) expect(whatToDo).toMatch(/\w/);
  });

  test("lists every SQLSTATE that has a code", () => {
    const listed = tableUnder("SQLSTATEs").flatMap(([states, code]) =>
      unquoted(states)
        .split(", ")
        .map((state) => [state, unquoted(code)]),
    );
    expect(Object.fromEntries(listed)).toEqual(CODE_OF_SQLSTATE);
    expect(listed).toHaveLength(Object.keys(CODE_OF_SQLSTATE).length);
  });

  test("lists every SQLSTATE that a migration raises", () => {
    const raised = readdirSync(MIGRATIONS_DIRECTORY).flatMap((file) =>
      [...readFileSync(`${MIGRATIONS_DIRECTORY}/${file}`, "utf8").matchAll(/errcode = '(\w{5})'/g)].map(
        ([, state]) => state,
      ),
    );
    const listed = tableUnder("SQLSTATEs").flatMap(([states]) => unquoted(states).split(", "));
    expect(raised.length).toBeGreaterThan(0);
    expect(listed).toEqual(expect.arrayContaining(raised));
  });

  test("lists every fault of a provider with its code, its price and its hint", () => {
    const PAID = { no: "nothing", maybe: "perhaps: `lost`, by our estimate" };
    expect(
      tableUnder("Faults of a provider").map(([fault, code, paid, , hint]) => [
        unquoted(fault),
        unquoted(code),
        paid,
        hint,
      ]),
    ).toEqual(
      Object.entries(PROVIDER_FAULTS).map(([fault, { code, billed, hint }]) => [
        fault,
        code,
        PAID[billed],
        hint,
      ]),
    );
  });
});
