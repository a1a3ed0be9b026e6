/** What of a page is its content: the root of the main part, and what inside it is no text for a reader. */
import {
  attribute,
  type Element,
  type HtmlDocument,
  hasClass,
  headingLevel,
  isControl,
  isHidden,
  parentElement,
  role,
  walk,
} from "./html-tree.ts";

/** Elements without text of their own for a reader, or whose text is a fallback, a form's state or a picture's innards. */
const NEVER_TEXT = new Set(
  (
    "script style template noscript head iframe object embed canvas svg audio video select datalist textarea input " +
    "progress meter rp map nav"
  ).split(" "),
);
const NEVER_TEXT_ROLES = new Set(["navigation", "search", "menu", "menubar", "tablist", "toolbar"]);
/** The roles and elements that are a site's frame where the page marks no main part. */
const FRAME_ROLES = new Set(["banner", "contentinfo", "complementary"]);
const FRAME_TAGS = new Set(["header", "aside"]);
const ACCORDION_LABEL = new Set(["accordion-header"]);

export interface PageContent {
  readonly root: Element;
  /** The text of the page's `<title>`; empty when it has none. */
  readonly title: string;
  /** Whether the element, below the root, is left out with all it holds. */
  isLeftOut(element: Element): boolean;
  /** Whether the heading is the label of a button, a summary or an accordion. */
  isControlLabel(heading: Element): boolean;
}

/**
 * Finds the main part: the first visible `main` or role=main; else the page's only `article`; else the body without header, footer,
 * nav and aside. Left out everywhere: what the markup hides, scripts, forms' fields, navigation, footers (unless of a quotation), and buttons,
 * unless one carries a heading.
 * @returns null for a page without a body (a frameset).
 */
export function findContent(document: HtmlDocument): PageContent | null {
  let body: Element | undefined;
  let main: Element | undefined;
  const articles: Element[] = [];
  let title: string | undefined;
  let inTitle = false;
  const controls: Element[] = [];
  const headings: Element[] = [];
  const labelControls = new Set<Element>();
  const labels = new Set<Element>();
  const foundIn = new Map<Element, { own: boolean; control: Element | null }>();

  walk(document, {
    enter: (element) => {
      if (isHidden(element)) return false;
      const { tagName } = element;
      if (tagName === "body") body ??= element;
      if (tagName === "main" || role(element) === "main") main ??= element;
      if (tagName === "article") articles.push(element);
      if (tagName === "title" && title === undefined && element.namespaceURI.endsWith("xhtml")) {
        inTitle = true;
        title = "";
      }
      if (headingLevel(element) !== null) {
        const control = controls.at(-1);
        if (control !== undefined) {
          labels.add(element);
          labelControls.add(control);
        } else if (hasClass(element, ACCORDION_LABEL)) labels.add(element);
        headings.push(element);
        foundIn.set(element, { own: false, control: null });
      }
      if (isControl(element)) {
        controls.push(element);
        const heading = headings.at(-1);
        const found = heading === undefined ? undefined : foundIn.get(heading);
        if (found !== undefined) found.control = element;
      }
      return true;
    },
    leave: (element) => {
      if (element.tagName === "title") inTitle = false;
      if (controls.at(-1) === element) controls.pop();
      if (headings.at(-1) === element) {
        headings.pop();
        const found = foundIn.get(element);
        if (found?.control && !found.own) {
          labels.add(element);
          labelControls.add(found.control);
        }
        foundIn.delete(element);
      }
    },
    text: (value) => {
      if (inTitle) title += value;
      const heading = headings.at(-1);
      if (heading === undefined || controls.length > 0 || !/\S/.test(value)) return;
      const found = foundIn.get(heading);
      if (found !== undefined) found.own = true;
    },
  });

  const marked = main ?? (articles.length === 1 ? articles[0] : undefined);
  const root = marked ?? body;
  if (root === undefined) return null;

  return {
    root,
    title: title ?? "",
    isControlLabel: (heading) => labels.has(heading),
    isLeftOut: (element) => {
      const { tagName } = element;
      if (NEVER_TEXT.has(tagName) || NEVER_TEXT_ROLES.has(role(element)) || isHidden(element)) return true;
      if (tagName === "footer") return parentElement(element)?.tagName !== "blockquote";
      if (isControl(element) && tagName !== "summary") return !labelControls.has(element);
      if (marked !== undefined) return false;
      if (FRAME_ROLES.has(role(element)) || tagName === "aside") return true;
      return FRAME_TAGS.has(tagName) && !standsInArticle(element, root);
    },
  };
}

/** A header inside an article or a section is that part's head, not the site's. */
function standsInArticle(element: Element, root: Element): boolean {
  for (let up = parentElement(element); up !== null && up !== root; up = parentElement(up)) {
    if (up.tagName === "article" || up.tagName === "section") return true;
  }
  return false;
}

/** The element's alternative text, when it is a picture; decorative ones have none. */
export function pictureText(element: Element): string {
  return element.tagName === "img" || role(element) === "img" ? (attribute(element, "alt") ?? "") : "";
}
