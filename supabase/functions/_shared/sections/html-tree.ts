/**
 * The parsed page: one place that knows parse5, and walks trees of any depth without recursion.
 */
import { type DefaultTreeAdapterTypes, defaultTreeAdapter, parse } from "parse5";
import { ReembedError } from "../errors.ts";

export type Element = DefaultTreeAdapterTypes.Element;
export type HtmlDocument = DefaultTreeAdapterTypes.Document;
type Node = DefaultTreeAdapterTypes.Node;

/**
 * Parses a page as a browser would. The tree may hold about one element for each three characters, which is what markup can
 * write (`<p>`); only formatting that is misnested on purpose makes more, since each block opens all of it again.
 * @throws ReembedError `invalid_request` when the page makes more elements than that.
 */
export function parsePage(html: string): HtmlDocument {
  let budget = 10_000 + html.length / 3;
  return parse(html.toWellFormed(), {
    treeAdapter: {
      ...defaultTreeAdapter,
      createElement(...args) {
        budget -= 1;
        if (budget < 0) {
          throw new ReembedError(
            "invalid_request",
            "html: the markup is misnested so that it makes more elements than it writes",
            "Close the formatting tags (b, i, font, a) of the page where they belong.",
          );
        }
        return defaultTreeAdapter.createElement(...args);
      },
    },
  });
}

export interface Visitor {
  /** Called in document order; an answer of false leaves the element's children out (and its `leave`). */
  enter(element: Element): boolean;
  leave?(element: Element): void;
  text?(value: string): void;
}

/** Visits `root` and what is below it in document order, by a stack of its own: depth costs memory, never the call stack. */
export function walk(root: Node, visitor: Visitor): void {
  const enter = (node: Node): boolean => ("tagName" in node ? visitor.enter(node) : "childNodes" in node);
  if (!enter(root)) return;
  const open: { node: Node; next: number }[] = [{ node: root, next: 0 }];
  for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
    const child = "childNodes" in top.node ? top.node.childNodes[top.next] : undefined;
    if (child === undefined) {
      if ("tagName" in top.node) visitor.leave?.(top.node);
      open.pop();
      continue;
    }
    top.next += 1;
    if (child.nodeName === "#text" && "value" in child) visitor.text?.(child.value);
    else if (enter(child)) open.push({ node: child, next: 0 });
  }
}

export function attribute(element: Element, name: string): string | undefined {
  return element.attrs.find((attr) => attr.name === name)?.value;
}

/** The element's role, in lower case; empty when it names none. */
export function role(element: Element): string {
  return (attribute(element, "role") ?? "").trim().toLowerCase();
}

export function hasClass(element: Element, names: ReadonlySet<string>): boolean {
  return (attribute(element, "class") ?? "").split(/\s+/).some((name) => names.has(name));
}

/** The parent when it is an element: null for the root element and for what stands in a template. */
export function parentElement(element: Element): Element | null {
  const parent = element.parentNode;
  return parent !== null && "tagName" in parent ? parent : null;
}

/** 1 to 6 for h1 to h6 and for role=heading (2 when it states no level); null for everything else. */
export function headingLevel(element: Element): number | null {
  const native = /^h([1-6])$/.exec(element.tagName);
  if (native !== null) return Number(native[1]);
  if (role(element) !== "heading") return null;
  const stated = Number(attribute(element, "aria-level") ?? 2);
  return Number.isInteger(stated) && stated >= 1 ? Math.min(stated, 6) : 2;
}

/** What a person presses to unfold something; its heading, if any, is that control's label. */
export function isControl(element: Element): boolean {
  return ["button", "summary"].includes(element.tagName) || ["button", "tab"].includes(role(element));
}

const HIDDEN_STYLE = /(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)/i;

/** Whether the markup itself says that nobody sees the element. `hidden=until-found` can be found, so it counts as seen. */
export function isHidden(element: Element): boolean {
  const hidden = attribute(element, "hidden");
  return (
    (hidden !== undefined && hidden.toLowerCase() !== "until-found") ||
    attribute(element, "aria-hidden") === "true" ||
    (element.tagName === "dialog" && attribute(element, "open") === undefined) ||
    HIDDEN_STYLE.test(attribute(element, "style") ?? "")
  );
}
