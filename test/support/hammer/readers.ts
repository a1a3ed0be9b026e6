/**
 * Readers of the hammered table. Each searches as the function `search` does: it asks the route, embeds the query in that space, calls that RPC. And
 * checks the answer.
 *
 * How few rows there may be is known exactly in each of three ways. Of all notes the ten nearest are asked for: ten come. Of one shelf all are asked
 * for: each note there that nobody touches comes. Who is signed in asks for all that are theirs, and counts, in the snapshot of that search, those
 * that have a vector in the version that answered: so many come.
 */
import { type Client, DatabaseError } from "pg";
import type { Embedder, Space } from "../../../supabase/functions/_shared/embedder.ts";
import { createEmbedder } from "../../../supabase/functions/_shared/providers.ts";
import { databaseError, type Rpc } from "../../../supabase/functions/_shared/rpc.ts";
import { type SearchAnswer, type SearchPorts, search } from "../../../supabase/functions/_shared/search.ts";
import type { Random } from "../random.ts";
import type { Switches } from "./switches.ts";
import { COLLECTION, COLUMNS, inputOf, type Notes, SPACES, writeQuery } from "./table.ts";

const NEAREST = 10;
/** More than a shelf, or the shelves of a member, ever hold. */
const ALL = 500;
/** Rows of an answer whose similarity is computed anew. */
const RECOMPUTED = 3;
/** Vectors are stored in single precision. */
const TOLERANCE = 1e-4;

export interface Search {
  readonly version: number;
  readonly began: number;
  readonly ended: number;
}

export interface ReaderPorts {
  readonly client: Client;
  readonly notes: Notes;
  readonly switches: Switches;
  readonly random: Random;
  /** Is told each search that was answered. */
  readonly onSearch: (answered: Search) => void;
  /** Is told each that failed, and each answer that is wrong. */
  readonly onFault: (fault: string) => void;
}

/** One search of an anonymous reader: the nearest of all notes, or all of a shelf. */
export async function searchAnonymously(ports: ReaderPorts): Promise<void> {
  const { notes, random } = ports;
  if (random.chance(0.5)) {
    await checked(ports, async () => {
      const answer = await ask(ports, { match_count: NEAREST });
      const { length } = answer.results;
      return { answer, fault: length === NEAREST ? undefined : `${length} rows of the nearest ${NEAREST}` };
    });
    return;
  }
  const shelf = random.pick(notes.shelves);
  await checked(ports, async () => {
    const answer = await ask(ports, { match_count: ALL, filters: { shelf } });
    const found = new Set(answer.results.map(({ id }) => id));
    const missing = notes.stillOn(shelf).filter((id) => !found.has(id));
    const foreign = answer.results.filter((row) => row.shelf !== shelf);
    return {
      answer,
      fault:
        missing.length + foreign.length === 0
          ? undefined
          : `of ${shelf} ${missing.length} notes were missing, and ${foreign.length} were another's`,
    };
  });
}

/** One search of a reader who is signed in, for all that they may see. */
export async function searchOwn(ports: ReaderPorts): Promise<void> {
  const { client } = ports;
  await checked(ports, async () => {
    await client.query("begin isolation level repeatable read");
    try {
      const answer = await ask(ports, { match_count: ALL });
      const { rows } = await client.query<{ count: number }>(
        `select count(${COLUMNS[answer.version]})::int as count from public.${COLLECTION}`,
      );
      await client.query("commit");
      const [counted, { length }] = [rows[0]?.count, answer.results];
      return {
        answer,
        fault: length === counted ? undefined : `${length} rows of ${counted} that may be seen`,
      };
    } catch (error) {
      await client.query("rollback");
      throw error;
    }
  });
}

async function checked(
  { switches, onSearch, onFault }: ReaderPorts,
  question: () => Promise<{ answer: SearchAnswer; fault: string | undefined }>,
): Promise<void> {
  const began = performance.now();
  try {
    const { answer, fault } = await question();
    const ended = performance.now();
    const { version } = answer;
    onSearch({ version, began, ended });
    if (fault !== undefined) onFault(`v${version}: ${fault}`);
    if (!switches.wasActive(version, began, ended)) onFault(`v${version} answered, which was not active`);
  } catch (error) {
    onFault(`a search failed: ${String(error)}`);
  }
}

/** Searches, and checks that the answer is of the version that it names and of no other. */
async function ask(
  { client, notes, random, onFault }: ReaderPorts,
  request: { match_count: number; filters?: Record<string, string> },
): Promise<SearchAnswer> {
  const query = writeQuery(random, notes);
  const answer = await search(portsOf(client), { collection: COLLECTION, query, ...request });
  const { version, space, results } = answer;
  if (space !== SPACES[version]) onFault(`v${version} answered in ${space}`);
  const similarities = results.map(({ similarity }) => similarity ?? Number.NaN);
  if (similarities.some((value, index) => !(value <= (similarities[index - 1] ?? 1 + TOLERANCE))))
    onFault(`v${version}: the rows are not in order`);
  // A note that somebody edits may still have the vector of its former text; one that nobody touches has its own.
  const sample = results.filter(({ id }) => notes.isStill(String(id))).slice(0, RECOMPUTED);
  const texts = sample.map(({ title, body }) => inputOf({ title: String(title), body: String(body) }));
  const embedder = embedderFor(spaceOf(space));
  const [asked, stored] = await Promise.all([
    embedder.embed([query], { purpose: "query" }),
    embedder.embed(texts, { purpose: "document" }),
  ]);
  for (const [index, vector] of stored.vectors.entries()) {
    const right = cosine(asked.vectors[0] ?? [], vector ?? []);
    if (!(Math.abs(right - (sample[index]?.similarity ?? Number.NaN)) < TOLERANCE))
      onFault(`v${version}: a similarity is not that of ${space}`);
  }
  return answer;
}

function portsOf(client: Client): SearchPorts {
  const caller: Rpc = async (name, args) => {
    const names = Object.keys(args);
    const list = names.map((argument, index) => `"${argument}" => $${index + 1}`).join(", ");
    try {
      const { rows } = await client.query<{ value: unknown }>(
        `select to_jsonb(f) as value from public.${name}(${list}) f`,
        Object.values(args),
      );
      return name.startsWith("match_") ? rows.map(({ value }) => value) : rows[0]?.value;
    } catch (error) {
      throw error instanceof DatabaseError ? databaseError(error) : error;
    }
  };
  const service: Rpc = () =>
    Promise.reject(new Error("a query in a hash space asks for nothing as service_role"));
  return { caller, service, embedderFor, callerHash: null };
}

const embedderFor = (space: Space): Embedder => createEmbedder(space, {});

/** A hash space by its id. */
export function spaceOf(id: string): Space {
  const [provider = "", model = "", dimensions = ""] = id.split(/[/@]/);
  return {
    id,
    provider,
    model,
    dimensions: Number(dimensions),
    query_prefix: "",
    document_prefix: "",
    max_input_tokens: 8_192,
  };
}

export function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = a.reduce((sum, value, axis) => sum + value * (b[axis] ?? Number.NaN), 0);
  return dot / (Math.hypot(...a) * Math.hypot(...b));
}
