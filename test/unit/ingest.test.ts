import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  type IngestPlan,
  ingestPage,
  planIngest,
  type RowStore,
  type StoredRow,
} from "../../supabase/functions/_shared/ingest/page-sections.ts";
import { LARGEST_DOCUMENT_BYTES } from "../../supabase/functions/_shared/ingest/size.ts";

const URL_OF_PAGE = "https://swcarpentry.github.io/git-novice/03-create.html";
const HTML = readFileSync(new URL("../../examples/git-course/03-create.html", import.meta.url), "utf8");

/** A table in memory that holds the store's contract: a page's rows by the url before `#`, parents that exist, plans whole. */
class MemoryRows implements RowStore {
  readonly table = new Map<string, StoredRow>();
  readonly plans: IngestPlan[] = [];

  async list(page: string): Promise<StoredRow[]> {
    return [...this.table.values()].filter(({ url }) => url?.split("#")[0] === page);
  }

  async apply(plan: IngestPlan): Promise<void> {
    this.plans.push(plan);
    for (const row of [...plan.inserts, ...plan.updates]) {
      if (row.parent_id !== null && !this.table.has(row.parent_id))
        throw new Error("a parent does not exist yet");
      this.table.set(row.id, row);
    }
    for (const id of plan.deletes) this.table.delete(id);
    for (const { parent_id } of this.table.values())
      if (parent_id !== null && !this.table.has(parent_id)) throw new Error("a child lost its parent");
  }

  titled(title: string): StoredRow | undefined {
    return [...this.table.values()].find((row) => row.title === title);
  }
}

async function ingested(html = HTML) {
  const rows = new MemoryRows();
  const result = await ingestPage({ rows, url: URL_OF_PAGE, html });
  return { rows, result };
}

describe("ingesting a page", () => {
  test("inserts its sections, nested, placed in course and page", async () => {
    const { rows, result } = await ingested();
    expect(result).toEqual({ sections: 5, inserted: 5, updated: 0, deleted: 0, unchanged: 0 });
    const background = rows.titled("Background");
    expect(background).toMatchObject({
      url: `${URL_OF_PAGE}#background`,
      content_type: "section",
      part_id: "git-novice",
      module_id: "03-create",
      parent_id: rows.titled("Correcting git init Mistakes")?.id,
    });
    expect(background).not.toHaveProperty("importance");
  });

  test("again changes nothing and writes nothing, also by a url with a fragment", async () => {
    const { rows } = await ingested();
    const before = [...rows.table.values()];
    const result = await ingestPage({ rows, url: `${URL_OF_PAGE}#background`, html: HTML });
    expect(result).toEqual({ sections: 5, inserted: 0, updated: 0, deleted: 0, unchanged: 5 });
    expect(rows.plans).toHaveLength(1);
    expect([...rows.table.values()]).toEqual(before);
  });

  test("with one edited sentence updates that section alone and keeps its id", async () => {
    const { rows } = await ingested();
    const id = rows.titled("Background")?.id;
    const html = HTML.replace("needs to be done with caution", "is easily undone");
    const result = await ingestPage({ rows, url: URL_OF_PAGE, html });
    expect(result).toEqual({ sections: 5, inserted: 0, updated: 1, deleted: 0, unchanged: 4 });
    expect(rows.plans.at(-1)?.updates.map((row) => row.id)).toEqual([id]);
    expect(rows.titled("Background")?.content).toContain("is easily undone");
  });

  test("without a section deletes it, and what was below it", async () => {
    const page = (inner: string) => `<main><h1>T</h1><p>x</p>${inner}<h2>Last</h2>z</main>`;
    const { rows } = await ingested(page("<h2>Gone</h2>g<h3>Below</h3>b"));
    const result = await ingestPage({ rows, url: URL_OF_PAGE, html: page("") });
    expect(result).toEqual({ sections: 2, inserted: 0, updated: 0, deleted: 2, unchanged: 2 });
    expect([...rows.table.values()].map(({ title }) => title)).toEqual(["T", "Last"]);
  });

  test("a section that is renamed is a new one; one that only moves is not", async () => {
    const page = (...titles: string[]) =>
      `<main><h1>T</h1><p>x</p>${titles.map((t) => `<h2>${t}</h2>text`).join("")}</main>`;
    const { rows } = await ingested(page("A", "B"));
    expect(await ingestPage({ rows, url: URL_OF_PAGE, html: page("B", "A") })).toMatchObject({
      updated: 0,
      unchanged: 3,
    });
    expect(await ingestPage({ rows, url: URL_OF_PAGE, html: page("B", "C") })).toMatchObject({
      inserted: 1,
      deleted: 1,
    });
  });

  test("leaves rows of other pages alone, however alike their urls", async () => {
    const { rows } = await ingested();
    const others = [
      `${URL_OF_PAGE}?print`,
      URL_OF_PAGE.replace("03-create", "03_create"),
      `${URL_OF_PAGE}x`,
      null,
    ];
    for (const [i, url] of others.entries())
      rows.table.set(`other ${i}`, { ...(rows.titled("Background") as StoredRow), id: `other ${i}`, url });
    expect(await ingestPage({ rows, url: URL_OF_PAGE, html: HTML })).toMatchObject({
      deleted: 0,
      unchanged: 5,
    });
  });

  test("replaces rows of the page that another tool wrote with invented fragments", async () => {
    const { rows } = await ingested();
    const [row] = rows.table.values();
    rows.table.set("old", {
      ...(row as StoredRow),
      id: "old",
      url: `${URL_OF_PAGE}#section-3`,
      content_type: null,
    });
    await ingestPage({ rows, url: URL_OF_PAGE, html: HTML });
    expect(rows.plans.at(-1)).toMatchObject({ inserts: [], updates: [], deletes: ["old"], unchanged: 5 });
  });

  test.each([
    ["https://example.org/", null, "index"],
    ["https://example.org/about.html", null, "about"],
    ["https://example.org/course/", null, "course"],
    ["https://example.org/a/b%20c/01%20x.HTM?q=1", "b c", "01 x"],
    ["https://example.org/%zz/.html", "%zz", "index"],
    ["https://example.org/a%00b/c", "a%00b", "c"],
  ])("%s is placed by its path", async (url, part_id, module_id) => {
    const rows = new MemoryRows();
    await ingestPage({ rows, url, html: "<h2>T</h2>x" });
    expect(rows.titled("T")).toMatchObject({ part_id, module_id });
  });

  test("in another collection or cut at another size gives other rows", async () => {
    const one = await ingested();
    const rows = new MemoryRows();
    const result = await ingestPage({
      rows,
      url: URL_OF_PAGE,
      html: HTML,
      options: { collection: "other", maxCharacters: 500 },
    });
    expect(result.sections).toBeGreaterThan(5);
    for (const id of rows.table.keys()) expect(one.rows.table.has(id)).toBe(false);
  });
});

test("a plan lists parents before children and compares every column", () => {
  const row = (id: string, parent_id: string | null = null) => ({
    id,
    title: id,
    content: "c",
    url: "u",
    content_type: "section" as const,
    part_id: null,
    module_id: "m",
    parent_id,
  });
  const stored = { ...row("b", "a") };
  for (const column of [
    "title",
    "content",
    "url",
    "content_type",
    "part_id",
    "module_id",
    "parent_id",
  ] as const) {
    const plan = planIngest(
      "u",
      [{ ...stored, [column]: "other" }, row("z")],
      [row("a"), row("b", "a"), row("c", "b")],
    );
    expect(plan.inserts.map(({ id }) => id)).toEqual(["a", "c"]);
    expect(plan.updates).toEqual([stored]);
    expect(plan.deletes).toEqual(["z"]);
    expect(plan.unchanged).toBe(0);
  }
});

describe("refused before anything is read or written", () => {
  const untouchable: RowStore = {
    list: () => Promise.reject(new Error("the store was read")),
    apply: () => Promise.reject(new Error("the store was written")),
  };
  const ingest = (url: string, html: string) => ingestPage({ rows: untouchable, url, html });

  test("a page over 5 MiB, counted in bytes", async () => {
    await expect(ingest(URL_OF_PAGE, "x".repeat(LARGEST_DOCUMENT_BYTES + 1))).rejects.toMatchObject({
      code: "body_too_large",
    });
    await expect(ingest(URL_OF_PAGE, "é".repeat(LARGEST_DOCUMENT_BYTES / 2 + 1))).rejects.toMatchObject({
      code: "body_too_large",
    });
    // At the limit it goes on to read the store.
    await expect(ingest(URL_OF_PAGE, "é".repeat(LARGEST_DOCUMENT_BYTES / 2))).rejects.toThrow(
      "the store was read",
    );
  });

  test.each([["ftp://example.org/x"], ["x"], [`https://example.org/${"x".repeat(2_040)}`]])(
    "the url %.30s",
    async (url) => {
      await expect(ingest(url, HTML)).rejects.toMatchObject({
        code: "invalid_request",
        message: expect.stringMatching(/^url /),
      });
    },
  );

  test("a page without text, which would delete what is stored", async () => {
    for (const html of ["", "<main></main>", '<div id="app"></div><script>render()</script>'])
      await expect(ingest(URL_OF_PAGE, html)).rejects.toMatchObject({
        code: "invalid_request",
        message: expect.stringMatching(/^html /),
      });
  });
});
