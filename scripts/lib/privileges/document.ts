/** docs/privileges.md as it must be: the catalogue and the functions as a text that one can read. */
import { type ObjectPrivileges, ROLES } from "./catalogue.ts";
import type { FunctionKeys } from "./edge.ts";

const HEAD = `# Privileges

Who may do what: each role of the API with each object of the schemas \`public\` and \`reembed\`, and the keys that each edge function takes. Written by
\`npm run privileges -- --write\` from the catalogue and the functions themselves; \`test/db/privileges.test.ts\` compares it under both of Supabase's
default privileges, the old, which open all that is new in \`public\`, and the new, which open nothing. An object that has no line here fails.

An empty field: nothing. PUBLIC: what is granted to everybody, the role \`authenticator\` included. Which rows of a table a role
reads or writes, its policies decide (no policy: none); \`service_role\` passes them.
`;

const KINDS = {
  schema: "Schemas",
  table: "Tables",
  view: "Views",
  sequence: "Sequences",
  function: "Functions",
};

/** The whole text. */
export function privilegesDocument(
  objects: readonly ObjectPrivileges[],
  functions: readonly FunctionKeys[],
): string {
  const of = (schema: string, kind: string) =>
    objects.filter((object) => object.schema === schema && object.kind === kind);
  const sections = [
    section("Schemas", [...of("public", "schema"), ...of("reembed", "schema")], undefined),
    ...(["public", "reembed"] as const).flatMap((schema) =>
      (["table", "view", "sequence", "function"] as const).map((kind) =>
        section(`${KINDS[kind]} of ${schema}`, of(schema, kind), DETAILS[kind]),
      ),
    ),
  ];
  const edge = `## Edge functions

A publishable key lets anybody ask; what then comes back is decided by row level security and the user's own token.

${table(
  ["function", "methods", "keys in `apikey`"],
  functions.map(({ name, methods, keys }) => [`\`${name}\``, methods.join(", "), keys.join(", ")]),
)}
`;
  return [HEAD, ...sections.filter((text) => text !== ""), edge].join("\n");
}

/** What the last column says, by kind. */
const DETAILS = { table: "rows", view: "options", sequence: undefined, function: "runs with" };

function section(title: string, objects: readonly ObjectPrivileges[], detail: string | undefined): string {
  if (objects.length === 0) return "";
  return `## ${title}\n\n${table(
    ["name", ...ROLES, ...(detail === undefined ? [] : [detail])],
    objects.map((object) => [
      `\`${object.name}\``,
      ...object.rights,
      ...(detail === undefined ? [] : [object.detail]),
    ]),
  )}\n`;
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|").replace(/\s+/g, " ")).join(" | ")} |`.replace(
      / {2,}\|/g,
      " |",
    );
  return [line(heads), line(heads.map(() => "---")), ...rows.map(line)].join("\n");
}
