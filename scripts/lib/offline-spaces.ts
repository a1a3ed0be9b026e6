/** Without a key, a server or an edge runtime nothing can embed for a space: a fresh collection then takes hash spaces of the same widths. */
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { HASH_MODEL } from "../../supabase/functions/_shared/providers/hash.ts";
import type { Database } from "./connection.ts";
import { listVersions } from "./targets.ts";

/** The providers of versions that nothing can embed for here, as far as the environment says. Vectors that were brought from elsewhere are no such case. */
export async function providersOutOfReach(
  db: Database,
  embedderFor: (space: Space) => Embedder,
): Promise<readonly string[]> {
  const isOutOfReach = (space: Space) => {
    try {
      embedderFor(space);
      return false;
    } catch (error) {
      if (error instanceof ReembedError && error.code === "provider_unavailable") return true;
      throw error;
    }
  };
  const spaces = (await listVersions(db)).map(({ space }) => space);
  return [
    ...new Set(
      spaces
        .filter((space) => space.provider !== "external" && isOutOfReach(space))
        .map(({ provider }) => provider),
    ),
  ];
}

/** A version that took a hash space. */
export interface OfflineSpace {
  readonly collection: string;
  readonly version: number;
  readonly from: string;
  readonly to: string;
}

/**
 * Gives each version of these providers that has no record yet a hash space of its own width, unless its documents are images, of which nothing can
 * be hashed. Lexical, not semantic: whoever calls this says so.
 * @param providers those that cannot be called here
 */
export async function useHashSpaces(
  db: Database,
  providers: readonly string[],
): Promise<readonly OfflineSpace[]> {
  const versions = await db.query<{ collection: string; version: number; space: string; dimensions: number }>(
    `select c.name as collection, v.number as version, s.id as space, s.dimensions
       from reembed.versions v
       join reembed.collections c on c.id = v.collection_id
       join reembed.spaces s on s.id = v.space_id
      where s.provider = any ($1) and v.state <> 'retired' and s.image_tokens is null
        and not exists (select from reembed.records r where r.version_id = v.id)
      order by c.name, v.number`,
    [providers],
  );
  const changed: OfflineSpace[] = [];
  for (const { collection, version, space, dimensions } of versions) {
    const [row] = await db.query<{ id: string }>("select reembed.add_space('hash', $1, $2) as id", [
      HASH_MODEL,
      dimensions,
    ]);
    if (row === undefined) continue;
    await db.query("select reembed.set_space($1, $2, $3)", [collection, version, row.id]);
    changed.push({ collection, version, from: space, to: row.id });
  }
  return changed;
}
