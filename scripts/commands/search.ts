/** `reembed search`: one query, answered by the active version of a collection or of several, or by the version that is named. */
import { type Command, Option } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import {
  type FallbackReason,
  MODES,
  type Mode,
  type SearchAnswer,
  type SearchPorts,
  type SearchRow,
  search,
} from "../../supabase/functions/_shared/search.ts";
import {
  type CollectionAnswer,
  MOST_COLLECTIONS,
  type SeveralAnswer,
  searchSeveral,
} from "../../supabase/functions/_shared/search-several.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";
import { withDatabase } from "../lib/database.ts";
import {
  collectionName,
  type DatabaseOptions,
  numberBetween,
  several,
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
  readonly collection?: readonly string[];
  readonly version?: number;
  readonly count: number;
  readonly mode: Mode;
  readonly recency?: number;
  readonly halfLife?: number;
}

export function addSearch(program: Command): void {
  withDatabaseOptions(program.command("search"))
    .description("Searches collections by text and prints the nearest rows, best first.")
    .argument("<text>", "what to look for", textUpTo(LONGEST_QUERY))
    .option(
      "--collection <name>",
      "the collection; given several times all of them, fused; default: the only one, or the only one that has rows",
      several(collectionName),
    )
    .option("--version <number>", "the version; default: the active one", versionNumber)
    .option("--count <rows>", "rows at most, 1 to 1000", wholeNumber(1, 1_000), 5)
    .addOption(
      new Option(
        "--mode <mode>",
        "by meaning; by meaning, words and spelling; or by words and spelling alone",
      )
        .choices(MODES)
        .default("semantic"),
    )
    .option(
      "--recency <weight>",
      "rank by age, too: its share of the score, 0 to 1, where the collection's rows have a time",
      numberBetween(0, 1),
    )
    .option(
      "--half-life <days>",
      "with --recency: after so many days a row counts half as new; default: 30",
      numberBetween(0.001, 1_000_000),
    )
    .addHelpText(
      "after",
      `
Example:
  npm run -s reembed -- search "how do I undo a commit" --collection course_content --count 3
  npm run -s reembed -- search "perro" --collection lexicon --collection phrases --mode hybrid`,
    )
    .action(async (query: string, options: Options) => {
      if (options.halfLife !== undefined && options.recency === undefined)
        throw new ReembedError("invalid_request", "--half-life needs --recency", "Add --recency 0.3.");
      const out = createOutput(options.json);
      const { collection: named = [], version, mode, count } = options;
      checkCollections(named, options);
      const recency =
        options.recency === undefined
          ? undefined
          : { weight: options.recency, half_life_days: options.halfLife };
      await withDatabase(options, async (db) => {
        const ports: SearchPorts = {
          caller: db.rpc,
          service: db.rpc,
          embedderFor: embeddersFrom(process.env, db.rpc),
          callerHash: null,
          switches: readSwitches(process.env),
        };
        const asked = { query, mode, match_count: count };
        if (named.length > 1) {
          printSeveral(await searchSeveral(ports, { ...asked, collections: named }), out);
        } else {
          const collection = await chooseCollection(db, named[0]);
          printOne(await search(ports, { ...asked, collection, version, recency }), out);
        }
      });
    });
}

/** @throws ReembedError `invalid_request` */
function checkCollections(named: readonly string[], { version, recency }: Options): void {
  if (named.length > MOST_COLLECTIONS) {
    throw new ReembedError(
      "invalid_request",
      `--collection is given ${named.length} times: at most ${MOST_COLLECTIONS}`,
      "Search fewer at once.",
    );
  }
  if (named.length > 1 && version !== undefined) {
    throw new ReembedError(
      "invalid_request",
      "--version: a version is one collection's",
      "Leave it out: each collection answers through its active version.",
    );
  }
  if (named.length > 1 && recency !== undefined) {
    throw new ReembedError(
      "invalid_request",
      "--recency: age is ranked within one collection",
      "Leave it out, or name one collection.",
    );
  }
}

function printOne(answer: SearchAnswer, out: Output): void {
  sayWhoAnswered(answer, out);
  sayRows(answer.results, out);
  out.result({ ...answer, lexical: isLexical(answer) });
}

function printSeveral({ collections, results }: SeveralAnswer, out: Output): void {
  for (const answer of collections) sayWhoAnswered(answer, out);
  sayRows(results, out);
  out.result({ collections, results });
}

const isLexical = ({ space }: { readonly space: string }) => space.startsWith("hash/");

function sayWhoAnswered(answer: CollectionAnswer, out: Output): void {
  if ("error" in answer) {
    out.say(`${answer.collection} could not answer: ${answer.error.message}`);
    return;
  }
  const { collection, version, space, coverage, reason } = answer;
  out.say(`${collection} v${version}, ${space}`);
  if (isLexical(answer))
    out.say("This space is lexical, not semantic: it finds shared words and pieces of words, no synonyms.");
  if (reason !== undefined) out.say(`Found by words, not by meaning: ${WHY_LEXICAL[reason]}.`);
  if (coverage !== undefined)
    out.say(`This version is still loading: it has ${percent(coverage)} of the rows.`);
}

function sayRows(results: readonly SearchRow[], out: Output): void {
  if (results.length === 0) {
    out.say("No row was found.");
    return;
  }
  const cited = results.some(({ url }) => url != null);
  const fused = results.some(({ collection }) => collection !== undefined);
  const headings = ["#", "similarity", ...(fused ? ["collection"] : []), "title", ...(cited ? ["url"] : [])];
  const rows = results.map((row, index) => [
    String(index + 1),
    row.similarity?.toFixed(4) ?? "",
    ...(fused ? [String(row.collection)] : []),
    shorten(titleOf(row)),
    ...(cited ? [String(row.url ?? "")] : []),
  ]);
  for (const line of table(headings, rows)) out.say(line);
}

/** What a row is called: its title, else its texts, else its id. */
function titleOf(row: SearchRow): unknown {
  if (row.title != null) return row.title;
  const { collection: _, id, ...values } = row;
  const texts = Object.values(values).filter((value) => typeof value === "string" && value.trim() !== "");
  return texts.length > 0 ? texts.join(" · ") : id;
}

/** One line of a stored text, without what would move the terminal's cursor. */
function shorten(value: unknown): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  const line = String(value ?? "").replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ");
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line;
}
