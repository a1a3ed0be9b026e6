/** `reembed search`: one query, answered by the active version or by the one that is named. */
import { type Command, Option } from "commander";
import {
  type FallbackReason,
  MODES,
  type Mode,
  type SearchAnswer,
  search,
} from "../../supabase/functions/_shared/search.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";
import { withDatabase } from "../lib/database.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, type Output, percent, table } from "../lib/output.ts";
import { embeddersFrom } from "../lib/providers.ts";
import { chooseCollection } from "../lib/targets.ts";

/** As the edge function takes it. */
const LONGEST_QUERY = 8_000;
const LONGEST_TITLE = 60;

const WHY_LEXICAL: Readonly<Record<FallbackReason, string>> = {
  query_budget_spent: "the budget for queries is spent",
  provider_unavailable: "the provider cannot be asked now",
};

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly count: number;
  readonly mode: Mode;
}

export function addSearch(program: Command): void {
  withDatabaseOptions(program.command("search"))
    .description("Searches a collection by text and prints the nearest rows, best first.")
    .argument("<text>", "what to look for", textUpTo(LONGEST_QUERY))
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; default: the active one", versionNumber)
    .option("--count <rows>", "rows at most, 1 to 1000", wholeNumber(1, 1_000), 5)
    .addOption(
      new Option("--mode <mode>", "by meaning, by meaning and words, or by words alone")
        .choices(MODES)
        .default("semantic"),
    )
    .addHelpText(
      "after",
      '\nExample:\n  npm run -s reembed -- search "how do I undo a commit" --collection course_content --count 3',
    )
    .action(async (query: string, options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const answer = await search(
          {
            caller: db.rpc,
            service: db.rpc,
            embedderFor: embeddersFrom(process.env),
            callerHash: null,
            switches: readSwitches(process.env),
          },
          {
            collection: await chooseCollection(db, options.collection),
            query,
            mode: options.mode,
            version: options.version,
            match_count: options.count,
          },
        );
        print(answer, out);
      });
    });
}

function print(answer: SearchAnswer, out: Output): void {
  const { collection, version, space, results, coverage, reason } = answer;
  const lexical = space.startsWith("hash/");
  out.say(`${collection} v${version}, ${space}`);
  if (lexical)
    out.say("This space is lexical, not semantic: it finds shared words and pieces of words, no synonyms.");
  if (reason !== undefined) out.say(`Found by words, not by meaning: ${WHY_LEXICAL[reason]}.`);
  if (coverage !== undefined)
    out.say(`This version is still loading: it has ${percent(coverage)} of the rows.`);
  if (results.length === 0) out.say("No row was found.");
  else {
    const rows = results.map((row, index) => [
      String(index + 1),
      row.similarity?.toFixed(4) ?? "",
      shorten(row.title ?? row.id),
      String(row.url ?? ""),
    ]);
    for (const line of table(["#", "similarity", "title", "url"], rows)) out.say(line);
  }
  out.result({ ...answer, lexical });
}

/** One line of a stored text, without what would move the terminal's cursor. */
function shorten(value: unknown): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  const line = String(value ?? "").replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ");
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line;
}
