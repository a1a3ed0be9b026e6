/** Which collection and version a command is about, where the caller may leave it out. */
import type { Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Database } from "./connection.ts";

/** A version as the registry has it. */
export interface VersionEntry {
  readonly id: number;
  readonly collection: string;
  readonly version: number;
  readonly maintained: boolean;
  readonly space: Space;
}

/**
 * The collection's name as given, else the only one there is, else the only one that has rows: a system's migration makes its collection whether or not
 * anybody uses it.
 * @throws ReembedError `invalid_request` when that does not tell, `unknown_collection` when there is none
 */
export async function chooseCollection(db: Database, given: string | undefined): Promise<string> {
  if (given !== undefined) return given;
  const all = await db.query<{ name: string; rows: string }>(
    `select c.name, format('select from %s limit 1', x.oid::regclass) as rows
       from reembed.collections c join pg_catalog.pg_class x on x.oid = c.source_table order by c.name`,
  );
  const used: string[] = [];
  for (const { name, rows } of all) {
    if (all.length === 1 || (await db.query(rows)).length > 0) used.push(name);
  }
  const [only] = used;
  if (only !== undefined && used.length === 1) return only;
  const names = all.map(({ name }) => name).join(", ");
  if (all.length === 0) {
    throw new ReembedError(
      "unknown_collection",
      "no collection is registered in this database",
      "Register one with reembed.add_collection and reembed.add_version.",
    );
  }
  throw new ReembedError(
    "invalid_request",
    `--collection is missing: there are ${all.length}, and ${used.length === 0 ? "none has" : `${used.length} have`} rows`,
    `Name one of: ${names}.`,
  );
}

/** The versions that are not retired, all or one collection's, the newest last. */
export async function listVersions(
  db: Database,
  filter: { readonly collection?: string; readonly maintained?: boolean } = {},
): Promise<VersionEntry[]> {
  return db.query<{ [Column in keyof VersionEntry]: VersionEntry[Column] }>(
    `select v.id, c.name as collection, v.number as version, v.maintained,
            jsonb_build_object('id', s.id, 'provider', s.provider, 'model', s.model, 'dimensions', s.dimensions,
              'query_prefix', s.query_prefix, 'document_prefix', s.document_prefix, 'max_input_tokens', s.max_input_tokens, 'image_tokens', s.image_tokens) as space
       from reembed.versions v join reembed.collections c on c.id = v.collection_id join reembed.spaces s on s.id = v.space_id
      where v.state <> 'retired' and ($1::text is null or c.name = $1) and ($2::boolean is null or v.maintained = $2)
      order by c.name, v.number`,
    [filter.collection ?? null, filter.maintained ?? null],
  );
}

/**
 * A version by its number, else the newest one that is not retired.
 * @throws ReembedError `unknown_collection`, `unknown_version`, `version_retired`
 */
export async function chooseVersion(
  db: Database,
  collection: string,
  number: number | undefined,
): Promise<VersionEntry> {
  if (number === undefined) await db.query("select reembed.collection_named($1)", [collection]);
  else await db.query("select reembed.version_numbered($1, $2)", [collection, number]);
  const versions = await listVersions(db, { collection });
  const found = number === undefined ? versions.at(-1) : versions.find(({ version }) => version === number);
  if (found !== undefined) return found;
  throw new ReembedError(
    "version_retired",
    number === undefined
      ? `every version of ${collection} was finalized`
      : `version ${number} of ${collection} was finalized`,
    "Add a new version.",
  );
}
