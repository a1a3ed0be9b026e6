/** What was paid, three times told: by the fake that billed it, by the ledger, and by the vectors that are stored. */
import type { Client } from "pg";
import { embed, MODELS } from "./fake-openai/models.ts";
import type { RequestEntry } from "./fake-openai.ts";

export interface Ledger {
  readonly settled: number;
  readonly lost: number;
  /** Reservations that are still open. */
  readonly open: number;
  /** Inputs that were paid and not stored. */
  readonly stale: number;
  /** Inputs whose answer was lost, or came and could not be used. */
  readonly lost_inputs: number;
}

/**
 * The documents of the ledger, in tokens where nothing else is said.
 * @param provider whose spaces alone are counted; without it all
 */
export async function readLedger(client: Client, provider?: string): Promise<Ledger> {
  const { rows } = await client.query<Ledger>(
    `select coalesce(sum(tokens) filter (where state = 'settled'), 0)::int as settled,
            coalesce(sum(tokens) filter (where state = 'lost'), 0)::int as lost,
            count(*) filter (where state = 'reserved')::int as open,
            coalesce(sum(stale), 0)::int as stale,
            coalesce(sum(inputs) filter (where state <> 'settled' or outcome <> 'ok' and tokens > 0), 0)::int as lost_inputs
       from reembed.usage where purpose = 'document' and ($1::text is null or space_id like $1 || '/%')`,
    [provider],
  );
  const [ledger] = rows;
  if (ledger === undefined) throw new Error("the ledger answered nothing");
  return ledger;
}

/** From now on notes the hash of every text whose vector is stored, be it for a moment. */
export async function noteStored(client: Client): Promise<void> {
  await client.query(`
    create table public.stored_texts (hash text primary key);
    create function public.note_stored() returns trigger language plpgsql security definer as $$ begin
      insert into public.stored_texts values (encode(new.content_hash, 'hex')) on conflict do nothing;
      return null;
    end $$;
    create trigger note_stored after insert or update on reembed.records for each row execute function public.note_stored();`);
}

/** The texts that noteStored has seen. */
export async function storedTexts(client: Client): Promise<Set<string>> {
  const { rows } = await client.query<{ hash: string }>("select hash from public.stored_texts");
  return new Set(rows.map(({ hash }) => hash));
}

/** The hashes of a request's texts. */
export const hashesOf = ({ inputs }: Readonly<RequestEntry>): string[] => inputs.map(({ hash }) => hash);

export interface Purchase {
  readonly tokens: number;
  /** How many requests were billed for it. */
  readonly times: number;
  /** How many of those never brought their whole answer to a client. */
  readonly undelivered: number;
}

/** Each text that was ever billed, by its hash. */
export function purchasesOf(log: readonly Readonly<RequestEntry>[]): Map<string, Purchase> {
  const purchases = new Map<string, Purchase>();
  for (const { inputs, billed, delivered } of log) {
    if (billed === 0) continue;
    for (const { hash, tokens } of inputs) {
      const { times, undelivered } = purchases.get(hash) ?? { times: 0, undelivered: 0 };
      purchases.set(hash, { tokens, times: times + 1, undelivered: undelivered + (delivered ? 0 : 1) });
    }
  }
  return purchases;
}

const COURSE_ROWS =
  "select c.id, reembed.course_content_input(c) as text, c.embedding::text as vector from public.course_content c";

/**
 * Rows whose vector is not the one that the model gives their text.
 * @param rows SQL that answers id, text and vector of each row; without it `course_content` in version 1
 */
export async function wrongVectors(
  client: Client,
  dimensions: number,
  { model: name = "text-embedding-3-small", rows: sql = COURSE_ROWS } = {},
): Promise<string[]> {
  const model = MODELS.find((candidate) => candidate.name === name);
  if (model === undefined) throw new Error(`the fake has no model ${name}`);
  const { rows } = await client.query<{ id: string; text: string; vector: string | null }>(sql);
  const isWrong = ({ text, vector }: { text: string; vector: string | null }) => {
    if (vector === null) return text.trim() !== "";
    const stored: number[] = JSON.parse(vector);
    const right = embed(model, text, dimensions);
    return !(Math.hypot(...stored.map((value, at) => value - (right[at] ?? 0))) < 1e-5);
  };
  return rows.filter(isWrong).map(({ id }) => id);
}
