/** Options that several commands share, and how their values are checked: each message names the option and its rule. */
import { type Command, InvalidArgumentError } from "commander";

export interface OutputOptions {
  readonly json: boolean;
}

export interface DatabaseOptions extends OutputOptions {
  readonly dbUrl?: string;
  readonly allowRemote: boolean;
}

/** Adds `--json`. */
export function withOutputOptions(command: Command): Command {
  return command.option("--json", "print one JSON object on stdout, everything else on stderr", false);
}

/** Adds `--db-url`, `--allow-remote` and `--json`. */
export function withDatabaseOptions(command: Command): Command {
  return withOutputOptions(
    command
      .option("--db-url <url>", "the database; else DATABASE_URL, else the local stack that runs")
      .option("--allow-remote", "use a database that is not on this machine", false),
  );
}

/** A parser of whole numbers in a range. */
export function wholeNumber(low: number, high: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (/^-?\d+$/.test(text) && number >= low && number <= high) return number;
    throw new InvalidArgumentError(`It must be a whole number from ${low} to ${high}.`);
  };
}

/** A parser of numbers in a range. */
export function numberBetween(low: number, high: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (/^-?\d+(\.\d+)?$/.test(text) && number >= low && number <= high) return number;
    throw new InvalidArgumentError(`It must be a number from ${low} to ${high}.`);
  };
}

/** A parser of texts that are neither blank nor longer than so many characters. */
export function textUpTo(longest: number): (text: string) => string {
  return (text) => {
    if (text.trim() === "") throw new InvalidArgumentError("It must not be empty.");
    if (text.length > longest)
      throw new InvalidArgumentError(`It must have at most ${longest.toLocaleString("en")} characters.`);
    return text;
  };
}

/** Collections' names are short identifiers; a longer text is no name of one. */
export const collectionName = textUpTo(63);

/** Collects an option that may be given several times; each value once. */
export function several<T>(
  parse: (text: string) => T,
): (text: string, before: readonly T[] | undefined) => T[] {
  return (text, before = []) => {
    const value = parse(text);
    if (before.includes(value)) throw new InvalidArgumentError("It is given twice.");
    return [...before, value];
  };
}

/** A version's number. */
export const versionNumber = wholeNumber(1, 1_000_000);
