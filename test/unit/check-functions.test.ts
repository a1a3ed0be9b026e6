import { expect, test } from "vitest";
import { findMismatches, readDeclaredFunctions } from "../../scripts/check-functions.ts";

const TOML = `
project_id = "x"
[functions.search]
verify_jwt = false # publishable keys are no JWTs
import_map = "./functions/deno.json"
entrypoint = "./functions/search/index.ts"
[db]
major_version = 17
`;

test("reads the settings of each declared function and of nothing else", () => {
  const [search, ...others] = readDeclaredFunctions(TOML);
  expect(others).toEqual([]);
  expect(search?.name).toBe("search");
  expect(search?.settings.get("entrypoint")).toBe("./functions/search/index.ts");
  expect([...(search?.settings.keys() ?? [])]).toEqual(["verify_jwt", "import_map", "entrypoint"]);
});

test("a folder that is not declared, a declaration without a folder and a file that is missing are told", () => {
  const declared = readDeclaredFunctions(TOML);
  expect(findMismatches(declared, ["search"], () => true)).toEqual([]);
  expect(findMismatches(declared, ["search", "ask"], () => true)).toEqual([
    "functions/ask is not declared in config.toml",
  ]);
  expect(findMismatches(declared, [], (path) => path.endsWith(".json"))).toEqual([
    "[functions.search] is declared and functions/search is missing",
    "[functions.search] entrypoint names ./functions/search/index.ts, which is missing",
  ]);
  expect(findMismatches(readDeclaredFunctions("[functions.ask]"), ["ask"], () => true)).toEqual([
    "[functions.ask] must say verify_jwt",
    "[functions.ask] must say entrypoint",
    "[functions.ask] must say import_map",
  ]);
});
