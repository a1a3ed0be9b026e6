/** SQL texts from names and values that anybody may have chosen: quotes, line ends, dollar signs, reserved words. */
import { escapeIdentifier, escapeLiteral } from "pg";

/** Quotes identifiers as PostgreSQL's quote_ident does: only where it is needed. */
export interface Quoter {
  /** One identifier. */
  id(name: string): string;
  /** A name with its schema. */
  qualified(schema: string, name: string): string;
  /** Identifiers with commas between them. */
  list(names: readonly string[]): string;
}

/**
 * A quoter that knows this server's words.
 * @param keywords every word that is not free to use, from pg_get_keywords()
 */
export function createQuoter(keywords: ReadonlySet<string>): Quoter {
  const id = (name: string) =>
    /^[a-z_][a-z0-9_]*$/.test(name) && !keywords.has(name) ? name : escapeIdentifier(name);
  return {
    id,
    qualified: (schema, name) => `${id(schema)}.${id(name)}`,
    list: (names) => names.map(id).join(", "),
  };
}

/** A string as an SQL literal. */
export const literal = (text: string): string => escapeLiteral(text).trimStart();

/** `array['a', 'b']`, typed where it would be empty. */
export function nameArray(names: readonly string[]): string {
  return names.length === 0 ? "'{}'" : `array[${names.map(literal).join(", ")}]`;
}

/**
 * A text between dollar quotes that it does not contain itself.
 * @param margin white space between the quotes and the text
 */
export function dollarQuoted(text: string, margin: "\n" | " " = "\n"): string {
  let quote = "$$";
  for (let number = 1; text.includes(quote); number += 1) quote = `$quote_${number}$`;
  return `${quote}${margin}${text}${margin}${quote}`;
}

/** Lines of an SQL comment. Names come into it, so nothing in them may end a line. */
export function comment(...lines: readonly string[]): string {
  return lines.map((line) => `-- ${line.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, " ")}`).join("\n");
}
