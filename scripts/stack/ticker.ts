/** Wakes the backfill function every few seconds, where no pg_cron does. */

export interface TickerOptions {
  /** The functions' base, `.../functions/v1`. */
  readonly functionsUrl: string;
  readonly backfillKey: string;
  readonly intervalMs: number;
  /** Hears of trouble once, when it begins, and once when it is over. */
  readonly onLog: (line: string) => void;
}

/** Pokes at once and then on and on, never before the last poke was answered. An empty body: the worker takes no instruction from it. */
export function startTicker(options: TickerOptions): { stop(): Promise<void> } {
  const stopping = new AbortController();
  let trouble = "";
  let timer: NodeJS.Timeout | undefined;
  let poking = Promise.resolve();

  const poke = async (): Promise<void> => {
    const before = trouble;
    trouble = await fetch(`${options.functionsUrl}/backfill`, {
      method: "POST",
      headers: { apikey: options.backfillKey },
      signal: stopping.signal,
    }).then(
      async (response) => {
        await response.body?.cancel();
        return response.ok ? "" : `the backfill function answers ${response.status}`;
      },
      () => "the backfill function cannot be reached",
    );
    if (stopping.signal.aborted) return;
    if (trouble !== before) options.onLog(trouble || "the backfill function answers again");
    timer = setTimeout(tick, options.intervalMs);
  };
  const tick = () => {
    poking = poke();
  };
  tick();

  return {
    async stop() {
      stopping.abort();
      clearTimeout(timer);
      await poking;
    },
  };
}
