/**
 * Cuts a text that arrives in pieces into sentences, line breaks and blocks of code, each as soon as it is whole. Where the pieces are cut
 * makes no difference: a boundary is decided only when what follows it can no longer move it.
 */

export interface Unit {
  readonly kind: "sentence" | "code" | "newline";
  /** A sentence with the white space after it and the citations that follow it; a whole fenced block. */
  readonly text: string;
  /** What opens the line that a sentence is the first of: indent, quote mark, list mark. */
  readonly lead: string;
}

/**
 * A reference such as [1], [1, 2], [1-3], [^1], [passage 1] or 【1†source】; its numbers in the group, none where it is written for another list than the
 * passages, as 【4:0†source】 is. Also with its brackets escaped, in full width, and in the digits of another script.
 */
export const CITATION =
  /\\?[[【［〔]\^?\s{0,3}(?:(?:(?:passages?|sources?|ref\.?|no\.|#)\s{0,3})?((?:[\p{Nd}\p{No}]+)(?:\s*[,;、，&–—‑-]\s*\^?[\p{Nd}\p{No}]+)*)\s*(?:†[^\]】\n]{0,100})?|\p{Nd}+:\p{Nd}+†[^\]】\n]{0,100})\\?[\]】］〕]/giu;

const TRAILING_CITATIONS = new RegExp(`^(?:[ \\t]*${CITATION.source})+[ \\t]*`, "iu");
/** What Unicode, beside the usual one, has for the end of a line. */
const LINE_BREAK = /[\v\f\u0085\u2028\u2029]/g;
/** The beginning of what may become a citation. */
const CITATION_SO_FAR =
  /^\\?[[【［〔]\^?\s{0,3}(?:[a-z]{0,8}\.?|#)\s{0,3}[\^\p{Nd}\p{No}\s,;:、，&–—‑-]*(?:†[^\]】\n]{0,100})?\\?$/iu;
/** What may follow a sentence without white space between: markup, brackets, quotes, dashes. */
const OPENING = /^[<*_~([{"'“‘«–—|]/;
const CLOSING_MARKUP = /^(?:[*_~]+|<\/[a-z]+>)[ \t]*/i;
const LEAD = /^[ \t]*(?:>[ \t]*)*(?:(?:[-*+•]|\d{1,3}[.)])[ \t]+|#{1,6}[ \t]+)?/;
const LEAD_SO_FAR = /^[ \t]*(?:>[ \t]*)*(?:[-*+•#]*|\d{1,3}[.)]?)[ \t]*$/;
const FENCE = /^[ \t]*(`{3,}|~{3,})/;
const FENCE_SO_FAR = /^[ \t]*(?:`{1,2}|~{1,2})$/;

const segmenter = new Intl.Segmenter("en", { granularity: "sentence" });

export class SentenceReader {
  #buffer = "";
  #atLineStart = true;
  #lead = "";

  /** Takes the next piece and returns what is whole now. */
  push(piece: string): Unit[] {
    this.#buffer += piece.replaceAll("\r", "").replace(LINE_BREAK, "\n");
    return this.#read(false);
  }

  /** Returns what is left. */
  end(): Unit[] {
    return this.#read(true);
  }

  #read(isFinal: boolean): Unit[] {
    const units: Unit[] = [];
    for (;;) {
      const unit = this.#next(isFinal);
      if (unit === undefined) return units;
      units.push(unit);
    }
  }

  #next(isFinal: boolean): Unit | undefined {
    if (this.#buffer === "") return undefined;
    if (this.#atLineStart) {
      const blank = /^[ \t]*\n/.exec(this.#buffer);
      if (blank) return this.#take("newline", blank[0].length);
      if (FENCE.test(this.#buffer)) return this.#code(isFinal);
      if (!isFinal && (LEAD_SO_FAR.test(this.#buffer) || FENCE_SO_FAR.test(this.#buffer))) return undefined;
      this.#lead = LEAD.exec(this.#buffer)?.[0] ?? "";
      this.#buffer = this.#buffer.slice(this.#lead.length);
      this.#atLineStart = false;
    }
    const end = this.#buffer.indexOf("\n");
    if (end === 0) {
      this.#atLineStart = true;
      return this.#take("newline", 1);
    }
    const length = sentenceLength(end < 0 ? this.#buffer : this.#buffer.slice(0, end), end >= 0 || isFinal);
    return length === 0 ? undefined : this.#take("sentence", length);
  }

  #take(kind: Unit["kind"], length: number): Unit {
    const text = this.#buffer.slice(0, length);
    this.#buffer = this.#buffer.slice(length);
    const lead = kind === "sentence" ? this.#lead : "";
    this.#lead = "";
    return { kind, text, lead };
  }

  #code(isFinal: boolean): Unit | undefined {
    const mark = FENCE.exec(this.#buffer)?.[1] ?? "";
    const closing = new RegExp(`\\n[ \\t]*${mark[0]}{${mark.length},}[ \\t]*\\n`).exec(this.#buffer);
    if (closing) return this.#take("code", closing.index + closing[0].length);
    return isFinal ? this.#take("code", this.#buffer.length) : undefined;
  }
}

/** The sentences of a whole line. */
export function sentencesOf(line: string): string[] {
  const sentences: string[] = [];
  for (let rest = line; rest !== ""; ) {
    const length = sentenceLength(rest, true);
    sentences.push(rest.slice(0, length));
    rest = rest.slice(length);
  }
  return sentences;
}

/** How long the first sentence of a line is; 0 where that cannot be said before more of the line has come. */
function sentenceLength(line: string, isWhole: boolean): number {
  let length = 0;
  for (const { segment } of segmenter.segment(line)) {
    length += segment.length;
    const sentence = line.slice(0, length);
    // Neither within a word or an address nor within code.
    const ends = /(?:\s|[。！？])$/.test(sentence) || OPENING.test(line.slice(length));
    if (!ends || (sentence.split("`").length - 1) % 2 === 1) continue;
    if (!/\s$/.test(sentence)) length += CLOSING_MARKUP.exec(line.slice(length))?.[0].length ?? 0;
    length += TRAILING_CITATIONS.exec(line.slice(length))?.[0].length ?? 0;
    break;
  }
  if (isWhole) return length;
  const rest = line.slice(length);
  // A lower case letter after it may take the boundary back, and a citation belongs to the sentence before.
  return /\p{L}/u.test(rest) && !CITATION_SO_FAR.test(rest) ? length : 0;
}
