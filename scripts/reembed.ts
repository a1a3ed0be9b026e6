/** `npm run -s reembed -- <command>`: the command line. */
import { setFlagsFromString } from "node:v8";
import { main } from "./lib/program.ts";

// What a worker allocates lives for a request and dies. Left alone, the heap grows to several times of what is in use before it is collected:
// 350 to 400 MB where 60 are. The young generation stays at its first size, and the old one is collected when it has grown by a third.
setFlagsFromString("--semi-space-growth-factor=1");
setFlagsFromString("--heap-growing-percent=30");

await main(process.argv.slice(2));
