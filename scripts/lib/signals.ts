/** Ending in order: the first signal asks, a later one insists. */

/** npm passes on a Ctrl-C that the terminal has sent to this process as well: what follows so closely is the same wish. */
const SAME_WISH_MS = 500;

/**
 * Runs `work` with a signal that is aborted by the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once, with 130.
 * @param onStop told at the first signal
 */
export async function untilSignalled<T>(
  onStop: () => void,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stopping = new AbortController();
  let first: number | undefined;
  const onSignal = () => {
    if (first === undefined) {
      first = performance.now();
      stopping.abort();
      onStop();
    } else if (performance.now() - first > SAME_WISH_MS) process.exit(130);
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  try {
    return await work(stopping.signal);
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
  }
}

/** Waits, or less when the signal comes first. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end, { once: true });
  });
}
