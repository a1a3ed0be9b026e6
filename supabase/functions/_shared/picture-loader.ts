/** From a reference in a table, a URL or a file's name, to a picture. */
import type { InputFailure } from "./embedder.ts";
import { inspectPicture, LARGEST_PICTURE_BYTES, type Picture, PictureError } from "./pictures.ts";
import { createSafeFetch, FetchError, type SafeFetchOptions, type SafeFetchPorts } from "./safe-fetch.ts";

/** The picture that a reference stands for, or why there is none. Rejects only when `signal` ends it. */
export type LoadPicture = (reference: string, signal?: AbortSignal) => Promise<Picture | InputFailure>;

export interface PictureSource {
  /**
   * Where files stand that are named without a URL. It may be a private address: the operator has named it, and everything under its scheme,
   * host and port with it.
   */
  readonly baseUrl?: string | undefined;
  /** Default: as safe-fetch.ts has them, and LARGEST_PICTURE_BYTES. */
  readonly limits?: Partial<Pick<SafeFetchOptions, "maxBytes" | "timeoutMs" | "maxRedirects">>;
}

/** Fetches pictures safely and looks at what came. */
export function createPictureLoader(ports: SafeFetchPorts, source: PictureSource): LoadPicture {
  const { baseUrl, limits } = source;
  const fetchSafely = createSafeFetch(ports, {
    maxBytes: LARGEST_PICTURE_BYTES,
    trustedOrigin: baseUrl === undefined ? undefined : new URL(baseUrl).origin,
    ...limits,
  });
  return async (reference, signal) => {
    const url = urlOf(reference.trim(), baseUrl);
    if (url === undefined) {
      return { reason: "picture: it is a file's name, and IMAGE_FILES_URL is not set", next: "fail" };
    }
    try {
      return await inspectPicture(await fetchSafely(url, signal));
    } catch (error) {
      if (error instanceof PictureError) return { reason: `picture: ${error.message}`, next: "fail" };
      if (error instanceof FetchError) {
        return { reason: `picture: ${error.message}`, next: error.again ? "retry" : "fail" };
      }
      throw error;
    }
  };
}

/** A name is put under the base part by part, so that no name becomes another host, a query or a fragment. */
function urlOf(reference: string, baseUrl: string | undefined): string | undefined {
  if (/^[a-z][a-z0-9+.-]*:/i.test(reference)) return reference;
  if (baseUrl === undefined) return undefined;
  const base = baseUrl.endsWith("/") ? baseUrl : `${baseUrl}/`;
  return base + reference.split("/").map(encodeURIComponent).join("/");
}
