/**
 * Where a browser goes for a fragment. After the HTML standard, "find a potential indicated element": the first element in
 * document order with that id, else the first `a` with that name; the fragment as it stands is tried before its
 * percent-decoded form.
 */
import { attribute, type Element, type HtmlDocument, walk } from "./html-tree.ts";

/** Longer ids are no addresses that anyone would follow. */
const LONGEST_ID = 256;

export class Fragments {
  readonly #byId = new Map<string, Element>();
  readonly #byName = new Map<string, Element>();

  constructor(document: HtmlDocument) {
    const remember = (map: Map<string, Element>, key: string | undefined, element: Element) => {
      if (key && !map.has(key)) map.set(key, element);
    };
    walk(document, {
      enter: (element) => {
        remember(this.#byId, attribute(element, "id"), element);
        if (element.tagName === "a") remember(this.#byName, attribute(element, "name"), element);
        return true;
      },
    });
  }

  /** The percent-encoded fragment (without `#`) that leads a browser to exactly this element, or null. */
  to(element: Element): string | null {
    const names = [
      attribute(element, "id"),
      element.tagName === "a" ? attribute(element, "name") : undefined,
    ];
    for (const name of names) {
      if (!name || name.length > LONGEST_ID) continue;
      const fragment = encodeURIComponent(name);
      if ((this.#find(fragment) ?? this.#find(name)) === element) return fragment;
    }
    return null;
  }

  #find(key: string): Element | undefined {
    return this.#byId.get(key) ?? this.#byName.get(key);
  }
}
