/** The switches of the environment that the doctor runs in, against the database: what the functions would refuse at their first request. */
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import {
  checkInstead,
  checkModel,
  type RoutedVersion,
  readSwitches,
  versionInstead,
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
    const chatModel = switches.OPENAI_CHAT_MODEL;
    if (chatModel !== undefined && !(await isKnownModel(patient, `openai/${chatModel}`))) {
      findings.push({
        level: "error",
        object: "OPENAI_CHAT_MODEL",
        message: `it is ${chatModel}, which the database does not know: whatever asks it is refused`,
        fix: `Make it known with its prices: select reembed.set_completion_model('openai', '${chatModel}', <input $>, <output $>); or unset it.`,
      });
    }
    for (const active of await activeVersions(patient)) {
      const use1536 = switches.USE_VECTOR_1536;
      const instead = versionInstead(use1536, active);
      if (use1536 !== undefined && instead !== undefined) {
        const wanted = await loadedVersion(patient, active.collection, instead);
        if (passes("USE_VECTOR_1536", () => checkInstead(use1536, active, wanted))) {
          findings.push({
            level: "warning",
            object: "USE_VECTOR_1536",
            message: `it is ${use1536}: searches of ${active.collection} go to its version ${instead}, whichever is active`,
            fix: "Unset it where reembed cutover and reembed rollback are to switch searches.",
          });
        }
      }
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

async function isKnownModel({ db }: Patient, id: string): Promise<boolean> {
  return (await db.query("select from reembed.completion_models where id = $1", [id])).length > 0;
}

const activeVersions = ({ db }: Patient) =>
  db.query<{ collection: string; version: number; space: string; dimensions: number; threshold: number }>(
    `select c.name as collection, v.number as version, s.id as space, s.dimensions, v.match_threshold as threshold
       from reembed.collections c join reembed.versions v on v.id = c.active_version join reembed.spaces s on s.id = v.space_id order by 1`,
  );

/** A version as searches see it; undefined where there is none. */
async function loadedVersion(
  { db }: Patient,
  collection: string,
  version: number,
): Promise<RoutedVersion | undefined> {
  const [row] = await db.query<{ route: RoutedVersion }>(
    `select public.embedding_route(c.name, v.number) as route
       from reembed.collections c join reembed.versions v on v.collection_id = c.id
      where c.name = $1 and v.number = $2 and v.state <> 'retired'`,
    [collection, version],
  );
  return row?.route;
}
