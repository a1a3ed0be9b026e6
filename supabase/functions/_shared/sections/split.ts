/**
 * Text as blocks, and its cut into pieces of a bounded size. Both are deterministic: the same text gives the same pieces, so
 * ingesting a page again changes nothing.
 */

/** A paragraph, list item, table row or code block, and what stands between it and the block before it. */
export interface Block {
  readonly text: string;
  readonly glue: "\n" | "\n\n";
}

/** Where a block that is too long is cut, best place first: after a sentence or line, else after a word. */
const CUTS = [/[.!?…]\s|[。！？\n]/g, /\s/g];

/**
 * Packs blocks in order into as few pieces as a greedy walk needs. A piece has at most `maxCharacters` UTF-16 units and is not
 * empty; together they hold every character of the blocks that is not white space. A block that alone is longer is
 * cut at a sentence or line end, else between words, else inside a word, but never inside a surrogate pair.
 */
export function splitBlocks(blocks: readonly Block[], maxCharacters: number): string[] {
  const pieces: string[] = [];
  let piece = "";
  for (const block of blocks) {
    for (const [index, text] of cut(block.text, maxCharacters).entries()) {
      const glue = index === 0 ? block.glue : "\n";
      if (piece === "") piece = text;
      else if (piece.length + glue.length + text.length <= maxCharacters) piece += glue + text;
      else {
        pieces.push(piece);
        piece = text;
      }
    }
  }
  if (piece !== "") pieces.push(piece);
  return pieces;
}

function cut(text: string, maxCharacters: number): string[] {
  const pieces: string[] = [];
  let from = 0;
  while (text.length - from > maxCharacters) {
    const window = text.slice(from, from + maxCharacters + 1);
    const end = from + cutPosition(window, maxCharacters);
    pieces.push(text.slice(from, end));
    from = end;
  }
  pieces.push(text.slice(from));
  return pieces.map((piece) => piece.replace(/^\n+|\s+$/g, "")).filter((piece) => piece !== "");
}

/** The length of the first piece of a window of `maxCharacters` + 1 units. The first half is never cut for a sentence's sake. */
function cutPosition(window: string, maxCharacters: number): number {
  for (const place of CUTS) {
    let best = 0;
    for (const match of window.matchAll(place)) {
      const end = match.index + match[0].length;
      if (end <= maxCharacters) best = end;
    }
    if (best > maxCharacters / 2) return best;
  }
  const before = window.charCodeAt(maxCharacters - 1);
  const splitsPair = before >= 0xd800 && before <= 0xdbff;
  return splitsPair ? maxCharacters - 1 : maxCharacters;
}
