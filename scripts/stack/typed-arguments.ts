/**
 * Where @supabase/lite binds a JSON value otherwise than PostgREST does. An array given for a vector becomes `1,0,0`, which pgvector refuses;
 * an array of booleans is announced as one boolean; a string given for json becomes its own text. These functions turn them into the text that
 * the type reads, for what the catalogue says is of such a type.
 */
import type { IntrospectResult } from "@supabase/lite";

type Kind = "vector" | "json" | "booleans";
type Kinds = ReadonlyMap<string, Kind>;

/** The catalogue of one exposed schema, as far as these types matter. */
export interface TypedCatalogue {
  /** For each function its arguments of such a type. Every function is listed, also those without one. */
  readonly functions: ReadonlyMap<string, Kinds>;
  /** For each table its columns of such a type. */
  readonly tables: ReadonlyMap<string, Kinds>;
}

/** Picks a schema's arguments and columns out of a whole catalogue. */
export function typedCatalogue(catalogue: IntrospectResult, schema: string): TypedCatalogue {
  const functions = new Map<string, Map<string, Kind>>();
  for (const { name, arg_names, arg_types } of (catalogue.functions ?? []).filter(
    (f) => f.schema === schema,
  )) {
    const kinds = functions.get(name) ?? new Map();
    functions.set(name, kinds);
    arg_names.forEach((argument, i) => {
      const kind = kindOf(arg_types[i]);
      if (kind !== undefined) kinds.set(argument, kind);
    });
  }
  const tables = new Map<string, Map<string, Kind>>();
  for (const { table, name, type } of catalogue.columns.filter((c) => c.schema === schema)) {
    const kind = kindOf(type);
    if (kind !== undefined) tables.set(table, (tables.get(table) ?? new Map()).set(name, kind));
  }
  return { functions, tables };
}

/**
 * The body with each value that lite would bind otherwise replaced by its text; the very same text when there is none, and when it
 * is not JSON: what is wrong with it is for the API to say.
 */
export function withTypedValues(body: string, kinds: Kinds): string {
  if (kinds.size === 0) return body;
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    return body;
  }
  let changed = false;
  for (const row of Array.isArray(parsed) ? parsed : [parsed]) {
    if (!isObject(row)) continue;
    for (const [name, value] of Object.entries(row)) {
      const kind = kinds.get(name);
      if ((kind === "vector" && Array.isArray(value)) || (kind === "json" && typeof value === "string")) {
        row[name] = JSON.stringify(value);
        changed = true;
      } else if (kind === "booleans" && Array.isArray(value)) {
        row[name] = `{${value.map((element) => String(element)).join(",")}}`;
        changed = true;
      }
    }
  }
  return changed ? JSON.stringify(parsed) : body;
}

/** How the driver writes a json value: lite hands it over as text already, and quoting it again would make a JSON string of it. */
const jsonType = (oid: number) => ({
  to: oid,
  from: [oid],
  serialize: (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value)),
  parse: (text: string) => JSON.parse(text) as unknown,
});
/** Under the names by which lite sets its own. */
export const JSON_TYPES = { json: jsonType(114), jsonb: jsonType(3802) };

/** `vector`, `extensions.halfvec`, `vector(384)`; not `vector[]`, which PostgREST does not take as nested arrays either. */
function kindOf(type: string | undefined): Kind | undefined {
  if (type === undefined) return undefined;
  if (type === "json" || type === "jsonb") return "json";
  if (type === "boolean[]" || type === "_bool") return "booleans";
  return /^("?\w+"?\.)?"?(vector|halfvec)"?(\(\d+\))?$/.test(type) ? "vector" : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
