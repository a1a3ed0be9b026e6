/** `reembed doctor`: looks for what is wrong or will be, and says what to do about each thing. Changes nothing. */
import { resolve } from "node:path";
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { examine, type Report } from "../lib/doctor/examine.ts";
import type { Level } from "../lib/doctor/rule.ts";
import { type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, type Output, plural } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly provider: boolean;
  readonly full: boolean;
  readonly project: string;
}

export function addDoctor(program: Command): void {
  withDatabaseOptions(program.command("doctor"))
    .description(
      "Looks for what is wrong in the database, the schedule, the provider and the project's files.",
    )
    .option("--no-provider", "ask no provider; else one short text is embedded in each space")
    .option("--full", "also what reads every row of large tables", false)
    .option("--project <folder>", "the project whose environment files are looked at", ".")
    .addHelpText(
      "after",
      `
The exit code is 1 when there is an error; warnings alone leave it at 0. docs/doctor.md has a section for each rule.

Example:
  npm run -s reembed -- doctor --no-provider`,
    )
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      const report = await withDatabase(
        options,
        (db) =>
          examine(db, {
            full: options.full,
            provider: options.provider,
            project: resolve(options.project),
            env: process.env,
          }),
        1,
      );
      print(report, out);
      if (count(report, "error") > 0) process.exitCode = 1;
    });
}

function print(report: Report, out: Output): void {
  for (const level of ["error", "warning", "info"] as const) {
    for (const finding of report.findings.filter((found) => found.level === level)) {
      out.say(`${level} ${finding.number} ${finding.rule}: ${finding.object}: ${finding.message}`);
      out.say(`  fix: ${finding.fix}`);
    }
  }
  for (const { number, rule, reason } of report.skipped) out.say(`not checked ${number} ${rule}: ${reason}`);
  const counts = { errors: count(report, "error"), warnings: count(report, "warning") };
  out.say(
    `${report.rules} rules: ${plural(counts.errors, "error")}, ${plural(counts.warnings, "warning")}, ${report.skipped.length} not checked`,
  );
  out.result({ ...counts, ...report });
}

const count = ({ findings }: Report, level: Level): number =>
  findings.filter((finding) => finding.level === level).length;
