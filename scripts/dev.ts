/** `npm run dev`: the same as `reembed dev`. */
import { main } from "./lib/program.ts";

await main(["dev", ...process.argv.slice(2)]);
