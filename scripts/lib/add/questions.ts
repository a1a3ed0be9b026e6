/** What `reembed add` asks at a terminal: whatever no flag has said, with the facts of the table as suggestions. */
import { createInterface } from "node:readline/promises";
import type { Readable, Writable } from "node:stream";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import { isVector, type TableFacts, type VectorTableFacts } from "./inspect.ts";
import { type AddAnswers, defaultName, recommendPlacement } from "./plan.ts";
import { likelySpace } from "./spaces.ts";

/** Asks one question; an empty answer takes the suggestion. */
export type Ask = (question: string, suggestion: string) => Promise<string>;

/**
 * Runs `work` with a terminal to ask at.
 * @throws ReembedError `invalid_request` when the terminal is closed (Ctrl-C, Ctrl-D) before a question was answered
 */
export async function withTerminal<T>(
  input: Readable,
  output: Writable,
  work: (ask: Ask) => Promise<T>,
): Promise<T> {
  const terminal = createInterface({ input, output });
  const gone = new Promise<never>((_, reject) => {
    terminal.once("close", () =>
      reject(
        new ReembedError(
          "invalid_request",
          "the questions were not all answered",
          "Nothing was written. Run it again, or say what you know by options.",
        ),
      ),
    );
  });
  // It is closed at the end, too, when nobody waits for an answer any more.
  gone.catch(() => {});
  try {
    return await work(async (question, suggestion) => {
      const shown = suggestion === "" ? "" : ` [${suggestion}]`;
      const answer = await Promise.race([terminal.question(`${question}${shown}: `), gone]);
      return answer.trim() || suggestion;
    });
  } finally {
    terminal.close();
  }
}

/** Names in a list as people write it, commas between them. */
export const splitNames = (text: string): string[] =>
  text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");

/** Fills in what was not said. What cannot be used is refused later, where flags are, too. */
export async function askForAnswers(
  ask: Ask,
  facts: TableFacts,
  given: AddAnswers,
  oldTable: VectorTableFacts | undefined,
): Promise<AddAnswers> {
  const name = given.name ?? (await ask("Name of the collection", defaultName(facts.name)));
  const key =
    given.key ??
    (facts.primaryKey.length > 0
      ? undefined
      : splitNames(await ask("Columns that name a row (unique, not null), with commas between", "")));
  let { text, textColumns } = given;
  if (text === undefined && textColumns === undefined) {
    const texts = facts.columns.filter(({ typeName }) => ["text", "varchar"].includes(typeName));
    const suggestion = texts.map((column) => column.name).join(", ");
    const answer = await ask("Text to embed: columns with commas between, or one SQL expression", suggestion);
    const names = splitNames(answer);
    const areColumns =
      names.length > 0 && names.every((word) => facts.columns.some((column) => column.name === word));
    if (areColumns) textColumns = names;
    else text = answer;
  }
  const holder = oldTable ?? facts;
  const vectors = holder.columns.filter(isVector);
  let { oldColumn, oldSpace } = given;
  if (oldColumn === undefined && vectors.length > 0) {
    const answer = await ask(
      `Vectors that are there and searched (${vectors.map((column) => column.name).join(", ")}), or none`,
      vectors[0]?.name ?? "none",
    );
    oldColumn = answer === "none" ? null : answer;
  }
  if (oldColumn != null && oldSpace === undefined) {
    const dimensions = vectors.find((column) => column.name === oldColumn)?.dimensions;
    oldSpace = await ask(
      "The model that made them, as provider/model@dimensions; external/... when only another program can make them",
      dimensions == null ? "" : likelySpace(dimensions),
    );
  }
  const newSpace =
    given.newSpace ?? (await ask("The model to move to", "openai/text-embedding-3-small@1536"));
  const filters = given.filters ?? splitNames(await ask("Columns that searches filter by, or nothing", ""));
  const lexical =
    given.lexical !== undefined
      ? given.lexical
      : await ask(
          "Search by words too, in this text search configuration (english, simple, ...), or none",
          "none",
        );
  const advice = recommendPlacement(facts);
  const place =
    given.vectors ??
    (await ask(
      `New vectors in a table of their own or in a column; ${advice.placement} is advised: ${advice.reasons.join("; ")}`,
      advice.placement,
    ));
  return {
    ...given,
    name,
    key,
    text,
    textColumns,
    oldColumn,
    oldSpace,
    newSpace,
    filters,
    lexical: lexical === "none" ? null : lexical,
    vectors: place === "column" ? "column" : "table",
  };
}

/**
 * Without a terminal nothing is guessed that decides what the vectors mean.
 * @throws ReembedError `invalid_request` naming the option that is missing
 */
export function requireAnswers(given: AddAnswers, facts: TableFacts): AddAnswers {
  if (given.text === undefined && (given.textColumns ?? []).length === 0) {
    throw new ReembedError(
      "invalid_request",
      "--columns is missing: the text of a row that is embedded",
      `Name columns, such as --columns title,body, or give an SQL expression with --text. There are: ${facts.columns.map(({ name }) => name).join(", ")}.`,
    );
  }
  const vectors = facts.columns.filter(isVector).map(({ name }) => name);
  if (given.oldColumn === undefined && vectors.length > 0) {
    throw new ReembedError(
      "invalid_request",
      `--old-column is missing: there are vectors in ${vectors.join(", ")}`,
      "Name those that are searched now; --old-column none leaves them alone.",
    );
  }
  return given;
}
