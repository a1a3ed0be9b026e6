/** All rules in their order, and one after the other over a database. */
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import type { Database } from "../connection.ts";
import { embeddersFrom } from "../providers.ts";
import { listVersions } from "../targets.ts";
import { withoutStatementTimeout } from "../time-out.ts";
import { environment } from "./environment.ts";
import { secretsInFiles } from "./files.ts";
import { indexMemory } from "./index-memory.ts";
import { law } from "./law.ts";
import { createAsk, drift, provider } from "./provider.ts";
import { type Finding, type Patient, type Rule, sqlRule, type Verdict } from "./rule.ts";

/** By number; docs/doctor.md has a section for each. */
export const RULES: readonly Rule[] = [
  sqlRule(1, "vector-extension"),
  sqlRule(2, "schedule-extensions"),
  sqlRule(3, "service-functions"),
  sqlRule(4, "schema-closed"),
  sqlRule(5, "rpc-literals"),
  sqlRule(6, "vector-index"),
  sqlRule(7, "search-settings"),
  indexMemory,
  sqlRule(9, "role-settings"),
  sqlRule(10, "schedule", { needs: "cron" }),
  sqlRule(11, "poke-answers", { needs: "net" }),
  sqlRule(12, "waiting-jobs"),
  sqlRule(13, "stale-leases"),
  sqlRule(14, "failed-jobs"),
  sqlRule(15, "paused-spaces"),
  sqlRule(16, "budgets"),
  sqlRule(17, "registry"),
  sqlRule(18, "tracking-triggers"),
  sqlRule(19, "foreign-triggers"),
  sqlRule(20, "publications"),
  law,
  sqlRule(22, "secrets-in-cron", { needs: "cron", secret: true }),
  sqlRule(23, "secrets-in-functions", { secret: true }),
  sqlRule(24, "secrets-in-reports", { secret: true }),
  secretsInFiles,
  environment,
  provider,
  drift,
];

export interface Report {
  readonly findings: readonly (Finding & { readonly number: number; readonly rule: string })[];
  /** Rules that could not be checked here, and why. */
  readonly skipped: readonly { readonly number: number; readonly rule: string; readonly reason: string }[];
  readonly rules: number;
}

export interface ExamineOptions extends Pick<Patient, "full" | "provider" | "project" | "env"> {
  /** Which rules; default: all. */
  readonly rules?: readonly Rule[];
}

/**
 * Checks rule after rule. One that cannot be run is a finding of its own: what nobody could look at is not well.
 * @param db opened with one connection, which is left with an empty search path: names are then printed with their schemas, and nothing in public is
 * taken for a function of PostgreSQL's
 */
export async function examine(db: Database, options: ExamineOptions): Promise<Report> {
  const { rules = RULES, ...rest } = options;
  // A malformed switch is a finding of the rule environment; the other rules go on without the switches.
  const embedderFor = embeddersOrRefusals(options.env, db);
  await db.query("set search_path = pg_catalog, pg_temp");
  // What reads every row takes as long as it takes.
  if (options.full) await withoutStatementTimeout(db);
  const patient: Patient = {
    ...rest,
    db,
    versions: await listVersions(db),
    embedderFor,
    ask: createAsk(db, embedderFor, options.provider),
  };
  const findings: Report["findings"][number][] = [];
  const skipped: Report["skipped"][number][] = [];
  for (const rule of rules) {
    const verdict = await verdictOf(rule, patient);
    const label = { number: rule.number, rule: rule.name };
    if ("skipped" in verdict) skipped.push({ ...label, reason: verdict.skipped });
    else findings.push(...verdict.map((finding) => ({ ...label, ...finding })));
  }
  return { findings, skipped, rules: rules.length };
}

async function verdictOf(rule: Rule, patient: Patient): Promise<Verdict> {
  try {
    return await rule.check(patient);
  } catch (error) {
    if (!(error instanceof ReembedError)) throw error;
    return [
      {
        level: "error",
        object: `rule ${rule.name}`,
        message: `it could not be checked: ${error.message}`,
        fix: error.hint === "" ? "Run the doctor as the role that applied the migrations." : error.hint,
      },
    ];
  }
}

function embeddersOrRefusals(env: Patient["env"], db: Database): Patient["embedderFor"] {
  try {
    return embeddersFrom(env, db.rpc);
  } catch (error) {
    return () => {
      throw error;
    };
  }
}
