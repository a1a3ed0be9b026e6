/** Search by photo: route to a version, make the photo a vector of that version's space, ask for the products whose images are nearest. */
import { z } from "zod";
import { hasImages, type Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import type { Picture } from "./pictures.ts";
import { embedQuery, type QueryPorts } from "./queries.ts";
import type { Rpc } from "./rpc.ts";
import { againWhenRetired, type Route, route } from "./search.ts";

const PHOTO_COLLECTION = "product_images";

export interface PhotoSearchRequest {
  readonly picture: Picture;
  /** 1 to 100 products; none: 25. */
  readonly match_count?: number | undefined;
  /** A similarity from -1 to 1 below which products are left out; none: no threshold. */
  readonly match_threshold?: number | undefined;
  /** The version's number; none: the active one. */
  readonly version?: number | undefined;
}

/** A product, and its image that is nearest to the photo. */
const found = z.looseObject({ product_id: z.number(), image_id: z.number(), similarity: z.number() });

export interface PhotoSearchAnswer {
  readonly version: number;
  readonly space: string;
  /** While the version is not fully loaded: the share of images (0 to 1) that it has. */
  readonly coverage?: number;
  readonly count: number;
  /** Best first. */
  readonly results: readonly z.output<typeof found>[];
}

export interface PhotoSearchPorts extends QueryPorts {
  /** The database as the caller: RLS decides what comes back. */
  readonly caller: Rpc;
}

/**
 * Answers a photo. A version that is finalized between route and search is noticed, and the search routed once more.
 * @throws ReembedError of the route, the rate, the provider or the RPC; `provider_unavailable` where nothing is configured that embeds photos in the version's space
 */
export async function searchByPhoto(
  ports: PhotoSearchPorts,
  request: PhotoSearchRequest,
): Promise<PhotoSearchAnswer> {
  return againWhenRetired(request.version, () => searchOnce(ports, request));
}

async function searchOnce(
  ports: PhotoSearchPorts,
  { picture, match_count, match_threshold, version }: PhotoSearchRequest,
): Promise<PhotoSearchAnswer> {
  // As the caller, before anything is paid: a token that is not valid is refused here.
  const to = route.parse(
    await ports.caller("embedding_route", { collection: PHOTO_COLLECTION, version: version ?? null }),
  );
  const { vector, recorded } = await embedQuery(ports, spaceOf(to), picture);
  const asked = ports.caller("match_products", {
    query_embedding: vector,
    match_threshold: match_threshold ?? null,
    match_count: match_count ?? 25,
    version: to.version,
    query_space: to.space,
  });
  // An edge function may be stopped as soon as it has answered, so the ledger is waited for too.
  const [rows, ledger] = await Promise.allSettled([asked, recorded]);
  if (rows.status === "rejected") throw rows.reason;
  if (ledger.status === "rejected") throw ledger.reason;
  const results = z.array(found).parse(rows.value);
  return {
    version: to.version,
    space: to.space,
    ...(to.coverage === undefined ? {} : { coverage: to.coverage }),
    count: results.length,
    results,
  };
}

function spaceOf(to: Route): Space {
  if (hasImages(to)) return { ...to, id: to.space };
  throw new ReembedError(
    "provider_unavailable",
    `${to.space}: nothing makes a photo a vector of this space`,
    "Search by text, or move the collection to a space whose documents are images.",
  );
}
