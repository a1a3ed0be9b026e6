/** `reembed ask`: one question, answered from a collection's rows, with the rows it rests on. */
import type { Command } from "commander";
import { type AskEnd, type AskGround, ask } from "../../supabase/functions/_shared/ask.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
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
import { createOutput, type Output, percent } from "../lib/output.ts";
import { chatModelFrom, embeddersFrom } from "../lib/providers.ts";
import { chooseCollection } from "../lib/targets.ts";

/** As the edge function takes it. */
const LONGEST_QUESTION = 2_000;

const WHY_EXTRACTIVE: Readonly<Record<NonNullable<AskEnd["reason"]>, string>> = {
  not_configured: "OPENAI_API_KEY is not set, so no language model can be asked",
  query_budget_spent: "the budget for queries is spent",
  provider_unavailable: "the language model cannot be asked now",
};

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly count: number;
  readonly query?: string;
}

/** @throws ReembedError `invalid_request` where there is no question, or there are two */
function questionOf(given: string | undefined, query: string | undefined): string {
  const [question, another] = [given, query].filter((text) => text !== undefined);
  if (question === undefined || another !== undefined) {
    throw new ReembedError(
      "invalid_request",
      question === undefined
        ? "missing required argument 'question'"
        : "--query: the question is given already",
      'Such as: reembed ask "How do I resolve a merge conflict?"',
    );
  }
  return question;
}

export function addAsk(program: Command): void {
  withDatabaseOptions(program.command("ask").alias("rag"))
    .description(
      "Answers a question from a collection's rows and prints the answer with its numbered sources.",
    )
    .argument("[question]", "what to answer", textUpTo(LONGEST_QUESTION))
    .option("--query <question>", "another way to say the question", textUpTo(LONGEST_QUESTION))
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version that finds the rows; default: the active one", versionNumber)
    .option("--limit, --count <rows>", "rows to answer from at most, 1 to 20", wholeNumber(1, 20), 6)
    .addHelpText(
      "after",
      '\nExample:\n  npm run -s reembed -- ask "How do I resolve a merge conflict?" --collection course_content',
    )
    .action(async (given: string | undefined, options: Options) => {
      const question = questionOf(given, options.query);
      const out = createOutput(options.json);
      const hangUp = new AbortController();
      const onInterrupt = () => hangUp.abort();
      process.once("SIGINT", onInterrupt);
      try {
        await withDatabase(options, async (db) => {
          const { ground, answer } = await ask(
            {
              caller: db.rpc,
              service: db.rpc,
              embedderFor: embeddersFrom(process.env),
              callerHash: null,
              switches: readSwitches(process.env),
              model: chatModelFrom(process.env),
              signal: hangUp.signal,
            },
            {
              collection: await chooseCollection(db, options.collection),
              question,
              version: options.version,
              match_count: options.count,
            },
          );
          let text = "";
          for (;;) {
            const step = await answer.next();
            if (step.done) return print(text, ground, step.value, out);
            text += step.value;
            // A person reads along.
            if (!out.json) process.stdout.write(step.value);
          }
        });
      } finally {
        process.removeListener("SIGINT", onInterrupt);
      }
    });
}

function print(text: string, ground: AskGround, end: AskEnd, out: Output): void {
  const { collection, version, space, sources, coverage } = ground;
  if (!out.json) process.stdout.write("\n");
  if (end.reason !== undefined)
    out.say(`\nThese are the passages themselves: ${WHY_EXTRACTIVE[end.reason]}.`);
  if (end.cut)
    out.say("\nThe answer was cut: the model came to its limit, or its provider withheld the rest.");
  const cited = sources.filter(({ number }) => end.cited.includes(number));
  if (cited.length > 0) out.say("");
  for (const { number, title, url } of cited) out.say(`[${number}] ${title}\n    ${url}`);
  out.note(`\n${collection} v${version}, ${space}${end.model === undefined ? "" : `; ${end.model}`}`);
  if (coverage !== undefined)
    out.note(`This version is still loading: it has ${percent(coverage)} of the rows.`);
  out.result({ answer: text.trim(), ...ground, ...end });
}
