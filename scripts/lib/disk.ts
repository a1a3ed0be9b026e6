/** How much disk vectors and their index take, from the layout of PostgreSQL's and pgvector's pages. Tested against both. */

export type VectorType = "vector" | "halfvec";

export interface Disk {
  readonly vectorBytes: number;
  readonly indexBytes: number;
}

const PAGE = 8_192;
/** A page's header of 24 bytes is left out here, the pointer of 4 bytes to each of its tuples counted with the tuple. */
const PAGE_ROOM = PAGE - 24;
const POINTER = 4;

/** Longer values leave their row for TOAST chunks of so many bytes (storage/postgres: TOAST_MAX_CHUNK_SIZE), each with 36 bytes of its own. */
const LONGEST_INLINE = 2_000;
const CHUNK = 1_996;
const CHUNK_OVERHEAD = 36;

/** pgvector's HNSW: an element has 72 bytes before its vector; its neighbours are 4 bytes and 6 for each of 2m links, m = 16; a page ends with 8 bytes of its own. */
const ELEMENT_HEADER = 72;
const NEIGHBOURS = 4 + 2 * 16 * 6;
const INDEX_PAGE_ROOM = PAGE_ROOM - 8;

/**
 * Bytes on disk of so many vectors, and of an HNSW index over them with pgvector's default m. Bytes a row: 8,192 and 8,192 for vector(1536), half of
 * both for halfvec(1536).
 */
export function diskOf(rows: number, type: VectorType, dimensions: number): Disk {
  const vector = 8 + dimensions * (type === "vector" ? 4 : 2);
  return {
    vectorBytes: Math.round(rows * storedBytes(vector)),
    indexBytes: Math.round(
      rows * sharePage(aligned(ELEMENT_HEADER + vector) + aligned(NEIGHBOURS) + 2 * POINTER, INDEX_PAGE_ROOM),
    ),
  };
}

/** The type that a column of so many dimensions needs for an HNSW index: it holds 2,000 of vector. */
export function indexableType(dimensions: number): VectorType {
  return dimensions <= 2_000 ? "vector" : "halfvec";
}

function storedBytes(vector: number): number {
  if (vector <= LONGEST_INLINE) return vector;
  return sharePage(vector + Math.ceil(vector / CHUNK) * aligned(CHUNK_OVERHEAD + POINTER), PAGE_ROOM);
}

/** What one of several equal things takes of the pages that hold them, where none is split over two if it fits into one. */
function sharePage(bytes: number, room: number): number {
  const perPage = Math.floor(room / bytes);
  return perPage > 0 ? PAGE / perPage : (PAGE * bytes) / room;
}

/** Rounded up to the 8 bytes by which PostgreSQL aligns. */
function aligned(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}
