/** Vectors as PostgreSQL's wire protocol has them in binary: a quarter of their text, with nothing to print here and nothing to parse there. */
import type { VectorForm } from "../../supabase/functions/_shared/queue.ts";

/**
 * The form for a connection: an argument of type vector[] as one binary parameter, in the layout that `array_recv` and `vector_recv` read.
 * @param vectorType the OID of pgvector's type in this database
 */
export function binaryVectors(vectorType: number): VectorForm {
  return {
    complete: "reembed_complete_vectors",
    encode: (vectors) => encodeVectorArray(vectorType, vectors),
  };
}

/**
 * One dimension, lower bound 1; each element its length and its bytes, -1 for a null. Integers are big-endian int32. An array without elements has
 * no dimension.
 */
export function encodeVectorArray(vectorType: number, vectors: readonly (Numbers | null)[]): Buffer {
  const header = vectors.length === 0 ? 12 : 20;
  const size = vectors.reduce((sum, vector) => sum + 4 + (vector === null ? 0 : bytesOf(vector)), header);
  const bytes = Buffer.allocUnsafe(size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, size);
  let at = bytes.writeInt32BE(vectors.length === 0 ? 0 : 1, 0);
  at = bytes.writeInt32BE(vectors.includes(null) ? 1 : 0, at);
  at = bytes.writeUInt32BE(vectorType, at);
  if (vectors.length > 0) {
    at = bytes.writeInt32BE(vectors.length, at);
    at = bytes.writeInt32BE(1, at);
  }
  for (const vector of vectors) {
    at = bytes.writeInt32BE(vector === null ? -1 : bytesOf(vector), at);
    if (vector !== null) at = writeVector(view, at, vector);
  }
  return bytes;
}

/** One argument of type vector, as `vector_recv` reads it. */
export function encodeVector(vector: Numbers): Buffer {
  const bytes = Buffer.allocUnsafe(bytesOf(vector));
  writeVector(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, vector);
  return bytes;
}

type Numbers = Iterable<number> & { readonly length: number };

/** int16 width, int16 nothing, float32 a number. */
const bytesOf = (vector: Numbers): number => 4 + 4 * vector.length;

/** Returns where it ends. */
function writeVector(view: DataView, begin: number, vector: Numbers): number {
  view.setInt16(begin, vector.length);
  view.setInt16(begin + 2, 0);
  let at = begin + 4;
  for (const value of vector) {
    view.setFloat32(at, value);
    at += 4;
  }
  return at;
}
