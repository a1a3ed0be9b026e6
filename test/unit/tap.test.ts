import { expect, test } from "vitest";
import { tapFailures } from "../support/tap.ts";

test("a kept plan of passing, skipped and TODO tests has no failure", () => {
  const lines = [
    "1..3",
    "ok 1 - a",
    "ok 2 # SKIP no vault",
    "not ok 3 - c # TODO later",
    "# Failed (TODO) test 3",
  ];
  expect(tapFailures(lines)).toEqual([]);
});

test("a failing test is told with its diagnostics, and those only", () => {
  const lines = ["1..2", "not ok 1 - a", '# Failed test 1: "a"', "#   have: 1", "ok 2 - b", "# chatter"];
  expect(tapFailures(lines)).toEqual(["not ok 1 - a", '# Failed test 1: "a"', "#   have: 1"]);
});

test("a missing plan, a broken plan and a bail-out are failures", () => {
  expect(tapFailures(["ok 1"])).toEqual(["no plan: the file must call plan() or no_plan() and finish()"]);
  expect(tapFailures(["1..2", "ok 1"])).toEqual(["planned 2 tests and ran 1"]);
  expect(tapFailures(["1..1", "ok 1", "Bail out! syntax error"])).toEqual(["Bail out! syntax error"]);
});
