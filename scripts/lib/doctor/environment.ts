/** The switches of the environment that the doctor runs in, against the database: what the functions would refuse at their first request. */
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import {
  checkActiveVersion,
  checkModel,
  readSwitches,
} from "../../../supabase/functions/_shared/switches.ts";
import type { Finding, Patient, Rule } from "./rule.ts";

export const environment: Rule = {
  number: 26,
  name: "environment",
  check: async (patient) => {
    const findings: Finding[] = [];
    /** Notes what is refused; true when nothing was. */
    const passes = (object: string, check: () => void): boolean => {
      try {
        check();
        return true;
      } catch (error) {
        if (!(error instanceof ReembedError)) throw error;
        findings.push({ level: "error", object, message: error.message, fix: error.hint });
        return false;
      }
    };
    if (!passes("environment", () => void readSwitches(patient.env))) return findings;
    const switches = readSwitches(patient.env);
    for (const space of new Map(
      patient.versions.map((version) => [version.space.id, version.space]),
    ).values()) {
      if (space.provider === "openai")
        passes("OPENAI_EMBEDDING_MODEL", () => checkModel(switches.OPENAI_EMBEDDING_MODEL, space));
    }
    for (const active of await activeVersions(patient)) {
      passes("USE_VECTOR_1536", () => checkActiveVersion(switches.USE_VECTOR_1536, active));
      const threshold = switches.SIMILARITY_THRESHOLD;
      if (threshold === undefined || threshold === active.threshold) continue;
      findings.push({
        level: "warning",
        object: "SIMILARITY_THRESHOLD",
        message: `it is ${threshold}, and the threshold of ${active.collection} v${active.version} is ${active.threshold}: one of another model keeps everything or nothing`,
        fix: "Unset it, or set it to what reembed evaluate says keeps as many results.",
      });
    }
    return findings;
  },
};

const activeVersions = ({ db }: Patient) =>
  db.query<{ collection: string; version: number; space: string; dimensions: number; threshold: number }>(
    `select c.name as collection, v.number as version, s.id as space, s.dimensions, v.match_threshold as threshold
       from reembed.collections c join reembed.versions v on v.id = c.active_version join reembed.spaces s on s.id = v.space_id order by 1`,
  );
