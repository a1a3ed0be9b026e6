/** The pgTAP file of an added table: what its migration promises, whatever state a move is in and whether the table has rows or none. */
import type { Plan, PlannedVersion } from "./plan.ts";
import { comment, dollarQuoted, literal, nameArray } from "./quote.ts";

/** The file's text. It changes nothing: it runs in a transaction that is rolled back. */
export function pgTapSql(plan: Plan): string {
  const tests = testsOf(plan);
  const parts = [
    comment(`The collection ${plan.collection} as its migration made it.`),
    `begin;\nselect plan(${tests.length});`,
    `-- What a statement raises: its SQLSTATE, or 'none'.
create function pg_temp.state_of(statement text) returns text language plpgsql as $$
begin
  execute statement;
  return 'none';
exception when others then
  return sqlstate;
end
$$;`,
    tests.join("\n"),
    "select * from finish();\nrollback;",
  ];
  return `${parts.join("\n\n")}\n`;
}

function testsOf(plan: Plan): string[] {
  const { collection, table, old, next } = plan;
  const versions: PlannedVersion[] = old === undefined ? [next] : [old, next];
  return [
    isTest(
      `(select (c.source_table = ${literal(table)}::regclass, c.key_columns, c.public_columns, c.filter_columns)::text from reembed.collections c where c.name = ${literal(collection)})`,
      `(true, ${nameArray(plan.key.map(({ name }) => name))}::name[], ${nameArray(plan.publicColumns)}::name[], ${nameArray(plan.filterColumns)}::name[])::text`,
      "the table is registered with its key, its columns and its filters",
    ),
    isTest(
      `(select provolatile::text || prosecdef::text from pg_proc where oid = ${literal(`${plan.inputFunction}(${table})`)}::regprocedure)`,
      "'ifalse'",
      "the text of a row depends on the row alone",
    ),
    emptyTest(
      `select role from unnest(array['anon', 'authenticated', 'service_role']) role where has_function_privilege(role, ${literal(`${plan.inputFunction}(${table})`)}, 'execute') and role <> 'service_role'`,
      "which no caller of the API asks for",
    ),
    ...versions.flatMap((version) => versionTests(version, collection)),
    ...(next.placement === "table"
      ? [
          isTest(
            `(select relrowsecurity from pg_class where oid = ${literal(next.vectorTable)}::regclass)`,
            "true",
            "the vectors' table has row level security",
          ),
          emptyTest(
            `select role, privilege from unnest(array['anon', 'authenticated', 'service_role']) role, unnest(array['insert', 'update', 'delete', 'truncate']) privilege where has_table_privilege(role, ${literal(next.vectorTable)}, privilege)`,
            "and no role of the API writes it",
          ),
        ]
      : []),
    ...(plan.lexical === undefined || plan.lexical.byHand.length > 0
      ? []
      : versions.flatMap((version) => hybridTests(version, collection))),
    ...(plan.rowSecurity === "on"
      ? [
          isTest(
            `(select relrowsecurity from pg_class where oid = ${literal(table)}::regclass)`,
            "true",
            "the rows have row level security",
          ),
        ]
      : []),
    emptyTest(
      `select row_id, problem from reembed.violations() where collection = ${literal(collection)}`,
      "each row of a version that is loaded is current or has a job",
    ),
  ];
}

function versionTests(version: PlannedVersion, collection: string): string[] {
  const { number, space, matchFunction } = version;
  const ofWidth = (width: number) => `(array_fill(1::real, array[${width}]))::extensions.vector`;
  const call = (args: string) => `select from public.${matchFunction}(${args})`;
  const wrongWidth = space.dimensions + 1;
  return [
    isTest(
      `(select (v.space_id, v.vector_column, v.match_function)::text from reembed.versions v where v.id = (reembed.version_numbered(${literal(collection)}, ${number})).id)`,
      `(${literal(space.id)}::text, ${literal(version.vectorColumn)}::name, ${literal(matchFunction)}::name)::text`,
      `version ${number} holds vectors of ${space.id}`,
    ),
    isTest(
      `(select format_type(atttypid, null) || '(' || atttypmod || ')' from pg_attribute where attrelid = ${literal(version.vectorTable)}::regclass and attname = ${literal(version.vectorColumn)})`,
      `(select format_type(t.oid, null) || '(${space.dimensions})' from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = ${literal(version.vectorTable)}::regclass and a.attname = ${literal(version.vectorColumn)} and t.typname in ('vector', 'halfvec'))`,
      "in a column of their width",
    ),
    isTest(
      `(select count(*)::int from pg_proc where pronamespace = 'public'::regnamespace and proname = ${literal(matchFunction)})`,
      "1",
      `${matchFunction} is one function`,
    ),
    isTest(
      `(select bool_and(has_function_privilege(role, p.oid, 'execute')) and not bool_or(p.prosecdef) from pg_proc p, unnest(array['anon', 'authenticated', 'service_role']) role where p.pronamespace = 'public'::regnamespace and p.proname = ${literal(matchFunction)})`,
      "true",
      "which everybody may call, with the rights of the caller",
    ),
    isTest(
      `pg_temp.state_of(${dollarQuoted(call(`${ofWidth(space.dimensions)}, query_space => ${literal(space.id)}`), " ")})`,
      "'none'",
      "it takes a vector of its space",
    ),
    isTest(
      `pg_temp.state_of(${dollarQuoted(call(`${ofWidth(wrongWidth)}, query_space => ${literal(space.id)}`), " ")})`,
      "'RE001'",
      "it refuses another width",
    ),
    isTest(
      `pg_temp.state_of(${dollarQuoted(call(`${ofWidth(space.dimensions)}, query_space => 'test/another@1'`), " ")})`,
      "'RE002'",
      "and another space",
    ),
  ];
}

function hybridTests({ number, space }: PlannedVersion, collection: string): string[] {
  const name = `hybrid_${collection}${number === 1 ? "" : `_v${number}`}`;
  return [
    isTest(
      `pg_temp.state_of(${dollarQuoted(`select from public.${name}('word')`, " ")})`,
      "'none'",
      `${name} searches by words`,
    ),
    isTest(
      `pg_temp.state_of(${dollarQuoted(`select from public.${name}('word', '[1,2]', query_space => ${literal(space.id)})`, " ")})`,
      space.dimensions === 2 ? "'none'" : "'RE001'",
      "and refuses a vector of another width",
    ),
  ];
}

const isTest = (have: string, want: string, description: string): string =>
  `select is(${have}, ${want}, ${literal(description)});`;

const emptyTest = (query: string, description: string): string =>
  `select is_empty(${dollarQuoted(query, " ")}, ${literal(description)});`;
