/**
 * A text to chunks that a model takes: of a bounded size, ending at sentences, each beginning with the end of the one before.
 *
 * Decided:
 * - Sizes are tokens by the estimate of tokens.ts, a token for every four bytes of UTF-8, because a tokenizer is too dear for an edge function.
 * - Sentences, words and characters are the Unicode standard's (UAX 29) as `Intl.Segmenter` has them, so that text without spaces is cut well, too. A
 *   line break within a paragraph ends no sentence.
 * - Where a chunk may end (its second half), the end of a paragraph is chosen before that of a sentence, and among equals the one whose text has the
 *   smallest hash. So the ends follow from the text around them, not from what stands before: after an edit the chunks soon are those of before, and
 *   what is ingested again buys little.
 * - A sentence is cut only where it alone is larger than a chunk: between words, else between characters.
 */
import { ReembedError } from "./errors.ts";
import { murmur3 } from "./murmur3.ts";
import { UTF8_BYTES_PER_TOKEN } from "./tokens.ts";

export interface ChunkSizes {
  /** The most tokens of a chunk, its overlap included: 16 to 8,192. */
  readonly chunkTokens: number;
  /** The most tokens that a chunk repeats of the one before: at most half a chunk. Whole sentences, or none. */
  readonly overlapTokens: number;
}

const DEFAULT_SIZES: ChunkSizes = { chunkTokens: 400, overlapTokens: 50 };
const SMALLEST_CHUNK = 16;
const LARGEST_CHUNK = 8_192;

/** A chunk's text, and where it stands: `text` is the whole text from `start` to `end` without white space at its ends. */
export interface Chunk {
  readonly text: string;
  /** UTF-16 units from the beginning of the whole text. */
  readonly start: number;
  readonly end: number;
}

/** What may follow a piece: the better a place to end a chunk, the higher. */
const INSIDE = 0;
const SENTENCE = 1;
const PARAGRAPH = 2;

/** A stretch of text that is not cut any further. */
interface Atom {
  readonly start: number;
  readonly end: number;
  readonly bytes: number;
  readonly rank: number;
}

const encoder = new TextEncoder();
const bytesOf = (text: string) => encoder.encode(text).length;

const SEGMENTERS = (["sentence", "word", "grapheme"] as const).map(
  (granularity) => new Intl.Segmenter("und", { granularity }),
);

/**
 * Cuts a text into chunks, in its order. Pure: the same text gives the same chunks, and together they hold every character that is not white space.
 * @throws ReembedError `invalid_request` naming `chunk_tokens` or `overlap_tokens`
 */
export function chunkText(text: string, sizes: Partial<ChunkSizes> = {}): Chunk[] {
  const { chunkTokens, overlapTokens } = checkSizes({ ...DEFAULT_SIZES, ...sizes });
  const most = chunkTokens * UTF8_BYTES_PER_TOKEN;
  const atoms = atomsOf(text, most);
  const chunks: Chunk[] = [];
  let [before, from] = [0, 0];
  while (from < atoms.length) {
    const overlap = overlapBefore(atoms, before, from, most, overlapTokens * UTF8_BYTES_PER_TOKEN);
    const to = endOf(text, atoms, from, most - overlap.bytes);
    const chunk = trimmed(text, atoms[overlap.from]?.start ?? 0, atoms[to - 1]?.end ?? 0);
    const fresh = text.slice(atoms[from]?.start, atoms[to - 1]?.end);
    if (chunk !== undefined && fresh.trim() !== "") chunks.push(chunk);
    [before, from] = [from, to];
  }
  return chunks;
}

function checkSizes(sizes: ChunkSizes): ChunkSizes {
  const { chunkTokens, overlapTokens } = sizes;
  const isWhole = (value: number, low: number, high: number) =>
    Number.isInteger(value) && value >= low && value <= high;
  if (!isWhole(chunkTokens, SMALLEST_CHUNK, LARGEST_CHUNK)) {
    throw new ReembedError(
      "invalid_request",
      `chunk_tokens must be a whole number from ${SMALLEST_CHUNK} to ${LARGEST_CHUNK}`,
      `Leave it out for ${DEFAULT_SIZES.chunkTokens}.`,
    );
  }
  if (!isWhole(overlapTokens, 0, Math.floor(chunkTokens / 2))) {
    throw new ReembedError(
      "invalid_request",
      "overlap_tokens must be a whole number from 0 to half of chunk_tokens",
      `Leave it out for ${DEFAULT_SIZES.overlapTokens}, or 0 for none.`,
    );
  }
  return sizes;
}

/** Sentences, and the parts of those that are larger than a chunk. */
function atomsOf(text: string, most: number): Atom[] {
  const atoms: Atom[] = [];
  for (const [start, end] of paragraphsOf(text)) {
    // A space instead of each line break: as long, and no sentence ends there.
    const paragraph = text.slice(start, end).replace(/[\n\r\u0085\u2028\u2029]/g, " ");
    split(paragraph, start, most, 0, atoms);
    const last = atoms.at(-1);
    if (last !== undefined) atoms[atoms.length - 1] = { ...last, rank: PARAGRAPH };
  }
  return atoms;
}

/** From each paragraph's first character to the next one's: the lines between belong to the one before. */
function* paragraphsOf(text: string): Generator<[start: number, end: number]> {
  let start = 0;
  for (const { index, 0: gap } of text.matchAll(
    /(?:\r\n?|[\n\u2028\u2029])[^\S\n\r\u2028\u2029]*(?:\r\n?|[\n\u2028\u2029])\s*/g,
  )) {
    yield [start, index + gap.length];
    start = index + gap.length;
  }
  if (start < text.length) yield [start, text.length];
}

function split(text: string, offset: number, most: number, level: number, atoms: Atom[]): void {
  const segmenter = SEGMENTERS[level];
  // A character of many code points may be larger than a chunk, too.
  const segments = segmenter === undefined ? codePointsOf(text) : segmenter.segment(text);
  for (const { segment, index } of segments) {
    const bytes = bytesOf(segment);
    const start = offset + index;
    if (bytes <= most)
      atoms.push({ start, end: start + segment.length, bytes, rank: level === 0 ? SENTENCE : INSIDE });
    else split(segment, start, most, level + 1, atoms);
  }
  const last = atoms.at(-1);
  // What was cut inside ends where its sentence ends.
  if (level === 1 && last !== undefined) atoms[atoms.length - 1] = { ...last, rank: SENTENCE };
}

function* codePointsOf(text: string): Generator<{ segment: string; index: number }> {
  let index = 0;
  for (const segment of text) {
    yield { segment, index };
    index += segment.length;
  }
}

/**
 * The sentences before `from` that a chunk repeats: as many as fit the overlap and leave room for what is new, but never all that was new in the chunk
 * before, which began to be new at `before`.
 */
function overlapBefore(
  atoms: readonly Atom[],
  before: number,
  from: number,
  most: number,
  mostOverlap: number,
): { from: number; bytes: number } {
  const room = Math.min(mostOverlap, most - (atoms[from]?.bytes ?? 0));
  let bytes = 0;
  let start = from;
  for (let at = from - 1, sum = 0; at > before; at -= 1) {
    sum += atoms[at]?.bytes ?? 0;
    if (sum > room) break;
    // Nothing is repeated from the middle of a sentence on.
    if ((atoms[at - 1]?.rank ?? INSIDE) >= SENTENCE) [start, bytes] = [at, sum];
  }
  return { from: start, bytes };
}

/** Where a chunk ends that begins at `from`: the atom after its last one. */
function endOf(text: string, atoms: readonly Atom[], from: number, room: number): number {
  let to = from;
  let bytes = 0;
  let lastSentence: number | undefined;
  let best: { rank: number; hash: number; to: number } | undefined;
  for (; to < atoms.length; to += 1) {
    const atom = atoms[to];
    if (atom === undefined || bytes + atom.bytes > room) break;
    bytes += atom.bytes;
    if (atom.rank >= SENTENCE) lastSentence = to + 1;
    if (bytes * 2 < room) continue;
    const hash = murmur3(text.slice(atom.start, atom.end).trim());
    if (best === undefined || atom.rank > best.rank || (atom.rank === best.rank && hash < best.hash))
      best = { rank: atom.rank, hash, to: to + 1 };
  }
  if (to === atoms.length) return to;
  if (best !== undefined && (best.rank >= SENTENCE || lastSentence === undefined)) return best.to;
  return lastSentence ?? Math.max(to, from + 1);
}

function trimmed(text: string, start: number, end: number): Chunk | undefined {
  const whole = text.slice(start, end);
  const inner = whole.trim();
  if (inner === "") return undefined;
  const from = start + whole.length - whole.trimStart().length;
  return { text: inner, start: from, end: from + inner.length };
}
