/**
 * A worker as a process of its own, for tests that kill it: works off what is due with the real provider code and connection. Arguments: the
 * database's URL, the provider's base URL and its key.
 */
import { openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";

const [databaseUrl = "", baseURL = "", apiKey = ""] = process.argv.slice(2);
const db = await openDatabase(databaseUrl, 1);
await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), { batch: 20 });
await db.close();
