/**
 * The table of the hammer: notes on shelves. Most of them stand still; of every fourth round of shelves the notes belong to one of the writers, who
 * does with them what it likes. Anyone reads through the anonymous key; who is signed in reads the shelves that are theirs, as a membership policy says.
 */
import type { Client } from "pg";
import { openDatabase } from "../../../scripts/lib/connection.ts";
import { advance, startLoading, work } from "../../../scripts/lib/move.ts";
import { createEmbedder } from "../../../supabase/functions/_shared/providers.ts";
import { Random } from "../random.ts";

export const COLLECTION = "hammered";
export const WRITERS = 4;
export const MEMBERS = 4;

/** By version number. */
export const SPACES: Readonly<Record<number, string>> = {
  1: "hash/words-and-ngrams@128",
  2: "hash/words-and-ngrams@192",
};
export const COLUMNS: Readonly<Record<number, string>> = { 1: "embedding", 2: "embedding_2" };

const ROWS_ON_A_SHELF = 40;
const SHELVES_OF_A_MEMBER = 2;

export interface Note {
  readonly id: string;
  readonly shelf: string;
  readonly title: string;
  readonly body: string;
}

/** The text that is embedded; `reembed.hammered_input` is its twin in SQL. */
export const inputOf = ({ title, body }: Pick<Note, "title" | "body">): string => `${title}\n${body}`;

/** The notes as they are at the beginning, and who may touch them. */
export class Notes {
  readonly still: readonly Note[];
  readonly shelves: readonly string[];
  readonly #ofWriters: readonly (readonly Note[])[];
  readonly #stillOn = new Map<string, string[]>();
  readonly #stillIds: ReadonlySet<string>;

  constructor(rows: number, seed: number) {
    const random = new Random(seed);
    const count = Math.max(MEMBERS * SHELVES_OF_A_MEMBER, Math.floor(rows / ROWS_ON_A_SHELF));
    this.shelves = Array.from({ length: count }, (_, n) => `shelf ${n}`);
    const still: Note[] = [];
    const ofWriters: Note[][] = Array.from({ length: WRITERS }, () => []);
    for (let n = 0; n < rows; n += 1) {
      const round = Math.floor(n / count);
      const shelf = `shelf ${n % count}`;
      const note = { id: idOf(n), shelf, ...writeText(random) };
      if (round % 4 === 3) ofWriters[n % WRITERS]?.push(note);
      else {
        still.push(note);
        this.#stillOn.set(shelf, [...(this.#stillOn.get(shelf) ?? []), note.id]);
      }
    }
    this.still = still;
    this.#stillIds = new Set(still.map(({ id }) => id));
    this.#ofWriters = ofWriters;
  }

  ofWriter(writer: number): readonly Note[] {
    return this.#ofWriters[writer] ?? [];
  }

  /** The ids of the notes on a shelf that nobody touches. */
  stillOn(shelf: string): readonly string[] {
    return this.#stillOn.get(shelf) ?? [];
  }

  isStill(id: string): boolean {
    return this.#stillIds.has(id);
  }

  get all(): readonly Note[] {
    return [...this.still, ...this.#ofWriters.flat()];
  }
}

/** A text like no other. */
export function writeText(random: Random): Pick<Note, "title" | "body"> {
  const words = (count: number) => Array.from({ length: count }, () => word(random)).join(" ");
  return { title: `${words(2)} ${random.between(1, 1_000_000_000)}`, body: words(random.between(8, 16)) };
}

/** What somebody may search for: a few words, or a note's title. */
export function writeQuery(random: Random, notes: Notes): string {
  return random.chance(0.5)
    ? Array.from({ length: random.between(1, 4) }, () => word(random)).join(" ")
    : random.pick(notes.still).title;
}

const SYLLABLES = ["ba", "de", "fi", "ko", "lu", "ma", "ne", "pi", "ro", "su", "ta", "vel", "zin"] as const;

function word(random: Random): string {
  return Array.from({ length: random.between(2, 3) }, () => random.pick(SYLLABLES)).join("");
}

const idOf = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`;

export const memberId = (member: number): string =>
  `00000000-0000-4000-9000-${String(member).padStart(12, "0")}`;

const SCHEMA = `
  create table public.${COLLECTION} (
    id uuid primary key default gen_random_uuid(), shelf text not null, title text not null, body text not null, note text,
    ${COLUMNS[1]} extensions.vector(128));
  create table public.members (shelf text not null, member uuid not null, primary key (member, shelf));
  create index on public.${COLLECTION} (shelf);
  alter table public.${COLLECTION} enable row level security;
  alter table public.members enable row level security;
  grant select on public.${COLLECTION} to anon, authenticated;
  grant select, insert, update, delete on public.${COLLECTION} to service_role;
  grant select on public.members to authenticated;
  create policy "anyone reads" on public.${COLLECTION} for select to anon using (true);
  create policy "members know their shelves" on public.members for select to authenticated using (member = (select auth.uid()));
  create policy "members read their shelves" on public.${COLLECTION} for select to authenticated
    using (shelf in (select m.shelf from public.members m where m.member = (select auth.uid())));
  create function reembed.${COLLECTION}_input(r public.${COLLECTION}) returns text language sql immutable set search_path = '' as
    $$ select r.title || E'\\n' || r.body $$;
  select reembed.add_space('hash', 'words-and-ngrams', 128);
  select reembed.add_collection('${COLLECTION}', 'public.${COLLECTION}', array['id', 'shelf', 'title', 'body'], filter_columns => array['shelf']);
  select reembed.add_version('${COLLECTION}', '${SPACES[1]}', '${COLUMNS[1]}', 'reembed.${COLLECTION}_input');`;

/** The migration that prepares the move, as it is applied: under a lock timeout, again where the table was not to be had. */
export const PREPARE = `
  set local lock_timeout = '100ms';
  alter table public.${COLLECTION} add column ${COLUMNS[2]} extensions.vector(192);
  select reembed.add_space('hash', 'words-and-ngrams', 192);
  select reembed.add_version('${COLLECTION}', '${SPACES[2]}', '${COLUMNS[2]}', 'reembed.${COLLECTION}_input');`;

/** Makes the table with its first version, not loaded yet, and fills it. */
export async function createTable(owner: Client, notes: Notes): Promise<void> {
  await owner.query(SCHEMA);
  const { all } = notes;
  await owner.query(
    `insert into public.${COLLECTION} (id, shelf, title, body) select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[])`,
    [
      all.map(({ id }) => id),
      all.map(({ shelf }) => shelf),
      all.map(({ title }) => title),
      all.map(({ body }) => body),
    ],
  );
  for (let member = 0; member < MEMBERS; member += 1) {
    await owner.query("insert into public.members (member, shelf) select $1, unnest($2::text[])", [
      memberId(member),
      notes.shelves.slice(member * SHELVES_OF_A_MEMBER, (member + 1) * SHELVES_OF_A_MEMBER),
    ]);
  }
}

/** Loads a version, builds its index and sees that it is ready, here in this process. */
export async function loadVersion(url: string, version: number): Promise<void> {
  const db = await openDatabase(url);
  const target = { collection: COLLECTION, version };
  try {
    await startLoading(db, target);
    await work(db, (space) => createEmbedder(space, {}), { ...target, batch: 500, lanes: 2 });
    const state = await advance(db, target);
    if (state !== "ready") throw new Error(`version ${version} is ${state}, not ready`);
  } finally {
    await db.close();
  }
}
