/**
 * PostgREST reads a JSON array given for a vector as the vector; @supabase/lite binds it as `1,0,0`, which pgvector refuses.
 * These functions turn such arrays into their JSON text, which both take, for what the catalogue says is a vector or halfvec.
 */
import type { IntrospectResult } from "@supabase/lite";

/** The catalogue of one exposed schema, as far as vectors matter. */
export interface VectorCatalogue {
  /** For each function its arguments of a vector type. */
  readonly functions: ReadonlyMap<string, ReadonlySet<string>>;
  /** For each table its columns of a vector type. */
  readonly tables: ReadonlyMap<string, ReadonlySet<string>>;
}

/** Picks the vectors of a schema out of a whole catalogue. Every function is listed, also those without vector arguments. */
export function vectorCatalogue(catalogue: IntrospectResult, schema: string): VectorCatalogue {
  const functions = new Map<string, Set<string>>();
  for (const { name, arg_names, arg_types } of (catalogue.functions ?? []).filter(
    (f) => f.schema === schema,
  )) {
    const vectors = functions.get(name) ?? new Set();
    arg_names
      .filter((_, i) => isVectorType(arg_types[i]))
      .forEach((argument) => {
        vectors.add(argument);
      });
    functions.set(name, vectors);
  }
  const tables = new Map<string, Set<string>>();
  for (const { table, name, type } of catalogue.columns.filter((c) => c.schema === schema)) {
    if (isVectorType(type)) tables.set(table, (tables.get(table) ?? new Set()).add(name));
  }
  return { functions, tables };
}

/**
 * The body with each array that stands for a vector replaced by its JSON text; the very same text when there is none, and when it is
 * not JSON: what is wrong with it is for the API to say.
 * @param vectors names of the arguments or columns that are vectors
 */
export function vectorsAsText(body: string, vectors: ReadonlySet<string>): string {
  if (vectors.size === 0) return body;
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
      if (!vectors.has(name) || !Array.isArray(value)) continue;
      row[name] = JSON.stringify(value);
      changed = true;
    }
  }
  return changed ? JSON.stringify(parsed) : body;
}

/** `vector`, `extensions.halfvec`, `vector(384)`; not `vector[]`, which PostgREST does not take as nested arrays either. */
function isVectorType(type: string | undefined): boolean {
  return type !== undefined && /^("?\w+"?\.)?"?(vector|halfvec)"?(\(\d+\))?$/.test(type);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
