/**
 * A worker as a process of its own, for tests that kill it: works off what is due with the real provider code and connection. Arguments: the
 * database's URL, the provider's base URL and its key. Prints a line for each claim it has completed.
 */
import { openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";

const [databaseUrl = "", baseURL = "", apiKey = ""] = process.argv.slice(2);
const db = await openDatabase(databaseUrl, 1);
const report = await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {
  batch: 20,
  onProgress: ({ done }) => console.log(JSON.stringify({ done })),
});
console.log(JSON.stringify(report));
await db.close();
