const C1 = 0xcc9e2d51;
const C2 = 0x1b873593;

/**
 * MurmurHash3 (x86, 32 bits; Austin Appleby, public domain) of a part of a string, taken as its UTF-16 code units in little-endian
 * order. The same on every platform.
 * @param start,end the part, in code units; the whole string by default.
 * @returns an unsigned 32-bit integer.
 */
export function murmur3(text: string, seed = 0, start = 0, end = text.length): number {
  let hash = seed | 0;
  let at = start;
  for (; at + 1 < end; at += 2) {
    hash ^= scramble(text.charCodeAt(at) | (text.charCodeAt(at + 1) << 16));
    hash = (hash << 13) | (hash >>> 19);
    hash = (Math.imul(hash, 5) + 0xe6546b64) | 0;
  }
  if (at < end) hash ^= scramble(text.charCodeAt(at));
  return mix32(hash ^ ((end - start) * 2));
}

/** MurmurHash3's finalizer: an unsigned 32-bit integer, each bit of which depends on each bit of the argument. */
export function mix32(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function scramble(block: number): number {
  const product = Math.imul(block, C1);
  return Math.imul((product << 15) | (product >>> 17), C2);
}
