/**
 * A page into its collection: what to insert, update and delete so that the stored rows are the page's sections.
 *
 * What is unchanged is not written, so no trigger fires, no job is made and no token is paid. A row's id follows from the
 * section's identity (page, heading path, occurrence, piece), so an edited section keeps its id, its place in citations and its history.
 */
import { ReembedError } from "../errors.ts";
import { type ContentType, extractSections, normalizePageUrl, type Section, sectionId } from "../sections.ts";
import { requireSize } from "./size.ts";

/** A row of course_content as ingest writes it. `importance` and the vectors are others' to set and are left alone. */
export interface SectionRow {
  readonly id: string;
  readonly title: string;
  readonly content: string;
  readonly url: string;
  readonly content_type: ContentType;
  /** The course: the last folder of the page's url (`git-novice`); null for a page at the top of its site. */
  readonly part_id: string | null;
  /** The page's name in its folder, without `.html` (`04-changes`). */
  readonly module_id: string;
  readonly parent_id: string | null;
}

/** A stored row of the page. Rows that another tool wrote may hold anything in these columns. */
export type StoredRow = {
  readonly [Column in keyof SectionRow]: Column extends "id" ? string : string | null;
};

/** The difference between a page's stored rows and its sections. Applied twice it changes nothing more. */
export interface IngestPlan {
  /** The page's url without fragment, as `RowStore.list` takes it. */
  readonly page: string;
  /** New rows, parents before children. */
  readonly inserts: readonly SectionRow[];
  /** Rows whose id is stored and of which something has changed. */
  readonly updates: readonly SectionRow[];
  /** Ids of rows of the page that are none of its sections any more. No row that stays names one as its parent once the updates are done. */
  readonly deletes: readonly string[];
  readonly unchanged: number;
}

/** Where the rows stand. */
export interface RowStore {
  /**
   * All rows whose url, up to its first `#`, is `page`. Exactly, and in SQL: `split_part(url, '#', 1) = $1`. A LIKE pattern would have to escape
   * `%`, `_` and `\`, and a set over the API ends at 1,000 rows; so this is one function that returns one jsonb value.
   */
  list(page: string): Promise<readonly StoredRow[]>;
  /** Writes the whole plan or nothing: inserts, then updates, then deletes, in one transaction. */
  apply(plan: IngestPlan): Promise<void>;
}

/** What ingesting a page did, in rows. `inserted + updated + unchanged` is `sections`. */
export interface IngestResult {
  readonly sections: number;
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
  readonly unchanged: number;
}

export interface IngestOptions {
  /** The collection the rows belong to; part of their ids. */
  readonly collection?: string;
  /** The most UTF-16 units of one row's content: the collection's, the same for every version, so that a move never cuts rows anew. */
  readonly maxCharacters?: number;
}

/**
 * Makes the stored rows of one page equal to its sections.
 * @throws ReembedError `body_too_large` over 5 MiB of html; `invalid_request` naming `url`, `html` or `maxCharacters`. A page
 * without any section is refused too: an empty answer of a web server must not delete what was ingested before.
 */
export async function ingestPage(args: {
  readonly rows: RowStore;
  readonly url: string;
  readonly html: string;
  readonly options?: IngestOptions;
}): Promise<IngestResult> {
  const { rows, url, html, options = {} } = args;
  const { collection = "course_content", ...cut } = options;
  const page = normalizePageUrl(url);
  requireSize("html", html, "Split the page, or send its main part alone.");
  const sections = extractSections(html, page, cut);
  if (sections.length === 0) {
    throw new ReembedError(
      "invalid_request",
      "html must have text in its main part; nothing was changed",
      "Send the page as it is rendered. To remove a page, delete its rows by their url.",
    );
  }
  const plan = planIngest(page, await rows.list(page), await sectionRows(page, sections, collection));
  if (plan.inserts.length + plan.updates.length + plan.deletes.length > 0) await rows.apply(plan);
  return {
    sections: sections.length,
    inserted: plan.inserts.length,
    updated: plan.updates.length,
    deleted: plan.deletes.length,
    unchanged: plan.unchanged,
  };
}

/** The rows of a page's sections, in the same order: parents before children. */
export async function sectionRows(
  page: string,
  sections: readonly Section[],
  collection: string,
): Promise<SectionRow[]> {
  const ids = await Promise.all(
    sections.map(({ path, occurrence, part }) => sectionId(collection, { page, path, occurrence, part })),
  );
  const place = placeOf(page);
  return sections.map(({ title, content, url, content_type, parent }, index) => ({
    id: ids[index] ?? "",
    title,
    content,
    url,
    content_type,
    ...place,
    parent_id: parent === null ? null : (ids[parent] ?? null),
  }));
}

/** Compares the stored rows of a page with the rows it should have. Pure: nothing is read or written. */
export function planIngest(
  page: string,
  existing: readonly StoredRow[],
  rows: readonly SectionRow[],
): IngestPlan {
  const stored = new Map(existing.map((row) => [row.id, row]));
  const wanted = new Set(rows.map(({ id }) => id));
  const inserts = rows.filter(({ id }) => !stored.has(id));
  const known = rows.filter(({ id }) => stored.has(id));
  const updates = known.filter((row) => differs(row, stored.get(row.id)));
  return {
    page,
    inserts,
    updates,
    deletes: existing.map(({ id }) => id).filter((id) => !wanted.has(id)),
    unchanged: known.length - updates.length,
  };
}

function differs(row: SectionRow, stored: StoredRow | undefined): boolean {
  const columns = Object.keys(row) as (keyof SectionRow)[];
  return columns.some((column) => row[column] !== stored?.[column]);
}

/** Course and page after the url's path: `/git-novice/04-changes.html` is page `04-changes` of course `git-novice`. */
function placeOf(page: string): { part_id: string | null; module_id: string } {
  const segments = new URL(page).pathname.split("/").filter((segment) => segment !== "");
  const name = decodeSegment(segments.at(-1) ?? "index").replace(/\.x?html?$/i, "");
  const folder = segments.at(-2);
  return { part_id: folder === undefined ? null : decodeSegment(folder), module_id: name || "index" };
}

/** Percent-decoded where that is possible; PostgreSQL's text takes no NUL, so one that is written `%00` stays so. */
function decodeSegment(segment: string): string {
  try {
    const decoded = decodeURIComponent(segment);
    return decoded.includes("\0") ? segment : decoded;
  } catch {
    return segment;
  }
}
