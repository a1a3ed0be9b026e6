/** How large a document may be, whatever its kind. */
import { ReembedError } from "../errors.ts";

/** The most bytes of UTF-8 that the text of one document may have. */
export const LARGEST_DOCUMENT_BYTES = 5 * 1024 * 1024;

/** @throws ReembedError `body_too_large` naming the field */
export function requireSize(field: string, text: string, hint: string): void {
  // A UTF-16 unit is one to three bytes of UTF-8, so most texts need no count.
  if (text.length * 3 <= LARGEST_DOCUMENT_BYTES) return;
  if (
    text.length <= LARGEST_DOCUMENT_BYTES &&
    new TextEncoder().encode(text).length <= LARGEST_DOCUMENT_BYTES
  )
    return;
  throw new ReembedError(
    "body_too_large",
    `${field} must have at most ${LARGEST_DOCUMENT_BYTES} bytes`,
    hint,
  );
}
