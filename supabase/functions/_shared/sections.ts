/**
 * A page's HTML to sections: the rows of a course collection, each with a url that can be cited.
 *
 * Decided by looking at real course pages:
 * - Content is the first visible `main` (or role=main), else the only `article`, else the body without its frame; see sections/content.ts.
 * - One section a heading, in document order. A heading whose page has no other h1 and which comes first titles the page; what stands before
 *   and between the sections belongs to the page itself. Without such an h1 the page takes its `<title>`.
 * - A call-out, exercise or other box with a title of its own is a section, and ends where its box ends; the text after it belongs to the
 *   section around it again. What unfolds right after such a box (the solution after its exercise) belongs to it.
 * - A heading is text where it labels a code block ("BASH"), a card ("Questions") or a control that unfolds something ("Show me the solution"),
 *   or stands in a quotation, a figure or a data table. Boxes whose title is no heading ("Key Points" in a span) are text of the section around them.
 * - A heading without text and without a picture's alternative text opens nothing. A section may have an empty content: a heading directly followed by its
 *   first subsection.
 * - Code keeps its lines, table cells are joined by ` | `, list items begin with `- `, all other white space is collapsed.
 */
import { ReembedError } from "./errors.ts";
import { findContent, type PageContent, pictureText } from "./sections/content.ts";
import { Fragments } from "./sections/fragments.ts";
import { attribute, type Element, parsePage, walk } from "./sections/html-tree.ts";
import { type ContentType, kindOf } from "./sections/kind.ts";
import { type Outline, readOutline, type SectionHeading } from "./sections/outline.ts";
import { type Block, splitBlocks } from "./sections/split.ts";
import { oneLine, TextSink } from "./sections/text.ts";

export type { ContentType } from "./sections/kind.ts";

/** One section of a page, or one piece of a section that was too long. */
export interface Section {
  /** The headings from the outermost down to this one, without the page's own title: renaming a page renames no section. Empty for the page itself. */
  readonly path: readonly string[];
  /** Which of the page's sections with this path, from 0. */
  readonly occurrence: number;
  /** Which piece of the section, from 0. */
  readonly part: number;
  /** The index, in the same list, of the first piece of the section around this one; always smaller than its own. */
  readonly parent: number | null;
  /** 0 for the page itself, else the heading's level, 1 to 6. */
  readonly level: number;
  readonly title: string;
  /** The text below the heading, without the heading; empty when a subsection follows at once. */
  readonly content: string;
  /** The page, with a fragment only when a browser that follows it lands on this section. */
  readonly url: string;
  readonly content_type: ContentType;
}

/** What makes a section the same section when its page is ingested again. */
export interface SectionIdentity {
  /** The page's url as `normalizePageUrl` gives it. */
  readonly page: string;
  readonly path: readonly string[];
  readonly occurrence: number;
  readonly part: number;
}

const DEFAULT_MAX_CHARACTERS = 4_000;
export const LONGEST_URL = 2_048;
/** A heading that is longer stands in the content in full and is cut in the title. */
const LONGEST_TITLE = 300;
/** Paths are cut off here: markup that nests deeper does so to make the paths' total size quadratic. */
const DEEPEST_PATH = 12;

/**
 * Cuts a page into sections. Pure and deterministic: the same page gives the same sections.
 * @param html The page as it was served; malformed markup is read as a browser reads it.
 * @param pageUrl Absolute http(s) url of the page. A fragment is dropped, a query belongs to the page.
 * @param options.maxCharacters The most UTF-16 units of a piece's content; at least 100.
 * @returns The sections in document order, parents before children; none for a page without text.
 * @throws ReembedError `invalid_request` naming `url`, `maxCharacters` or `html`.
 */
export function extractSections(
  html: string,
  pageUrl: string,
  options: { readonly maxCharacters?: number } = {},
): Section[] {
  const { maxCharacters = DEFAULT_MAX_CHARACTERS } = options;
  if (!Number.isInteger(maxCharacters) || maxCharacters < 100) {
    throw new ReembedError(
      "invalid_request",
      "maxCharacters must be an integer of at least 100",
      `Leave it out for ${DEFAULT_MAX_CHARACTERS}.`,
    );
  }
  const url = normalizePageUrl(pageUrl);
  const document = parsePage(html);
  const content = findContent(document);
  if (content === null) return [];
  const drafts = new SectionReader(content, readOutline(content), new URL(url)).read();
  return finish(drafts, url, new Fragments(document), maxCharacters);
}

/**
 * The url under which a page's sections are stored: absolute, as a browser writes it, without fragment.
 * @throws ReembedError `invalid_request` naming `url` when it is not http(s), is too long, or carries a user name or password.
 */
export function normalizePageUrl(pageUrl: string): string {
  const url = URL.canParse(pageUrl) ? new URL(pageUrl) : null;
  const refuse = (rule: string) =>
    new ReembedError(
      "invalid_request",
      `url ${rule}`,
      "Send the public address of the page, for example https://example.org/course/01.html.",
    );
  if (pageUrl.length > LONGEST_URL) throw refuse(`must have at most ${LONGEST_URL} characters`);
  if (url === null || !["http:", "https:"].includes(url.protocol))
    throw refuse("must be an absolute http or https url");
  if (url.username !== "" || url.password !== "") throw refuse("must not carry a user name or password");
  url.hash = "";
  if (url.href.length > LONGEST_URL)
    throw refuse(`must have at most ${LONGEST_URL} characters when percent-encoded`);
  return url.href;
}

/**
 * The id of a section's row: a version 8 uuid of the SHA-256 of its identity, so that it is known without asking the database, and the
 * same every time. A parent's id is that of its part 0.
 * @param collection The collection that holds the rows; the same page in two collections has two ids.
 */
export async function sectionId(collection: string, identity: SectionIdentity): Promise<string> {
  const { page, path, occurrence, part } = identity;
  const name = JSON.stringify([collection, page, path, occurrence, part]);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(name)));
  const bytes = digest.slice(0, 16);
  const set = (index: number, keep: number, bits: number) => {
    bytes[index] = ((bytes[index] ?? 0) & keep) | bits;
  };
  set(6, 0x0f, 0x80);
  set(8, 0x3f, 0x80);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** A section while it is read. */
interface Draft {
  readonly path: readonly string[];
  readonly parent: Draft | null;
  readonly level: number;
  readonly title: string;
  readonly kind: ContentType;
  readonly blocks: Block[];
  /** The elements that a fragment of this section may lead to, best first. */
  readonly targets: readonly Element[];
  readonly hasHeading: boolean;
}

/** An open section on the way down the page. */
interface Open {
  readonly draft: Draft;
  readonly level: number;
  readonly flow: number;
  readonly boxed: boolean;
  readonly startsAt: number;
}

const BLOCKS = new Set(
  (
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 " +
    "header hgroup hr html legend li main menu ol p pre section summary table tbody tfoot thead tr td th caption ul button"
  ).split(" "),
);

/** Reads the content once, in document order, into drafts. */
class SectionReader {
  readonly #content: PageContent;
  readonly #outline: Outline;
  readonly #drafts: Draft[];
  readonly #sink: TextSink;
  readonly #open: Open[];
  readonly #sectionAt: ReadonlyMap<number, SectionHeading>;
  readonly #titles: ReadonlySet<number>;
  /** For an element whose end ends sections: how many stay open. */
  readonly #keepAfter = new Map<number, number>();
  /** The section of the box that ended last, as long as no text has followed it. */
  #justClosed: Draft | null = null;

  constructor(content: PageContent, outline: Outline, url: URL) {
    this.#content = content;
    this.#outline = outline;
    const { pageHeading, sections } = outline;
    this.#sectionAt = new Map(sections.map((section) => [section.opensAt, section]));
    this.#titles = new Set(
      [...sections, ...(pageHeading === null ? [] : [pageHeading])].map(({ index }) => index),
    );
    const page: Draft = {
      path: [],
      parent: null,
      level: 0,
      title: shorten(
        pageHeading
          ? this.#titleOf(pageHeading.index)
          : oneLine(content.title) || `${url.host}${url.pathname}`,
      ),
      kind: "page",
      blocks: [],
      targets: pageHeading ? this.#targetsOf(pageHeading) : [],
      hasHeading: pageHeading !== null,
    };
    this.#drafts = [page];
    this.#open = [{ draft: page, level: 0, flow: 0, boxed: true, startsAt: 0 }];
    this.#sink = new TextSink(page.blocks);
  }

  /** The sections in document order, the page itself first unless it has neither heading nor text. */
  read(): Draft[] {
    const { tree, labels, dataTables } = this.#outline;
    const rows: boolean[] = [];
    const isCell = ({ tagName }: Element) => tagName === "td" || tagName === "th";
    walk(this.#content.root, {
      enter: (element) => {
        const index = tree.indexOf.get(element);
        if (index === undefined) return false;
        this.#openSection(index);
        this.#openDisclosure(index);
        if (this.#titles.has(index)) {
          this.#readTitle(index);
          return false;
        }
        const { tagName } = element;
        if (tagName === "table") rows.push(dataTables.has(index));
        if (tagName === "tr" && rows.at(-1)) this.#sink.startRow();
        else if (isCell(element) && rows.at(-1)) this.#sink.startCell();
        else if (tagName === "pre") this.#sink.startCode();
        else if (tagName === "li") this.#sink.startItem();
        else if (tagName === "dd") this.#sink.stayClose();
        else if (tagName === "br") this.#sink.lineBreak();
        else if (BLOCKS.has(tagName) || labels.has(index)) this.#sink.endBlock();
        this.#text(pictureText(element));
        return true;
      },
      leave: (element) => {
        const index = tree.indexOf.get(element) ?? 0;
        const { tagName } = element;
        if (tagName === "table") rows.pop();
        if (tagName === "tr" && rows.at(-1)) this.#sink.endRow();
        else if (tagName === "pre") this.#sink.endCode();
        else if (labels.has(index)) this.#sink.stayClose();
        else if (BLOCKS.has(tagName)) this.#sink.endBlock();
        this.#closeAt(index);
      },
      text: (value) => this.#text(value),
    });
    this.#sink.endBlock();
    return this.#drafts.filter((draft) => draft.hasHeading || draft.blocks.length > 0);
  }

  #text(value: string): void {
    if (/\S/.test(value)) this.#justClosed = null;
    this.#sink.text(value);
  }

  #top(): Open {
    const top = this.#open.at(-1);
    if (top === undefined) throw new Error("the page itself is never closed");
    return top;
  }

  /** Opens the section that begins at this element, after closing those that its heading's level ends. */
  #openSection(index: number): void {
    const heading = this.#sectionAt.get(index);
    if (heading === undefined) return;
    const { level, flow, container, boxed } = heading;
    let displacesOutside = false;
    for (let top = this.#top(); this.#open.length > 1 && top.level >= level; top = this.#top()) {
      const isInside = top.boxed && top.flow !== flow && top.draft.path.length < DEEPEST_PATH;
      if (isInside) break;
      displacesOutside ||= top.startsAt < container;
      this.#open.pop();
    }
    const parent = this.#top().draft;
    const title = this.#titleOf(heading.index);
    const { tree } = this.#outline;
    const draft: Draft = {
      path: [...parent.path, shorten(title)],
      parent,
      level,
      title: shorten(title),
      kind: kindOf(textBetween(this.#content, tree.elements[index], tree.elements[heading.index])),
      blocks: [],
      targets: this.#targetsOf(heading),
      hasHeading: true,
    };
    this.#drafts.push(draft);
    this.#push({ draft, level, flow, boxed, startsAt: index }, displacesOutside ? 0 : container);
  }

  /** What unfolds right after a box belongs to the box's section; headings inside it are below the section that holds it. */
  #openDisclosure(index: number): void {
    if (!this.#outline.disclosures.has(index)) return;
    const { draft, level } = this.#top();
    const owner = this.#justClosed ?? draft;
    const lowest = owner.path.length < DEEPEST_PATH ? 0 : Math.max(level, owner.level);
    this.#push({ draft: owner, level: lowest, flow: index, boxed: true, startsAt: index }, index);
  }

  #push(open: Open, container: number): void {
    const keep = this.#open.push(open) - 1;
    if (container !== 0)
      this.#keepAfter.set(container, Math.min(keep, this.#keepAfter.get(container) ?? keep));
    this.#justClosed = null;
    this.#sink.switchTo(open.draft.blocks);
  }

  #closeAt(index: number): void {
    const keep = this.#keepAfter.get(index);
    if (keep === undefined) return;
    this.#keepAfter.delete(index);
    const closed = this.#open[keep];
    this.#open.length = Math.min(this.#open.length, keep);
    this.#sink.switchTo(this.#top().draft.blocks);
    this.#justClosed = closed?.draft ?? null;
  }

  /** The title itself is no content, unless it is too long to be kept whole as a title. */
  #readTitle(index: number): void {
    this.#justClosed = null;
    this.#sink.endBlock();
    const title = this.#titleOf(index);
    if (title.length > LONGEST_TITLE) {
      this.#sink.text(title);
      this.#sink.endBlock();
    }
  }

  /** The heading's text on one line, without links to itself ("¶", "#"). */
  #titleOf(index: number): string {
    const { indexOf, elements } = this.#outline.tree;
    const parts: string[] = [];
    const heading = elements[index];
    if (heading === undefined) return "";
    walk(heading, {
      enter: (element) => {
        if (!indexOf.has(element)) return false;
        if (element !== heading && isPermalink(element)) return false;
        parts.push(element.tagName === "br" || BLOCKS.has(element.tagName) ? " " : pictureText(element));
        return true;
      },
      text: (value) => parts.push(value),
    });
    return oneLine(parts.join(""));
  }

  /** The heading, what stands at its very beginning (`<h2><a name="x">`), then the wrappers that stand for the section. */
  #targetsOf({ index, standFor }: SectionHeading): Element[] {
    const { elements, end, textBefore } = this.#outline.tree;
    const inside: number[] = [];
    for (let i = index + 1; i < (end[index] ?? 0) && textBefore[i] === textBefore[index]; i += 1)
      inside.push(i);
    const [heading, ...wrappers] = standFor;
    return [heading ?? index, ...inside, ...wrappers].flatMap((i) => elements[i] ?? []);
  }
}

function isPermalink(element: Element): boolean {
  if (element.tagName !== "a" || !attribute(element, "href")?.startsWith("#")) return false;
  let text = "";
  walk(element, { enter: () => true, text: (value) => (text += value) });
  return !/[\p{L}\p{N}]/u.test(text);
}

/** The text of `box` before `heading`: the label above a title. */
function textBetween(content: PageContent, box: Element | undefined, heading: Element | undefined): string {
  if (box === undefined || box === heading) return "";
  let text = "";
  let reached = false;
  walk(box, {
    enter: (element) => {
      reached ||= element === heading;
      return !reached && (element === box || !content.isLeftOut(element));
    },
    text: (value) => {
      if (!reached) text += value;
    },
  });
  return oneLine(text);
}

function shorten(title: string): string {
  return title.length <= LONGEST_TITLE
    ? title
    : `${title
        .slice(0, LONGEST_TITLE - 1)
        .toWellFormed()
        .replace(/\ufffd$/, "")
        .trimEnd()}…`;
}

/** Numbers the sections, cuts long ones, and gives each its url. */
function finish(
  drafts: readonly Draft[],
  page: string,
  fragments: Fragments,
  maxCharacters: number,
): Section[] {
  const sections: Section[] = [];
  const seen = new Map<string, number>();
  const firstPiece = new Map<Draft, number>();
  for (const draft of drafts) {
    const { path, level, title, parent, kind } = draft;
    const key = JSON.stringify(path);
    const occurrence = seen.get(key) ?? 0;
    seen.set(key, occurrence + 1);
    firstPiece.set(draft, sections.length);
    const fragment = draft.targets.map((target) => fragments.to(target)).find((found) => found !== null);
    const pieces = splitBlocks(draft.blocks, maxCharacters);
    for (const [part, content] of (pieces.length === 0 ? [""] : pieces).entries()) {
      sections.push({
        path,
        occurrence,
        part,
        parent: parent === null ? null : (firstPiece.get(parent) ?? null),
        level,
        title,
        content,
        url: fragment === undefined ? page : `${page}#${fragment}`,
        content_type: kind,
      });
    }
  }
  return sections;
}
