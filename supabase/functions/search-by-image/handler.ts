/** POST /search-by-image: a photo in, products out, each by its image that is nearest; through the active version or a named one, RLS by the caller's own token. */
import { z } from "zod";
import type { Edge } from "../_shared/edge.ts";
import { ReembedError } from "../_shared/errors.ts";
import { checkShape, type Handler, readBytes } from "../_shared/http.ts";
import { searchByPhoto } from "../_shared/photo-search.ts";
import { inspectPicture, LARGEST_PICTURE_BYTES, type Picture, PictureError } from "../_shared/pictures.ts";

/** Beside the file there are a few short fields. */
const LARGEST_BODY = LARGEST_PICTURE_BYTES + 16 * 1024;

const number = (rule: z.ZodNumber) =>
  z
    .string()
    .regex(/^-?\d{1,9}(\.\d{1,9})?$/, "must be a number")
    .transform(Number)
    .pipe(rule)
    .optional();

/** What a form may hold. */
export const fields = z.strictObject({
  image: z.instanceof(Blob, { error: "must be a file" }),
  match_count: number(z.int().min(1).max(100)),
  match_threshold: number(z.number().min(-1).max(1)),
  version: number(z.int().min(1).max(1_000_000)),
});

export function makeHandler(edge: Edge): Handler {
  return async (request, { requestId }) => {
    const caller = await edge.caller(request);
    const { image, ...asked } = await readUpload(request);
    const picture = await pictureOf(image);
    const { service, embedderFor } = edge;
    const callerHash = await edge.callerHash(request);
    const answer = await searchByPhoto({ caller, service, embedderFor, callerHash }, { ...asked, picture });
    return { success: true, search_id: requestId, ...answer, request_id: requestId };
  };
}

async function readUpload(request: Request): Promise<z.output<typeof fields>> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^multipart\/form-data\s*;/i.test(type)) {
    throw new ReembedError(
      "unsupported_media_type",
      "the body is not multipart/form-data",
      "Send the photo as the file of a form's field image; a FormData does.",
    );
  }
  const bytes = await readBytes(request, LARGEST_BODY);
  let form: FormData;
  try {
    form = await new Response(bytes, { headers: { "content-type": type } }).formData();
  } catch {
    throw new ReembedError(
      "invalid_request",
      "the body is not the multipart/form-data that its header says",
      "Let the client write content-type itself, with its boundary.",
    );
  }
  const given: Record<string, FormDataEntryValue> = {};
  for (const [name, value] of form) {
    if (Object.hasOwn(given, name)) {
      throw new ReembedError(
        "invalid_request",
        `${name.slice(0, 60)}: is there twice`,
        "Send each field once, and one photo a request.",
      );
    }
    given[name] = value;
  }
  return checkShape(fields, given);
}

/** What the file is, is told by its content: neither its name nor its own content-type is asked. */
async function pictureOf(image: Blob): Promise<Picture> {
  try {
    return await inspectPicture(new Uint8Array(await image.arrayBuffer()));
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    const { fault, message } = error;
    throw new ReembedError(
      fault === "type" ? "unsupported_media_type" : fault === "bytes" ? "body_too_large" : "invalid_image",
      `image: ${message}`,
      "Send a JPEG, PNG or WebP photo of at most 10 MB and 50 million pixels.",
    );
  }
}
