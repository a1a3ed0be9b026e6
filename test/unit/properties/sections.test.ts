/** Pages of any shape as sections: urls that lead where they say, ids that stay, texts within their limit, and a second ingest that changes nothing. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import {
  planIngest,
  type SectionRow,
  sectionRows,
} from "../../../supabase/functions/_shared/ingest/page-sections.ts";
import {
  attribute,
  type Element,
  headingLevel,
  parentElement,
  parsePage,
  walk,
} from "../../../supabase/functions/_shared/sections/html-tree.ts";
import { extractSections, normalizePageUrl } from "../../../supabase/functions/_shared/sections.ts";
import { anyText, holds, hostileText } from "../../support/properties.ts";

const PAGE = "https://example.org/course/01.html";
const MOST = 100;

const escaped = (text: string) =>
  text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
/** Few ids, so that many elements share one; empty ones, and some that must be percent-encoded. */
const ids = fc.option(fc.constantFrom("a", "b", "top", "", "é ü", "a%20b", "a b", "x#y"), { nil: undefined });
const words = fc.oneof(
  fc.constantFrom("Commits", "Branches", "A snapshot of files.", ""),
  hostileText(4),
  anyText(40),
  fc.constant("long ".repeat(60)),
);
const withId = (id: string | undefined) => (id === undefined ? "" : ` id="${escaped(id)}"`);

const leaf = fc.oneof(
  fc
    .record({ level: fc.integer({ min: 1, max: 6 }), id: ids, text: words })
    .map(({ level, id, text }) => `<h${level}${withId(id)}>${escaped(text)}</h${level}>`),
  fc.record({ id: ids, text: words }).map(({ id, text }) => `<p${withId(id)}>${escaped(text)}</p>`),
  ids.map((id) => `<a name="${escaped(id ?? "")}"></a>`),
  words.map((text) => `<pre><code>${escaped(text)}</code></pre>`),
  fc.constantFrom("</div>", "<br>", "<table><tr><td>x<td>y", "<h2>", "</h2>", "<!-- -->"),
);
const html = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: leaf },
      {
        weight: 1,
        arbitrary: fc
          .record({ id: ids, inner: fc.array(leaf, { maxLength: 4 }) })
          .map(({ id, inner }) => `<section${withId(id)}><div>${inner.join("")}</div></section>`),
      },
      {
        weight: 1,
        arbitrary: fc
          .record({ id: ids, inner: fc.array(leaf, { maxLength: 3 }) })
          .map(
            ({ id, inner }) =>
              `<div class="callout challenge"${withId(id)}><h3 class="callout-title">Try it</h3>${inner.join("")}</div>`,
          ),
      },
    ),
    { maxLength: 12 },
  )
  .map((parts) => `<!doctype html><title>Page</title><main>${parts.join("\n")}</main>`);

/** The element that a browser scrolls to for a fragment, by the HTML standard's own words. */
function indicated(page: string, fragment: string): Element | undefined {
  const elements: Element[] = [];
  walk(parsePage(page), {
    enter: (element) => {
      elements.push(element);
      return true;
    },
  });
  const find = (name: string) =>
    elements.find((element) => attribute(element, "id") === name) ??
    elements.find((element) => element.tagName === "a" && attribute(element, "name") === name);
  return find(fragment) ?? find(decodeURIComponent(fragment));
}

function textOf(element: Element): string {
  let text = "";
  walk(element, {
    enter: () => true,
    text: (part) => {
      text += part;
    },
  });
  return text;
}

function isWithinHeading(element: Element): boolean {
  const parent = parentElement(element);
  return parent !== null && (headingLevel(parent) !== null || isWithinHeading(parent));
}

/** Letters and digits alone: how white space and invisible characters are written is another matter. */
const plain = (text: string) => text.replace(/[^\p{L}\p{N}]+/gu, "");

describe("a page's sections", () => {
  // A citation that leads to another place is worse than one that leads to the page.
  holds(
    "have a fragment only where a browser finds an element for it, and no two the same one",
    fc.property(html, (page) => {
      const fragments: string[] = [];
      for (const { url, part, title } of extractSections(page, PAGE, { maxCharacters: MOST })) {
        const [base, fragment] = url.split("#", 2);
        expect(base).toBe(PAGE);
        if (fragment === undefined) continue;
        const element = indicated(page, fragment);
        expect(element).toBeDefined();
        // It is the section's own: its heading stands in it, or it is a mark in the heading.
        if (element !== undefined && !isWithinHeading(element))
          expect(plain(textOf(element))).toContain(plain(title));
        if (part === 0) fragments.push(fragment);
      }
      expect(new Set(fragments).size).toBe(fragments.length);
    }),
  );

  holds(
    "are within their limit, know their parents, and are the same every time",
    fc.property(html, (page) => {
      const sections = extractSections(page, PAGE, { maxCharacters: MOST });
      for (const [at, { content, parent, title }] of sections.entries()) {
        expect(content.length).toBeLessThanOrEqual(MOST);
        expect(content + title).not.toContain("\0");
        if (parent !== null) expect(parent).toBeLessThan(at);
      }
      expect(extractSections(page, PAGE, { maxCharacters: MOST })).toEqual(sections);
    }),
  );

  // An id that two rows share is an ingest that fails; one that changes is a row that is bought again.
  holds(
    "become rows with ids of their own, and ingesting the page again writes nothing",
    fc.asyncProperty(html, html, async (before, after) => {
      const rowsOf = async (page: string) =>
        sectionRows(PAGE, extractSections(page, PAGE, { maxCharacters: MOST }), "course_content");
      const [old, now] = await Promise.all([rowsOf(before), rowsOf(after)]);
      expect(new Set(now.map(({ id }) => id)).size).toBe(now.length);
      const plan = planIngest(PAGE, old, now);
      const stored = new Map<string, SectionRow>(old.map((row) => [row.id, row]));
      for (const row of [...plan.inserts, ...plan.updates]) stored.set(row.id, row);
      for (const id of plan.deletes) stored.delete(id);
      expect(planIngest(PAGE, [...stored.values()], now)).toEqual({
        page: PAGE,
        inserts: [],
        updates: [],
        deletes: [],
        unchanged: now.length,
      });
      // A parent that is deleted would take its children with it.
      for (const { parent_id } of stored.values())
        if (parent_id !== null) expect(stored.has(parent_id)).toBe(true);
    }),
  );

  holds(
    "of any text at all are sections, or none",
    fc.property(
      fc.oneof(
        anyText(300),
        fc
          .array(
            fc.constantFrom(
              "<",
              ">",
              "h1",
              "main",
              "div",
              "/",
              '"',
              "=",
              "id",
              " ",
              "&",
              "<!--",
              "<script>",
              "<template>",
            ),
            { maxLength: 40 },
          )
          .map((parts) => parts.join("")),
      ),
      (page) => {
        expect(Array.isArray(extractSections(page, PAGE))).toBe(true);
      },
    ),
  );
});

holds(
  "a page's url stays as it is once it is normalised, without fragment, user or password; what is none is refused by its name",
  fc.property(
    fc.oneof(
      fc.webUrl({ withFragments: true, withQueryParameters: true }),
      anyText(60),
      hostileText().map((text) => `http://x.test/${text}`),
    ),
    (text) => {
      let url: string;
      try {
        url = normalizePageUrl(text);
      } catch (error) {
        expect(error).toMatchObject({ code: "invalid_request", message: expect.stringContaining("url") });
        return;
      }
      expect(normalizePageUrl(url)).toBe(url);
      expect(url).toMatch(/^https?:/);
      expect(new URL(url)).toMatchObject({ hash: "", username: "", password: "" });
    },
  ),
);
