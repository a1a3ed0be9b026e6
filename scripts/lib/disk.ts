/** How much disk vectors take, from the layout of PostgreSQL's pages; `reembed.hnsw_bytes` says it of their index. Tested against PostgreSQL. */

export type VectorType = "vector" | "halfvec";

const PAGE = 8_192;
/** A page's header of 24 bytes is left out here, the pointer of 4 bytes to each of its tuples counted with the tuple. */
const PAGE_ROOM = PAGE - 24;
const POINTER = 4;

/** Longer values leave their row for TOAST chunks of so many bytes (storage/postgres: TOAST_MAX_CHUNK_SIZE), each with 36 bytes of its own. */
const LONGEST_INLINE = 2_000;
const CHUNK = 1_996;
const CHUNK_OVERHEAD = 36;

/** Bytes on disk of so many vectors: 8,192 a row for vector(1536), half of it for halfvec(1536). */
export function bytesOfVectors(rows: number, type: VectorType, dimensions: number): number {
  return Math.round(rows * storedBytes(8 + dimensions * (type === "vector" ? 4 : 2)));
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
