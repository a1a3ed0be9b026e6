/**
 * @supabase/lite prints every database error to the console, and such an error quotes what it could not take: vectors, texts, rows.
 * No option turns that off, so the console is deaf to whatever runs inside `inSilence`, and to nothing else.
 */
import { AsyncLocalStorage } from "node:async_hooks";

const METHODS = ["log", "warn", "error"] as const;
const silence = new AsyncLocalStorage<true>();

/** Runs `work`; what it, and all it awaits, prints to the console is dropped. */
export function inSilence<T>(work: () => T): T {
  return silence.run(true, work);
}

/** Makes the console heed `inSilence` until the returned function is called. */
export function installSilence(): () => void {
  const undo = METHODS.map((method) => {
    const print = console[method];
    const heedful = (...values: unknown[]) => {
      if (silence.getStore() === undefined) print.apply(console, values);
    };
    console[method] = heedful;
    return () => {
      // Someone who wrapped the console after us keeps their wrapper, and with it ours, which is harmless.
      if (console[method] === heedful) console[method] = print;
    };
  });
  return () => {
    for (const restore of undo) restore();
  };
}
