/**
 * What of a language model's text is passed on. The model is asked to cite; here it is made sure, whatever it was told or has read:
 *   - an [n] is the number of a row that was retrieved, or it is taken out;
 *   - no link is passed on: the address of a retrieved row becomes its [n], every other one is taken out, and so is markup that could load or open one;
 *   - a sentence without an [n] is left out. A block of code stands for the sentence before it and goes with it.
 */
import { CITATION, SentenceReader, sentencesOf, type Unit } from "./sentences.ts";

/** What may be cited. */
export interface Citable {
  /** From 1. */
  readonly number: number;
  readonly url: string;
}

/** What the model writes when the passages do not answer. */
export const NO_ANSWER = "NO_ANSWER";

const LINK_REMOVED = "(link removed)";

export class CitationFilter {
  readonly #sources: ReadonlyMap<string, number>;
  readonly #numbers: ReadonlySet<number>;
  readonly #reader = new SentenceReader();
  readonly #cited = new Set<number>();
  #omitted = 0;
  #saidNoAnswer = false;
  #hasText = false;
  #endsInBracket = false;
  #lastWasKept = false;
  #newlines = 0;
  #gap = 0;
  #lead = "";

  constructor(sources: readonly Citable[]) {
    this.#sources = new Map(sources.map(({ url, number }) => [url, number]).reverse() as [string, number][]);
    this.#numbers = new Set(sources.map(({ number }) => number));
  }

  /** Takes the next piece of the model's text and returns what may be passed on now, often nothing. */
  push(piece: string): string {
    return this.#pass(this.#reader.push(piece));
  }

  /** Returns the rest, once the model has ended. */
  end(): string {
    return this.#pass(this.#reader.end());
  }

  /** The numbers that the text has cited so far, in their order. */
  get cited(): number[] {
    return [...this.#cited].sort((a, b) => a - b);
  }

  /** How many sentences were left out because they cited nothing. */
  get omitted(): number {
    return this.#omitted;
  }

  get saidNoAnswer(): boolean {
    return this.#saidNoAnswer;
  }

  /** A text without links, without markup that opens or loads something, and without numbers that are no row's. */
  clean(text: string): string {
    let clean = text;
    // Until nothing is left to take out: what is taken out may join what stood around it.
    for (let round = 0; round < MOST_ROUNDS; round += 1) {
      const before = clean;
      clean = this.#cleanOnce(before);
      if (clean === before) return clean;
    }
    return "";
  }

  #pass(units: readonly Unit[]): string {
    return units.map((unit) => this.#passOne(unit)).join("");
  }

  #passOne({ kind, text, lead }: Unit): string {
    if (kind === "newline") {
      // Around what is left out stand the larger of two gaps, not their sum.
      this.#gap += 1;
      this.#newlines = Math.max(this.#newlines, this.#gap);
      this.#lead = "";
      return "";
    }
    this.#gap = 0;
    if (lead !== "") this.#lead = lead;
    if (kind === "code") return this.#judge(this.clean(text), this.#lastWasKept);
    // Within a line they open no block; at the beginning of what is left of it they would.
    const clean = this.clean(text.replace(/`{3,}|~{3,}/g, ""));
    // What was taken out may have kept two sentences together.
    const sentences = clean === text ? [clean] : sentencesOf(clean);
    return sentences.map((sentence) => this.#judge(sentence, numbersIn(sentence).length > 0)).join("");
  }

  #judge(text: string, hasGround: boolean): string {
    const saysNoAnswer = text.includes(NO_ANSWER);
    if (saysNoAnswer) this.#saidNoAnswer = true;
    this.#lastWasKept = hasGround && !saysNoAnswer;
    if (!this.#lastWasKept) {
      if (/[\p{L}\p{N}]/u.test(text) && !saysNoAnswer) this.#omitted += 1;
      return "";
    }
    for (const number of numbersIn(text)) this.#cited.add(number);
    const gap = "\n".repeat(this.#hasText ? Math.min(this.#newlines, 2) : 0);
    const apart = gap === "" && this.#endsInBracket && /^[(:]/.test(text) ? " " : "";
    const opening = gap + apart + this.#lead;
    this.#endsInBracket = text.endsWith("]");
    this.#gap = text.endsWith("\n") ? 1 : 0;
    this.#newlines = this.#gap;
    this.#lead = "";
    this.#hasText = true;
    return opening + text.replace(/\n+$/, "");
  }

  #cleanOnce(text: string): string {
    return text
      .replace(INVISIBLE, "")
      .replace(MARKUP, "")
      .replace(FORMATTING, " ")
      .replace(OPEN_MARKUP, "< ")
      .replace(BRACKET_OR_DIGIT, (_all, hex: string | undefined, decimal: string) =>
        String.fromCodePoint(hex === undefined ? Number(decimal) : Number.parseInt(hex, 16)),
      )
      .replace(MARKDOWN_LINK, (_all, label: string, target: string) => {
        const number = this.#sources.get(target);
        if (/^\s*\d+\s*$/.test(label)) return `[${label.trim()}]`;
        return number === undefined ? label : `${label} [${number}]`;
      })
      .replace(CITATION, (_all, numbers: string | undefined) => this.#known(numbers ?? ""))
      .replace(ADDRESS, (address) => this.#asCitation(address))
      .replace(REFERENCE, "$& ");
  }

  /** The number of the row whose address it is, else that there was a link. What ends a sentence may stand behind it. */
  #asCitation(address: string): string {
    for (let end = address.length; end > 0; end -= 1) {
      const number = this.#sources.get(address.slice(0, end));
      if (number !== undefined) return `[${number}]${address.slice(end)}`;
      if (!/[.,;:!?'*_~)\]]/.test(address[end - 1] ?? "")) break;
    }
    return LINK_REMOVED + (/[.,;:!?]+$/.exec(address)?.[0] ?? "");
  }

  /** Each number that there is, in brackets of its own. */
  #known(numbers: string): string {
    const listed = numbers.split(/[,;、，&]/).flatMap((part) => {
      const [low = 0, high = low] = part.split(/[–—‑-]/).map(numberOf);
      return [...this.#numbers].filter((number) => number >= low && number <= high);
    });
    return [...new Set(listed)].map((number) => `[${number}]`).join("");
  }
}

/** Far more than any text needs that was not made to defy it. */
const MOST_ROUNDS = 50;

/** A bracket or a digit as HTML and Markdown may have it. */
const BRACKET_OR_DIGIT = /&#(?:x0*(5b|5d|3[0-9])|0*(91|93|4[89]|5[0-7]));/gi;

/** Control characters, but for tab and line break, and characters that change the direction or cannot be seen. */
const INVISIBLE = /(?![\t\n])[\p{Cc}\p{Cf}]/gu;

/** Elements that load, open or run something, by their name or by an attribute. */
const MARKUP =
  /<\/?(?:a|area|audio|base|button|embed|form|frame|iframe|image|img|input|link|math|meta|object|picture|script|source|style|svg|video)\b[^<>]*>?|<[a-z][^<>]*\b(?:href|src|srcset|action|formaction|style|on\w+)\s*=[^<>]*>?/gi;

/** The beginning of markup that is more than a name in angle brackets: what would end it may stand in another sentence. */
const OPEN_MARKUP = /<(?=[a-z/!?])(?!\/?[a-z][^<>"'`=]*>)/gi;

/** Elements that only set a text. Their names would hide the end of the sentence before them. */
const FORMATTING =
  /<\/?(?:b|blockquote|br|code|del|div|em|h[1-6]|hr|i|li|mark|ol|p|pre|q|s|small|span|strong|sub|sup|table|td|th|tr|u|ul)\b[^<>]*>/gi;

/** Each character has one place in it: with two, a text made of beginnings would take the cube of its length. */
const MARKDOWN_LINK = /!?\[([^[\]]*)\]\(\s*<?([^)\s>]*)(?:(?:>|[^\S\n])[^)\n]*)?\)/g;

/** Any scheme with two slashes (also one that begins with a digit, which is none; of a long one the end), those that need none, and what is taken for an address without a scheme. */
const ADDRESS =
  /[a-z0-9][a-z0-9+.-]{0,30}:\/\/[^\s<>"`]*|\b(?:javascript|vbscript|data|blob|file|mailto|tel|sms|magnet|intent):[^\s<>"`]+|\bwww\.[^\s<>"`]+|(?<![:\w/])\/\/[\w-]+\.[^\s<>"`]+/gi;

/** A bracket that Markdown would take for a link by what follows it, or at the beginning for the definition of one. */
const REFERENCE = /\](?=\()|^\s*\[[^\]]*\](?=:)/g;

function numbersIn(text: string): number[] {
  return [...text.matchAll(/\[(\d+)\]/g)].map(([, number]) => Number(number));
}

/** The number that these digits of any script stand for; NaN where they are none, as ½ is none. */
function numberOf(text: string): number {
  const digits = text.normalize("NFKC").replace(/[\s^]/g, "");
  return digits === "" ? Number.NaN : Number(digits.replace(/\p{Nd}/gu, digitOf));
}

/** Unicode has the ten digits of a script one after another, from 0, and begins each ten where another ends or nothing is. */
function digitOf(digit: string): string {
  const code = digit.codePointAt(0) ?? 0;
  let before = 0;
  while (/\p{Nd}/u.test(String.fromCodePoint(code - before - 1))) before += 1;
  return String(before % 10);
}
