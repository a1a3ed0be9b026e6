/** `reembed canary`: lets a version answer a share of the callers, and reports how it does beside the active one. */
import type { Command } from "commander";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, percent as share, table } from "../lib/output.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly percent?: number;
  readonly reason?: string;
}

const report = z.object({
  collection: z.string(),
  version: z.number().nullable(),
  percent: z.number(),
  since: z.string().nullable(),
  rule: z.object({ factor: z.number(), min_searches: z.number(), window_minutes: z.number() }),
  /** The active version first. */
  versions: z.array(
    z.object({
      version: z.number(),
      searches: z.number(),
      empty: z.number(),
      empty_share: z.number().nullable(),
      p50_ms: z.number().nullable(),
      p95_ms: z.number().nullable(),
    }),
  ),
  verdict: z.enum(["off", "waiting", "within", "beyond", "resting"]),
  why: z.string(),
});

export function addCanary(program: Command): void {
  withDatabaseOptions(program.command("canary"))
    .description(
      "Lets a version answer the searches by text of a share of the callers; without --percent reports how it does.",
    )
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; with --percent 0 it may be left out", versionNumber)
    .option("--percent <share>", "of the callers, 0 to 100; 0 ends it", wholeNumber(0, 100))
    .option("--reason <text>", "why; it is written into the events", textUpTo(500))
    .addHelpText(
      "after",
      `
Callers are told apart by the user's token, else by the header x-reembed-caller; who has neither is answered by the active version. A caller stays on
one side while the share stays or grows. When the version leaves more searches empty or is slower than a rule allows, its share becomes 0 by itself.

Example:
  npm run -s reembed -- canary --collection course_content --version 2 --percent 5
  npm run -s reembed -- canary --collection course_content`,
    )
    .action(async (options: Options) => {
      const { percent, reason } = options;
      if (percent === undefined && (options.version !== undefined || reason !== undefined)) {
        throw new ReembedError(
          "invalid_request",
          "--percent is missing: --version and --reason belong to a share that is set",
          "Add --percent, or leave both out for the report.",
        );
      }
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const collection = await chooseCollection(db, options.collection);
        const version = percent === undefined ? undefined : await versionToSet(db, collection, options);
        const [row] =
          version === undefined
            ? await db.query<{ answer: unknown }>("select reembed.traffic($1) as answer", [collection])
            : await db.query<{ answer: unknown }>(
                "select reembed.set_traffic($1, $2, $3, reason => $4) as answer",
                [collection, version, percent, reason ?? null],
              );
        const answer = report.parse(row?.answer);
        for (const line of describe(answer)) out.say(line);
        out.result(answer);
      });
    });
}

/** The version as given; for a share of 0 that which has one, undefined where none has. */
async function versionToSet(
  db: Database,
  collection: string,
  { version, percent }: Options,
): Promise<number | undefined> {
  if (version !== undefined) return version;
  if (percent !== 0) {
    throw new ReembedError(
      "invalid_request",
      "--version is missing: which version is to answer the share?",
      "Add --version.",
    );
  }
  const [row] = await db.query<{ answer: unknown }>("select reembed.traffic($1) as answer", [collection]);
  return report.parse(row?.answer).version ?? undefined;
}

function describe({ collection, version, percent, rule, versions, verdict, why }: z.infer<typeof report>) {
  const lines =
    version === null
      ? [`${collection}: no canary`]
      : [`${collection}: v${version} answers ${percent} % of the callers`];
  if (versions.length > 0) {
    const number = (value: number | null) => (value === null ? "-" : String(value));
    lines.push(
      ...table(
        ["version", "searches", "empty", "", "p50 ms", "p95 ms"],
        versions.map((one) => [
          `v${one.version}`,
          String(one.searches),
          String(one.empty),
          one.empty_share === null ? "-" : share(one.empty_share),
          number(one.p50_ms),
          number(one.p95_ms),
        ]),
      ),
    );
  }
  const { factor, min_searches, window_minutes } = rule;
  return [
    ...lines,
    `rule: at most ${factor} times the active version's empty answers and p95, over ${min_searches} searches of each and at most ${window_minutes} minutes`,
    `${verdict}: ${why}`,
  ];
}
