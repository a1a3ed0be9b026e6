/** `npm run -s reembed -- <command>`: the command line. */
import { main } from "./lib/program.ts";

await main(process.argv.slice(2));
