/** Whether each space's provider takes the key and answers in the space, by one real request, and whether it still answers what it did. */
import { z } from "zod";
import type { Embedder, Space } from "../../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../../supabase/functions/_shared/provider-error.ts";
import { chargedFor } from "../../../supabase/functions/_shared/queries.ts";
import { estimateTokens } from "../../../supabase/functions/_shared/tokens.ts";
import type { Database } from "../connection.ts";
import { purposeOfTrial } from "../probe.ts";
import type { Asked, Finding, Patient, Rule } from "./rule.ts";

/** Nobody's text. Its vectors are compared for as long as a space lives: another text would look like another model. */
const TEXT = "The quick brown fox jumps over the lazy dog, and this sentence never changes.";

/** Answers of one model to one text differ by rounding: their cosine stays above 0.999. Those of two models have nothing in common. */
const LEAST_SIMILARITY = 0.99;

/** Asks each space's provider once, with its cost reserved before and settled after; the request stands in the ledger as `check`. */
export function createAsk(
  db: Database,
  embedderFor: (space: Space) => Embedder,
  mayAsk: boolean,
): (space: Space) => Promise<Asked> {
  const asked = new Map<string, Promise<Asked>>();
  return (space) => {
    const answer =
      asked.get(space.id) ??
      (mayAsk ? askProvider(db, space, embedderFor) : Promise.resolve({ skipped: "--no-provider" }));
    asked.set(space.id, answer);
    return answer;
  };
}

async function askProvider(
  db: Database,
  space: Space,
  embedderFor: (space: Space) => Embedder,
): Promise<Asked> {
  if (space.provider === "external") return { skipped: "its vectors are brought from elsewhere" };
  let embedder: Embedder;
  let usageId: string | undefined;
  const tokens = estimateTokens(space.document_prefix + TEXT);
  try {
    embedder = embedderFor(space);
    const [row] = await db.query<{ id: string }>("select reembed.reserve_check($1, $2) as id", [
      space.id,
      tokens,
    ]);
    usageId = row?.id;
  } catch (error) {
    if (!(error instanceof ReembedError)) throw error;
    // Not configured here, or not paid for: that says nothing about the provider.
    if (error.code === "provider_unavailable" || error.code === "refused") return { skipped: error.message };
    return { refused: error };
  }
  const began = performance.now();
  const settle = async (paid: { state: "settled" | "lost"; outcome: string; tokens: number }) => {
    const entry = { ...paid, inputs: 1, stale: 0, latency_ms: Math.round(performance.now() - began) };
    await db.query("select reembed.settle($1, $2)", [usageId, JSON.stringify([entry])]);
  };
  try {
    const { vectors, usage } = await embedder.embed([TEXT], { purpose: purposeOfTrial(space) });
    await settle({ state: "settled", outcome: "check", tokens: usage.tokens });
    return { vector: vectors[0] ?? [] };
  } catch (error) {
    const charged = chargedFor(error, tokens);
    await settle({ ...charged, tokens: charged.tokens ?? 0 });
    if (!(error instanceof ProviderError)) throw error;
    return { refused: error };
  }
}

/** The spaces of versions that are not retired, each once. */
const spacesOf = ({ versions }: Patient): Space[] => [
  ...new Map(versions.map(({ space }) => [space.id, space])).values(),
];

/** Why a rule about every space could say nothing about any. */
const allSkipped = (reasons: readonly string[], spaces: number, findings: readonly Finding[]) =>
  findings.length === 0 && spaces > 0 && reasons.length === spaces
    ? { skipped: [...new Set(reasons)].join("; ") }
    : findings;

export const provider: Rule = {
  number: 27,
  name: "provider",
  async check(patient) {
    const findings: Finding[] = [];
    const reasons: string[] = [];
    const spaces = spacesOf(patient);
    for (const space of spaces) {
      const asked = await patient.ask(space);
      if ("skipped" in asked) {
        reasons.push(asked.skipped);
        if (patient.provider && space.provider !== "external")
          findings.push({
            level: "info",
            object: space.id,
            message: `not tried: ${asked.skipped}`,
            fix: "Run the doctor where the provider is configured.",
          });
      } else if ("refused" in asked) {
        const { message, hint } = asked.refused;
        findings.push({ level: "error", object: space.id, message, fix: hint });
      }
    }
    return allSkipped(reasons, spaces.length, findings);
  },
};

const compared = z.object({ made_at: z.string(), similarity: z.number() });

export const drift: Rule = {
  number: 28,
  name: "drift",
  async check(patient) {
    const findings: Finding[] = [];
    const reasons: string[] = [];
    const spaces = spacesOf(patient);
    for (const space of spaces) {
      const asked = await patient.ask(space);
      if (!("vector" in asked)) {
        reasons.push("skipped" in asked ? asked.skipped : asked.refused.message);
        continue;
      }
      const [row] = await patient.db.query<{ answer: unknown }>(
        "select reembed.compare_with_reference($1, $2::text::extensions.vector) as answer",
        [space.id, `[${asked.vector.join(",")}]`],
      );
      const { made_at, similarity } = compared.parse(row?.answer);
      if (similarity >= LEAST_SIMILARITY) continue;
      findings.push({
        level: "error",
        object: space.id,
        message: `the provider's answer to a fixed text has a similarity of ${similarity.toFixed(3)} to its answer of ${made_at.slice(0, 10)}: another model answers under this name`,
        fix: `Point the space at its model again. If the change is meant, move to a version in a space of another name; then: delete from reembed.drift_references where space_id = '${space.id}';`,
      });
    }
    return allSkipped(reasons, spaces.length, findings);
  },
};
