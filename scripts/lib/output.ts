/**
 * What a command says and where. Without `--json` a person reads stdout. With it stdout carries one JSON object, as its last and only line,
 * and everything else goes to stderr. Failures are two lines, `error:` and `hint:`; never a stack trace.
 */
import { CommanderError } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";

/** 0: done; 1: it failed; 2: it was called wrongly. */
export type ExitCode = 0 | 1 | 2;

export interface Output {
  readonly json: boolean;
  /** A line for a person: the command's answer, unless the answer is JSON. */
  say(line: string): void;
  /** A line beside the answer: progress, warnings, what goes on meanwhile. */
  note(line: string): void;
  /** The command's answer as JSON; without `--json` nothing. Once, at the end. */
  result(value: object): void;
}

/** The output of a command in this process. */
export function createOutput(json: boolean): Output {
  const note = (line: string) => void process.stderr.write(`${harmless(line)}\n`);
  return {
    json,
    say: json ? note : (line) => void process.stdout.write(`${harmless(line)}\n`),
    note,
    result: (value) => {
      if (json) process.stdout.write(`${JSON.stringify(value)}\n`);
    },
  };
}

/** What went wrong, in one line each. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly exitCode: ExitCode;
}

/**
 * Anything thrown, as what is shown for it.
 * @param command the words before the options, for the hint about `--help`
 */
export function failureOf(error: unknown, command: string): Failure {
  if (error instanceof CommanderError) {
    return {
      code: "invalid_request",
      // Without a command, commander prints the help and says no more than that.
      message:
        error.code === "commander.help"
          ? "a command is missing"
          : oneLine(error.message.replace(/^error: /, "")),
      hint: `See: ${command} --help`,
      exitCode: error.exitCode === 0 ? 0 : 2,
    };
  }
  if (error instanceof ReembedError) {
    const { code, message, hint } = error;
    return {
      code,
      message: oneLine(message),
      hint: oneLine(hint),
      exitCode: code === "invalid_request" ? 2 : 1,
    };
  }
  return {
    code: "internal_error",
    message: oneLine(error instanceof Error ? `${error.name}: ${error.message}` : String(error)),
    hint: "This is a bug or a broken installation: please report it with the command you ran.",
    exitCode: 1,
  };
}

/** Prints a failure: to stderr for a person, or as the error object on stdout. */
export function printFailure({ code, message, hint }: Failure, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify({ error: { code, message, hint } })}\n`);
  else process.stderr.write(harmless(`error: ${message}\n${hint === "" ? "" : `hint: ${hint}\n`}`));
}

/** A text without what moves the cursor, changes the terminal or turns the direction of what follows: names, texts and addresses are other people's. */
export function harmless(text: string): string {
  return text.replace(/(?![\t\n])\p{Cc}|[\u202a-\u202e\u2066-\u2069]/gu, "\ufffd");
}

/** Columns padded to their widest cell, two spaces between them, the first line the headings. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  return [headings, ...rows].map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/** A number with its noun: `1 request`, `2 requests`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Dollars to four significant places below a cent, else to the cent. */
export function dollars(amount: number): string {
  return amount === 0 || amount >= 0.01 ? `$${amount.toFixed(2)}` : `$${amount.toPrecision(2)}`;
}

/** A share of 1 in percent; only what is whole is shown as 100. */
export function percent(share: number): string {
  return `${share >= 1 ? 100 : Math.min(99.9, Math.round(share * 1000) / 10)} %`;
}

/** Seconds in the largest unit that keeps them readable: `45 s`, `12 min`, `3 h`, `2 d`. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129_600 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`;
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ").trim();
}
