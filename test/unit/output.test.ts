/** What a command prints: stored texts, names and messages of others never move the terminal that shows them. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { createOutput, failureOf, printFailure, table } from "../../scripts/lib/output.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

const HOSTILE = "a\u001b]0;title\u0007 b\u001b[2J c\u202e d\r\u009b31m\u2066";
const MOVES = /[^\P{Cc}\n\t]|[\u202a-\u202e\u2066-\u2069]/u;

afterEach(() => {
  vi.restoreAllMocks();
});

/** What is written to stdout and stderr meanwhile. */
function written(work: () => void): string {
  let all = "";
  for (const stream of [process.stdout, process.stderr])
    vi.spyOn(stream, "write").mockImplementation((chunk) => {
      all += chunk;
      return true;
    });
  work();
  vi.restoreAllMocks();
  return all;
}

describe("what moves a terminal", () => {
  test("is shown as what cannot be shown, in every line", () => {
    const said = written(() => {
      const out = createOutput(false);
      out.say(HOSTILE);
      out.note(HOSTILE);
      for (const line of table(["x"], [[HOSTILE]])) out.say(line);
    });
    expect(said.match(/a\ufffd\]0;title/g)).toHaveLength(3);
    expect(said).not.toMatch(MOVES);
  });

  test("is shown so in a failure, too", () => {
    const error = new ReembedError("unknown_collection", `collection '${HOSTILE}' is unknown`, HOSTILE);
    const said = written(() => printFailure(failureOf(error, "reembed"), false));
    expect(said).toMatch(/^error: collection 'a\ufffd.*\nhint: a\ufffd.*\n$/);
    expect(said).not.toMatch(MOVES);
  });

  test("is as it is in JSON, which escapes it", () => {
    const said = written(() => createOutput(true).result({ text: HOSTILE }));
    expect(JSON.parse(said)).toEqual({ text: HOSTILE });
  });

  test("is not what other scripts need", () => {
    const text = "می\u200cخواهم 👩\u200d🔬 é\tü\nzwei";
    expect(written(() => createOutput(false).say(text))).toBe(`${text}\n`);
  });
});
