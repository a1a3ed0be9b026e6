/**
 * Fetching a URL that somebody else wrote, such as a column of a table: it must reach nothing but the public internet, take nothing but a
 * file of a bounded size, and end in a bounded time.
 *
 * The URL is checked, then every address that its name has, and the connection goes to one of the addresses that were checked: a name that answers
 * otherwise a moment later changes nothing. A redirect is a new URL, checked anew. Name look-up and connection come in as ports.
 */
import ipaddr from "ipaddr.js";

export interface Connection {
  /** The address to connect to, an IPv4 or IPv6 literal without brackets. */
  readonly address: string;
  /** What is asked for: its host goes into the request's Host and, with https, into the certificate's check. */
  readonly url: URL;
  readonly signal: AbortSignal;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: AsyncIterable<Uint8Array<ArrayBuffer>>;
  /** Ends the connection, whatever of the body is still to come. */
  close(): void;
}

export interface SafeFetchPorts {
  /** All addresses of a host name. Rejects where it has none. */
  resolve(host: string): Promise<readonly string[]>;
  /** Sends one GET and follows nothing. Rejects where no answer comes. */
  connect(connection: Connection): Promise<Answer>;
}

export interface SafeFetchOptions {
  readonly maxBytes: number;
  /** For everything together: look-ups, redirects, the whole body. Default: 10,000. */
  readonly timeoutMs?: number;
  /** Default: 3. */
  readonly maxRedirects?: number;
  /**
   * Scheme, host and port of a server that the operator has named: it may stand at any address and port. Only this very origin is exempt, after a
   * redirect too.
   */
  readonly trustedOrigin?: string | undefined;
}

/** Why nothing was fetched. `again`: the same may succeed later. */
const FETCH_FAULTS = {
  bad_url: { again: false, meaning: "its URL is not an absolute http(s) URL" },
  credentials: { again: false, meaning: "its URL holds a user or a password" },
  port: { again: false, meaning: "its URL names a port other than 80 and 443" },
  private_address: { again: false, meaning: "its host is not on the public internet" },
  unknown_host: { again: true, meaning: "its host name has no address" },
  unreachable: { again: true, meaning: "its host cannot be reached, or broke off" },
  timeout: { again: true, meaning: "its host did not answer in time" },
  redirects: { again: false, meaning: "its host redirects too often" },
  encoded: { again: false, meaning: "its host sends it compressed although it was not asked to" },
  too_large: { again: false, meaning: "it is larger than is taken" },
  gone: { again: false, meaning: "its host answers that it is not there" },
  refused: { again: false, meaning: "its host refuses to send it" },
  server_error: { again: true, meaning: "its host fails" },
} as const satisfies Record<string, { again: boolean; meaning: string }>;

export type FetchFault = keyof typeof FETCH_FAULTS;

/** Says what was wrong and nothing of the URL. */
export class FetchError extends Error {
  override readonly name = "FetchError";
  readonly fault: FetchFault;
  readonly again: boolean;
  /** The HTTP status, where one was the reason. */
  readonly status: number | undefined;

  constructor(fault: FetchFault, status?: number) {
    const { meaning, again } = FETCH_FAULTS[fault];
    super(status === undefined ? meaning : `${meaning} (${status})`);
    this.fault = fault;
    this.again = again;
    this.status = status;
  }
}

/**
 * Fetches a URL's content.
 * @throws FetchError; the caller's own reason when `signal` ends it
 */
export type SafeFetch = (url: string, signal?: AbortSignal) => Promise<Uint8Array<ArrayBuffer>>;

const LONGEST_URL = 4_096;
const PORTS: ReadonlySet<string> = new Set(["", "80", "443"]);
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export function createSafeFetch(ports: SafeFetchPorts, options: SafeFetchOptions): SafeFetch {
  const { maxBytes, timeoutMs = 10_000, maxRedirects = 3, trustedOrigin } = options;
  return async (text, signal) => {
    const deadline = AbortSignal.timeout(timeoutMs);
    const ended = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
    const guard = guarded(ended);
    try {
      let url = checkedUrl(text, undefined, trustedOrigin);
      for (let redirects = 0; ; redirects += 1) {
        const answer = await open(ports, url, trustedOrigin, ended, guard);
        try {
          const next = redirectOf(answer);
          if (next === undefined) return await readBody(answer, maxBytes, guard);
          if (redirects === maxRedirects) throw new FetchError("redirects");
          url = checkedUrl(next, url, trustedOrigin);
        } finally {
          answer.close();
        }
      }
    } catch (error) {
      if (error instanceof FetchError) throw error;
      if (signal?.aborted) throw signal.reason;
      throw new FetchError(deadline.aborted ? "timeout" : "unreachable");
    }
  };
}

/** A promise that settles no later than the signal: a look-up cannot be taken back, but nobody has to wait for it. */
type Guard = <Value>(work: Promise<Value>) => Promise<Value>;

function guarded(signal: AbortSignal): Guard {
  return (work) =>
    new Promise((resolve, reject) => {
      const end = () => reject(signal.reason);
      if (signal.aborted) end();
      signal.addEventListener("abort", end, { once: true });
      work.then(resolve, reject).finally(() => signal.removeEventListener("abort", end));
    });
}

function checkedUrl(text: string, base: URL | undefined, trustedOrigin: string | undefined): URL {
  const url = text.length <= LONGEST_URL && URL.canParse(text, base) ? new URL(text, base) : undefined;
  if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new FetchError("bad_url");
  }
  if (url.username !== "" || url.password !== "") throw new FetchError("credentials");
  if (url.origin !== trustedOrigin && !PORTS.has(url.port)) throw new FetchError("port");
  return url;
}

async function open(
  { resolve, connect }: SafeFetchPorts,
  url: URL,
  trustedOrigin: string | undefined,
  signal: AbortSignal,
  guard: Guard,
): Promise<Answer> {
  const addresses = await addressesOf(url, resolve, guard);
  if (url.origin !== trustedOrigin && !addresses.every(isPublicAddress)) {
    throw new FetchError("private_address");
  }
  let lastError: unknown = new FetchError("unknown_host");
  for (const address of addresses) {
    try {
      return await guard(connect({ address, url, signal }));
    } catch (error) {
      if (signal.aborted) throw error;
      lastError = error;
    }
  }
  throw lastError;
}

/** A host that is an address stands for itself: URL has written every form of it (decimal, octal, hexadecimal, short) in the usual one. */
async function addressesOf(
  url: URL,
  resolve: SafeFetchPorts["resolve"],
  guard: Guard,
): Promise<readonly string[]> {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  if (ipaddr.isValid(host)) return [host];
  const addresses = await guard(
    resolve(host).catch(() => {
      throw new FetchError("unknown_host");
    }),
  );
  if (addresses.length === 0) throw new FetchError("unknown_host");
  return addresses;
}

/** The prefix from which the public addresses of IPv6 are given out. */
const GLOBAL_UNICAST = ipaddr.IPv6.parse("2000::");
const GLOBAL_UNICAST_BITS = 3;

/**
 * Whether an address belongs to some host on the public internet. Not loopback, private, link-local, shared (CGNAT), multicast, documentation or
 * reserved ones, nor those that carry an IPv4 address inside (mapped, NAT64, 6to4, Teredo), whatever that is.
 */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.isValid(text)) return false;
  const address = ipaddr.parse(text);
  if (address.range() !== "unicast") return false;
  return address instanceof ipaddr.IPv4 || address.match(GLOBAL_UNICAST, GLOBAL_UNICAST_BITS);
}

/** Where a redirect leads; undefined for an answer with content. @throws FetchError for every other answer */
function redirectOf({ status, headers }: Answer): string | undefined {
  if (REDIRECTS.has(status)) {
    const location = headers.get("location");
    if (location === null) throw new FetchError("refused", status);
    return location;
  }
  if (status === 200) return undefined;
  if (status === 404 || status === 410) throw new FetchError("gone", status);
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    throw new FetchError("server_error", status);
  }
  throw new FetchError("refused", status);
}

async function readBody(
  { headers, body }: Answer,
  maxBytes: number,
  guard: Guard,
): Promise<Uint8Array<ArrayBuffer>> {
  const encoding = headers.get("content-encoding");
  // Unpacked it could be of any size.
  if (encoding !== null && encoding !== "identity") throw new FetchError("encoded");
  if (Number(headers.get("content-length") ?? 0) > maxBytes) throw new FetchError("too_large");
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const reader = body[Symbol.asyncIterator]();
  for (let part = await guard(reader.next()); !part.done; part = await guard(reader.next())) {
    size += part.value.byteLength;
    if (size > maxBytes) throw new FetchError("too_large");
    chunks.push(part.value);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
