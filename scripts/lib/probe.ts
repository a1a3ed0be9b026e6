/**
 * One real request before a version is loaded, so that a wrong key, model, width or address is told while the table is still untouched, and not
 * by a space that is paused with every row enqueued.
 */
import {
  type Embedder,
  type EmbedOptions,
  hasImages,
  type Space,
} from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { ProviderError, type ProviderFault } from "../../supabase/functions/_shared/provider-error.ts";
import type { LedgerEntry } from "../../supabase/functions/_shared/queue.ts";
import { variablesOf } from "../../supabase/functions/_shared/servers.ts";
import { estimateTokens } from "../../supabase/functions/_shared/tokens.ts";
import type { Database } from "./connection.ts";
import type { MoveTarget } from "./move.ts";

/** Nobody's text. */
const TEXT = "A short text, to see whether this model answers.";

/** What a space is tried with: a text, as a document where documents are texts, else as a query, which embeds it in the same space. */
export const purposeOfTrial = (space: Space): EmbedOptions["purpose"] =>
  hasImages(space) ? "query" : "document";

/** Answers of a provider that is there and busy: they say nothing against the key or the model, and the load knows how to wait. */
const BUSY: ReadonlySet<ProviderFault> = new Set<ProviderFault>([
  "rate_limited",
  "server_error",
  "gateway_error",
]);

/**
 * Embeds a short text in the version's space, unless the version has proved already that this works. The request stands in the ledger.
 * @throws ReembedError `provider_rejected`, `provider_bad_answer` or `provider_unavailable` with what to mend; `refused` where a budget is spent
 */
export async function probe(
  db: Database,
  { collection, version }: MoveTarget,
  embedder: Embedder,
  signal: AbortSignal,
): Promise<void> {
  const estimate = estimateTokens(TEXT);
  const [reservation] = await db.query<{ id: string | null }>(
    "select reembed.reserve_probe($1, $2, $3) as id",
    [collection, version, estimate],
  );
  if (reservation === undefined || reservation.id === null) return;
  const began = performance.now();
  const settle = async (paid: Pick<LedgerEntry, "state" | "outcome" | "tokens">) => {
    // Its vector is not stored: nobody's row has this text.
    const entry = { ...paid, inputs: 1, stale: 0, latency_ms: Math.round(performance.now() - began) };
    await db.query("select reembed.settle($1, $2)", [reservation.id, JSON.stringify([entry])]);
  };
  try {
    const { usage } = await embedder.embed([TEXT], { purpose: purposeOfTrial(embedder.space), signal });
    await settle({ state: "settled", outcome: "probe", tokens: usage.tokens });
  } catch (error) {
    if (!(error instanceof ProviderError)) {
      await settle({ state: "lost", outcome: "unforeseen", tokens: estimate });
      throw error;
    }
    const { billed, fault } = error;
    await settle(
      billed === "maybe"
        ? { state: "lost", outcome: fault, tokens: estimate }
        : { state: "settled", outcome: fault, tokens: billed === "no" ? 0 : billed },
    );
    if (BUSY.has(fault)) return;
    throw new ReembedError(
      error.code,
      error.message,
      `${hintFor(error, embedder.space.provider)} No row was touched: then run this again.`,
      {
        cause: error,
      },
    );
  }
}

function hintFor({ class: kind, fault, hint }: ProviderError, provider: string): string {
  const { apiKey, baseURL } = variablesOf(provider);
  if (fault === "bad_answer") {
    return `The space must be what this server offers: check ${baseURL}, and the model and the dimensions of the space.`;
  }
  if (fault === "quota_exhausted") return "The account has no credit left: pay or raise its limit.";
  if (kind === "account" || kind === "input" || kind === "bug") {
    return `Check ${apiKey} and its permissions, ${baseURL}, and the model of the space.`;
  }
  return hint;
}
