/** The text of a section as it is read off the page, block by block. */
import type { Block } from "./split.ts";

/** Characters that show nothing: zero-width space, byte order mark, soft hyphen. Joiners are letters in some scripts and stay. */
const INVISIBLE = /[\u200b\ufeff\u00ad]/g;

/** One line of running text: white space collapsed to single spaces, ends trimmed. */
export function oneLine(text: string): string {
  return text.replace(INVISIBLE, "").replace(/\s+/g, " ").trim();
}

function codeLines(text: string): string {
  return text
    .replace(/\r\n?/g, "\n")
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n")
    .replace(/^\n+|\n+$/g, "");
}

/** A table row under construction: the cells read so far, each as its blocks. */
type Row = string[][];

/**
 * Collects text into the blocks of whatever section is current. Lines of code keep their breaks, list items start with `- `,
 * the cells of a row are joined by ` | `.
 */
export class TextSink {
  #target: Block[];
  #lines: string[][] = [[]];
  #code = 0;
  #prefix = "";
  #glue: Block["glue"] = "\n\n";
  readonly #rows: Row[] = [];

  constructor(target: Block[]) {
    this.#target = target;
  }

  /** From here on blocks belong to another section. */
  switchTo(target: Block[]): void {
    this.endBlock();
    this.#target = target;
    this.#prefix = "";
    this.#glue = "\n\n";
  }

  text(value: string): void {
    this.#lines.at(-1)?.push(value);
  }

  lineBreak(): void {
    if (this.#code > 0) this.text("\n");
    else this.#lines.push([]);
  }

  /** A block ends where a block element begins or ends. Inside code only the code's own end counts. */
  endBlock(): void {
    if (this.#code > 0) return;
    this.#emit(
      this.#lines
        .map((line) => oneLine(line.join("")))
        .filter((line) => line !== "")
        .join("\n"),
    );
  }

  startCode(): void {
    this.endBlock();
    this.#code += 1;
  }

  endCode(): void {
    this.#code -= 1;
    if (this.#code === 0) this.#emit(codeLines(this.#lines.map((line) => line.join("")).join("\n")));
  }

  startItem(): void {
    this.endBlock();
    this.#prefix = "- ";
    this.#glue = "\n";
  }

  /** The next block stands on the line below, not a paragraph away: code under its label, a definition under its term. */
  stayClose(): void {
    this.endBlock();
    this.#glue = "\n";
  }

  startRow(): void {
    this.endBlock();
    this.#rows.push([]);
  }

  startCell(): void {
    this.endBlock();
    this.#rows.at(-1)?.push([]);
  }

  endRow(): void {
    this.endBlock();
    const row = this.#rows.pop() ?? [];
    const text = row.map((cell) => cell.join("\n")).join(" | ");
    if (row.some((cell) => cell.length > 0)) {
      this.#glue = "\n";
      this.#emit(text);
    }
  }

  #emit(text: string): void {
    this.#lines = [[]];
    if (text === "") return;
    const cell = this.#rows.at(-1)?.at(-1);
    if (cell === undefined) this.#target.push({ text: this.#prefix + text, glue: this.#glue });
    else cell.push(this.#prefix + text);
    this.#prefix = "";
    this.#glue = "\n\n";
  }
}
