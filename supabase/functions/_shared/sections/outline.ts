/**
 * Which headings open sections, and how far each section reaches.
 *
 * Levels decide the order of sections, as in the HTML standard; boxes decide where they end. A call-out in the middle of a page has a
 * heading of its own, and the text after the call-out belongs to the page again: levels alone would give all of it to the call-out.
 */
import { type PageContent, pictureText } from "./content.ts";
import {
  attribute,
  type Element,
  hasClass,
  headingLevel,
  isControl,
  parentElement,
  role,
  walk,
} from "./html-tree.ts";

/** A label may stand above a box's title ("Exercise"); more text than this is content of its own. */
const LONGEST_BOX_LABEL = 60;
/** No title stands in more wrappers of its own than this; the limit keeps hostile nesting linear. */
const MOST_WRAPPERS = 64;

const PROSE = new Set(["p", "pre", "ul", "ol", "dl", "table", "blockquote", "figure"]);
const SECTIONING = new Set(["section", "article", "aside"]);
const SECTION_CLASSES = new Set(["section"]);
const CARD_LABELS = new Set(["card-header", "card-title", "card-subtitle"]);
const QUOTING = new Set(["blockquote", "figure", "figcaption", "legend", "caption"]);

/** The content's elements in document order; index 0 is the content's root. Amounts count characters that are not white space. */
export interface ContentTree {
  readonly elements: Element[];
  readonly indexOf: Map<Element, number>;
  readonly parent: number[];
  /** One more than the last index below the element. */
  readonly end: number[];
  readonly textBefore: number[];
  readonly textUntil: number[];
  /** Text before the element that stands in paragraphs, lists, tables and the like. */
  readonly proseBefore: number[];
}

export interface SectionHeading {
  readonly index: number;
  readonly level: number;
  /** The element whose beginning begins the section: the heading itself, or the box it is the title of. */
  readonly opensAt: number;
  /** The element whose end ends the section, unless its heading has taken the place of one outside; 0 means the content's end. */
  readonly container: number;
  /** The flow the heading stands in: nearest element that holds more than the heading. */
  readonly flow: number;
  /** Whether the container is the heading's own box, so that a heading of the same level deeper inside is below it. */
  readonly boxed: boolean;
  /** Elements that stand for the section, from the heading outwards to its box: a fragment that leads to one leads to the section. */
  readonly standFor: readonly number[];
}

export interface Outline {
  readonly tree: ContentTree;
  /** The heading of the whole page: the only h1, when it comes first. It is not among `sections`. */
  readonly pageHeading: SectionHeading | null;
  readonly sections: readonly SectionHeading[];
  /** Headings that are text: labels of code, cards and controls, and headings inside quotations, figures and table cells. */
  readonly labels: ReadonlySet<number>;
  /** Boxes that unfold (an accordion's item, `details`), by index. */
  readonly disclosures: ReadonlySet<number>;
  readonly dataTables: ReadonlySet<number>;
}

export function readOutline(content: PageContent): Outline {
  const { tree, headings, dataTables } = measure(content);
  const labels = new Set<number>();
  const disclosures = new Set<number>();
  const opening: { index: number; level: number }[] = [];
  for (const { index, level, quoted } of headings) {
    if (amount(tree, index) === 0) continue;
    const element = at(tree.elements, index);
    if (content.isControlLabel(element)) {
      labels.add(index);
      const item = flowOf(tree, index);
      if (item !== 0 && at(tree.textBefore, item) === at(tree.textBefore, index)) disclosures.add(item);
    } else if (quoted || labelsCode(tree, index) || labelsCard(element)) labels.add(index);
    else opening.push({ index, level });
  }

  const [first] = opening;
  const onlyH1 = first?.level === 1 && opening.filter(({ level }) => level === 1).length === 1;
  const pageHeading = onlyH1 && first !== undefined ? wholePage(tree, first) : null;
  const sections = placeSections(tree, onlyH1 ? opening.slice(1) : opening, pageHeading?.index ?? -1);
  return { tree, pageHeading, sections, labels, disclosures, dataTables };
}

interface Found {
  readonly index: number;
  readonly level: number;
  readonly quoted: boolean;
}

/** One walk over the content: its elements, how much text stands where, its headings and its data tables. */
function measure(content: PageContent) {
  const tree: ContentTree = {
    elements: [],
    indexOf: new Map(),
    parent: [],
    end: [],
    textBefore: [],
    textUntil: [],
    proseBefore: [],
  };
  const headings: (Found & { tables: number })[] = [];
  const open: number[] = [];
  const tables: { index: number; hasHead: boolean; hasHeading: boolean }[] = [];
  const openTables: number[] = [];
  let text = 0;
  let prose = 0;
  let proseDepth = 0;
  let quotingDepth = 0;
  let insideHeading = false;
  const count = (value: string) => {
    const amount = value.replace(/\s+/g, "").length;
    text += amount;
    if (proseDepth > 0) prose += amount;
  };

  walk(content.root, {
    enter: (element) => {
      if (tree.elements.length > 0 && content.isLeftOut(element)) return false;
      const index = tree.elements.push(element) - 1;
      tree.indexOf.set(element, index);
      tree.parent.push(open.at(-1) ?? 0);
      tree.end.push(index + 1);
      tree.textBefore.push(text);
      tree.textUntil.push(text);
      tree.proseBefore.push(prose);
      open.push(index);
      if (PROSE.has(element.tagName)) proseDepth += 1;
      if (QUOTING.has(element.tagName)) quotingDepth += 1;
      const table = tables[openTables.at(-1) ?? -1];
      if (element.tagName === "table") {
        const layout = ["presentation", "none"].includes(role(element));
        openTables.push(tables.push({ index, hasHead: false, hasHeading: layout }) - 1);
      } else if (["th", "thead", "caption"].includes(element.tagName) && table !== undefined)
        table.hasHead = true;
      const level = headingLevel(element);
      // A heading inside a heading is part of it.
      if (level !== null && !insideHeading) {
        insideHeading = true;
        if (table !== undefined) table.hasHeading = true;
        headings.push({ index, level, quoted: quotingDepth > 0, tables: openTables.at(-1) ?? -1 });
      }
      count(pictureText(element));
      return true;
    },
    leave: (element) => {
      const index = open.pop() ?? 0;
      tree.end[index] = tree.elements.length;
      tree.textUntil[index] = text;
      if (headings.at(-1)?.index === index) insideHeading = false;
      if (PROSE.has(element.tagName)) proseDepth -= 1;
      if (QUOTING.has(element.tagName)) quotingDepth -= 1;
      if (element.tagName === "table") openTables.pop();
    },
    text: count,
  });

  // A table with headings in it and no head of its own is how old pages lay out; its cells are plain containers.
  const isData = tables.map(({ hasHead, hasHeading }) => hasHead || !hasHeading);
  const found: Found[] = headings.map(({ index, level, quoted, tables: nearest }) => ({
    index,
    level,
    quoted: quoted || isData[nearest] === true,
  }));
  const dataTables = new Set(tables.filter((_, i) => isData[i]).map(({ index }) => index));
  return { tree, headings: found, dataTables };
}

function at<T>(list: readonly T[], index: number): T {
  const value = list[index];
  if (value === undefined) throw new RangeError(`no element ${index} in a list of ${list.length}`);
  return value;
}

function amount(tree: ContentTree, index: number): number {
  return at(tree.textUntil, index) - at(tree.textBefore, index);
}

/** The nearest element around the heading that holds more than the heading. A header or hgroup is part of its title. */
function flowOf(tree: ContentTree, heading: number): number {
  const own = amount(tree, heading);
  let up = at(tree.parent, heading);
  for (let steps = 0; up !== 0 && steps < MOST_WRAPPERS; steps += 1) {
    const element = at(tree.elements, up);
    const isTitle = amount(tree, up) === own || ["header", "hgroup"].includes(element.tagName);
    if (!isTitle && !isControl(element)) break;
    up = at(tree.parent, up);
  }
  return up;
}

/**
 * A heading that stands first in an element which holds nothing else but one `pre` says what that code is ("BASH", "OUTPUT"). Not so when
 * it is an address: it has an id or a link to one, or stands in a section.
 */
function labelsCode(tree: ContentTree, heading: number): boolean {
  const parent = at(tree.parent, heading);
  const element = at(tree.elements, heading);
  const box = at(tree.elements, parent);
  if (parent === 0 || SECTIONING.has(box.tagName) || hasClass(box, SECTION_CLASSES)) return false;
  const next = at(tree.end, heading);
  return (
    !attribute(element, "id") &&
    tree.elements[next]?.tagName === "pre" &&
    tree.parent[next] === parent &&
    amount(tree, parent) === amount(tree, heading) + amount(tree, next) &&
    !linksToItself(tree, heading)
  );
}

function linksToItself(tree: ContentTree, heading: number): boolean {
  for (let index = heading + 1; index < at(tree.end, heading); index += 1) {
    const element = at(tree.elements, index);
    if (element.tagName === "a" && attribute(element, "href")?.startsWith("#")) return true;
  }
  return false;
}

/** A card's head without an id of its own ("Questions"), in the class names that Bootstrap has made common. */
function labelsCard(heading: Element): boolean {
  if (attribute(heading, "id")) return false;
  const parent = parentElement(heading);
  return hasClass(heading, CARD_LABELS) || (parent !== null && hasClass(parent, CARD_LABELS));
}

function wholePage(tree: ContentTree, { index, level }: { index: number; level: number }): SectionHeading {
  const standFor = wrappersOf(tree, index, -1).filter(
    (wrapper) => wrapper === index || SECTIONING.has(at(tree.elements, wrapper).tagName),
  );
  return { index, level, opensAt: index, container: 0, flow: 0, boxed: true, standFor };
}

/** The heading, then the elements around it that begin with it, but for a short label; never the content's root. */
function wrappersOf(tree: ContentTree, heading: number, headingBefore: number): number[] {
  const wrappers = [heading];
  let up = at(tree.parent, heading);
  while (up !== 0 && wrappers.length <= MOST_WRAPPERS) {
    const label = at(tree.textBefore, heading) - at(tree.textBefore, up);
    const prose = at(tree.proseBefore, heading) - at(tree.proseBefore, up);
    if (headingBefore >= up || prose > 0 || label > LONGEST_BOX_LABEL) break;
    wrappers.push(up);
    up = at(tree.parent, up);
  }
  return wrappers;
}

/**
 * Gives each heading its flow and its box.
 * @param title the heading that titles the page: what begins with it stands for no section; -1 where there is none
 */
function placeSections(
  tree: ContentTree,
  headings: readonly { index: number; level: number }[],
  title: number,
): SectionHeading[] {
  const within = countWithin(tree, headings);
  const flows = headings.map(({ index }) => flowOf(tree, index));
  const inFlow = new Map<string, number>();
  for (const [order, { level }] of headings.entries()) {
    const key = `${flows[order]} ${level}`;
    inFlow.set(key, (inFlow.get(key) ?? 0) + 1);
  }

  return headings.map(({ index, level }, order) => {
    const flow = at(flows, order);
    const wrappers = wrappersOf(tree, index, headings[order - 1]?.index ?? title);
    /** Whether the wrapper holds this section and what is below it, and no section beside it. */
    const holdsOnlyThis = (wrapper: number): boolean => {
      const { lowest, timesLowest, all } = within(wrapper);
      if (lowest < level) return false;
      if (timesLowest === 1) return true;
      // Others of this level further inside are below this one when the wrapper is an addressable part of the page
      // and they stand within the heading's own flow, but not directly in it; else they are beside it.
      const element = at(tree.elements, wrapper);
      const isPart = SECTIONING.has(element.tagName) || attribute(element, "id") !== undefined;
      const own = within(flow);
      const areBelow =
        own.lowest === level && own.timesLowest === timesLowest && inFlow.get(`${flow} ${level}`) === 1;
      // A wrapper of all there is is the page's own.
      return isPart && areBelow && all < headings.length;
    };
    const firstForeign = wrappers.findIndex((wrapper) => wrapper !== index && !holdsOnlyThis(wrapper));
    const standFor = firstForeign === -1 ? wrappers : wrappers.slice(0, firstForeign);
    const box = standFor.at(-1) ?? index;
    const boxed = box !== index && box <= flow;
    return {
      index,
      level,
      opensAt: box,
      container: Math.min(box === index ? flow : box, flow),
      flow,
      boxed,
      standFor,
    };
  });
}

/** For each element: the lowest level among the section headings inside, how many have it, and how many headings there are. */
function countWithin(tree: ContentTree, headings: readonly { index: number; level: number }[]) {
  const size = tree.elements.length;
  const lowest = new Uint8Array(size).fill(7);
  const timesLowest = new Uint32Array(size);
  const all = new Uint32Array(size);
  const add = (index: number, level: number, times: number, total: number) => {
    all[index] = (all[index] ?? 0) + total;
    const known = lowest[index] ?? 7;
    if (level < known) {
      lowest[index] = level;
      timesLowest[index] = times;
    } else if (level === known) timesLowest[index] = (timesLowest[index] ?? 0) + times;
  };
  for (const { index, level } of headings) add(index, level, 1, 1);
  // Children come after their parents, so one walk from the end adds all up.
  for (let index = size - 1; index > 0; index -= 1) {
    if (all[index]) add(at(tree.parent, index), lowest[index] ?? 7, timesLowest[index] ?? 0, all[index] ?? 0);
  }
  return (index: number) => ({
    lowest: lowest[index] ?? 7,
    timesLowest: timesLowest[index] ?? 0,
    all: all[index] ?? 0,
  });
}
