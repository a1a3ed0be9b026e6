/** What a provider says about the rate that it allows, in the headers of its answers. */

/** The two buckets of an account, each filling evenly: units a minute when full, and how many are left now. Undefined where it is not said. */
export interface ProviderRate {
  readonly tokensPerMinute: number | undefined;
  readonly tokensLeft: number | undefined;
  readonly requestsPerMinute: number | undefined;
  readonly requestsLeft: number | undefined;
}

/** OpenAI's `x-ratelimit-limit-*` and `x-ratelimit-remaining-*`, a bucket only where both are given; undefined where there is none. */
export function readProviderRate(headers: Headers): ProviderRate | undefined {
  const [tokensPerMinute, tokensLeft] = bucketOf(headers, "tokens");
  const [requestsPerMinute, requestsLeft] = bucketOf(headers, "requests");
  if (tokensPerMinute === undefined && requestsPerMinute === undefined) return undefined;
  return { tokensPerMinute, tokensLeft, requestsPerMinute, requestsLeft };
}

function bucketOf(headers: Headers, unit: "tokens" | "requests"): [number, number] | [] {
  const [limit, left] = ["limit", "remaining"].map((what) => headers.get(`x-ratelimit-${what}-${unit}`));
  if (!isCount(limit) || !isCount(left) || Number(limit) === 0) return [];
  return [Number(limit), Number(left)];
}

function isCount(text: string | null | undefined): text is string {
  return typeof text === "string" && /^\s*\d{1,15}\s*$/.test(text);
}
