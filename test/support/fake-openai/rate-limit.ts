/** OpenAI's rate limit as it can be seen from outside: a bucket that drains evenly, so that a full one is empty after a minute. */

const MINUTE_MS = 60_000;

export class Bucket {
  readonly limit: number;
  readonly #enforced: boolean;
  #used = 0;
  #at: number;

  /**
   * @param limit units a minute.
   * @param enforced false only reports: what is over the limit is let through.
   * @param now the present, in milliseconds.
   */
  constructor(limit: number, enforced: boolean, now: number) {
    this.limit = limit;
    this.#enforced = enforced;
    this.#at = now;
  }

  /** How many milliseconds until `units` fit: 0 when they do now, Infinity when they never will. */
  waitFor(units: number, now: number): number {
    if (!this.#enforced) return 0;
    if (units > this.limit) return Number.POSITIVE_INFINITY;
    return Math.ceil((Math.max(0, this.used(now) + units - this.limit) * MINUTE_MS) / this.limit);
  }

  take(units: number, now: number): void {
    this.#used = Math.min(this.limit, this.used(now) + units);
    this.#at = now;
  }

  /** Units used and not yet drained. */
  used(now: number): number {
    return Math.max(0, this.#used - ((now - this.#at) * this.limit) / MINUTE_MS);
  }

  /** The three x-ratelimit headers of this bucket, for `requests` or `tokens`. */
  headers(of: "requests" | "tokens", now: number): Record<string, string> {
    return {
      [`x-ratelimit-limit-${of}`]: String(this.limit),
      [`x-ratelimit-remaining-${of}`]: String(Math.floor(this.limit - this.used(now))),
      [`x-ratelimit-reset-${of}`]: formatDuration((this.used(now) * MINUTE_MS) / this.limit),
    };
  }
}

/** Milliseconds as the service writes them: `12ms`, `2.812s`, `6m0s`. */
export function formatDuration(milliseconds: number): string {
  const whole = Math.ceil(milliseconds);
  if (whole < 1000) return `${whole}ms`;
  const minutes = Math.floor(whole / MINUTE_MS);
  const seconds = Number(((whole % MINUTE_MS) / 1000).toFixed(3));
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds}s`;
}
