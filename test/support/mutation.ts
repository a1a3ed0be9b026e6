/** Takes a rule out of a function in a test's own database, to see what the rule is for. */
import type { ClientBase } from "pg";

/** What to find in the function's definition, and what to put there. Each must occur. */
export type Edit = readonly [find: string | RegExp, replacement: string];

/**
 * Replaces parts of a function's definition and returns what puts the original back.
 * @throws when a part does not occur: the function has changed, and the mutation says nothing any more
 */
export async function mutate(
  client: ClientBase,
  signature: string,
  edits: readonly Edit[],
): Promise<() => Promise<void>> {
  const { rows } = await client.query<{ definition: string }>(
    "select pg_get_functiondef($1::regprocedure) as definition",
    [signature],
  );
  const original = rows[0]?.definition ?? "";
  let mutant = original;
  for (const [find, replacement] of edits) {
    const next = mutant.replaceAll(
      typeof find === "string" ? find : new RegExp(find, "g"),
      () => replacement,
    );
    if (next === mutant) throw new Error(`${signature} does not contain ${find}`);
    mutant = next;
  }
  await client.query(mutant);
  return async () => {
    await client.query(original);
  };
}
