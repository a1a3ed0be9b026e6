/**
 * What can be ingested, by the collection that it goes into. The function `ingest` and the command `reembed ingest` know this list and nothing else: a
 * system that takes documents adds its kind here.
 */
import type { z } from "zod";
import { ReembedError } from "../errors.ts";
import { checkShape } from "../http.ts";
import type { Rpc } from "../rpc.ts";
import { articles } from "./articles.ts";
import { pages } from "./pages.ts";

/** What became of a document, in rows of its collection, and whatever else its kind tells. */
export interface IngestCounts {
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
  readonly unchanged: number;
}

/** Documents of one shape, and how one of them is brought into a collection. */
export interface IngestKind<Shape extends z.ZodType = z.ZodType> {
  readonly collection: string;
  /** The files that hold such documents: a page each, or JSON, a document a line. */
  readonly files: "html" | "jsonl";
  /** One document, as a request's body or a line of a file has it; strict. */
  readonly document: Shape;
  /**
   * Makes the stored rows of a document equal to what it says. Done twice it changes nothing more, and what has not changed is not written.
   * @throws ReembedError `invalid_request` or `body_too_large`, naming the field
   */
  ingest(rpc: Rpc, document: z.output<Shape>): Promise<IngestCounts & Readonly<Record<string, unknown>>>;
}

const KINDS: readonly IngestKind[] = [pages, articles];

/** What a request without a collection is for: it came first. */
const FIRST_KIND = pages.collection;

/** The collections into which documents can be ingested. */
export const INGESTED: readonly string[] = KINDS.map(({ collection }) => collection);

/** The kinds whose documents such a file holds. */
export function kindsIn(files: IngestKind["files"]): readonly IngestKind[] {
  return KINDS.filter((kind) => kind.files === files);
}

/** @throws ReembedError `invalid_request` where nothing is ingested into this collection */
export function kindFor(collection: string = FIRST_KIND): IngestKind {
  const kind = KINDS.find((one) => one.collection === collection);
  if (kind !== undefined) return kind;
  throw new ReembedError(
    "invalid_request",
    `collection: no documents are ingested into ${JSON.stringify(collection.slice(0, 63))}`,
    `They are into ${INGESTED.join(", ")}; rows of other collections are written as rows.`,
  );
}

/**
 * Ingests one document.
 * @throws ReembedError of the kind; `refused` where the database has no such collection
 */
export async function ingestDocument(rpc: Rpc, kind: IngestKind, document: unknown) {
  const checked = checkShape(kind.document, document);
  try {
    return await kind.ingest(rpc, checked);
  } catch (error) {
    // The one function that may be missing here is the system's own.
    if (!(error instanceof ReembedError && error.code === "version_retired")) throw error;
    throw new ReembedError(
      "refused",
      `this database has no collection ${kind.collection} to ingest into`,
      "Apply the migration of its system (supabase/migrations).",
    );
  }
}
