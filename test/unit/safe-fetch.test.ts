/** Nothing private is reached, whatever a URL, a name server or a redirect says; and what is reached is bounded. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { nodeConnection } from "../../supabase/functions/_shared/node-connection.ts";
import {
  type Connection,
  createSafeFetch,
  FetchError,
  isPublicAddress,
  type SafeFetchOptions,
  type SafeFetchPorts,
} from "../../supabase/functions/_shared/safe-fetch.ts";
import { type FileServer, startFileServer } from "../support/pictures.ts";

/** An address of the public internet: where the tests' connections to it go is the tests' own server. */
const PUBLIC = "93.184.215.14";
const KB = 1024;

let web: FileServer;
let honeypot: FileServer;
const connections: Connection[] = [];

beforeAll(async () => {
  web = await startFileServer({ "/a.jpg": Buffer.from("a picture") });
  // What must never be reached: it stands where every private address of the table leads.
  honeypot = await startFileServer({
    "/": Buffer.from("a secret"),
    "/latest/meta-data": Buffer.from("keys"),
  });
});
afterAll(() => Promise.all([web.close(), honeypot.close()]));
afterEach(() => {
  connections.length = 0;
  web.hits.length = 0;
});

/** A real connection, over the internet as the tests have it: PUBLIC is the server `web`, every other address the honeypot. */
const connect: SafeFetchPorts["connect"] = (connection) => {
  connections.push(connection);
  const url = new URL(connection.url);
  url.port = String(connection.address === PUBLIC ? web.port : honeypot.port);
  return nodeConnection.connect({ ...connection, address: "127.0.0.1", url });
};

/** A name server that knows these names. Where a name has several answers it gives one after the other, and the last for ever. */
function names(known: Readonly<Record<string, string | readonly (readonly string[])[]>>) {
  const asked = new Map<string, number>();
  const resolve: SafeFetchPorts["resolve"] = async (host) => {
    const answers = known[host];
    if (answers === undefined) throw new Error("ENOTFOUND");
    if (typeof answers === "string") return [answers];
    const turn = asked.get(host) ?? 0;
    asked.set(host, turn + 1);
    return answers[Math.min(turn, answers.length - 1)] ?? [];
  };
  return resolve;
}

const fetchWith = (resolve: SafeFetchPorts["resolve"], options: Partial<SafeFetchOptions> = {}) =>
  createSafeFetch({ resolve, connect }, { maxBytes: 64 * KB, ...options });

const faultOf = (work: Promise<unknown>) =>
  work.then(
    () => "fetched",
    (error: unknown) => (error instanceof FetchError ? error.fault : Promise.reject(error)),
  );

const everywhere = names({
  "photos.example": PUBLIC,
  "photos.example.": PUBLIC,
  localhost: "127.0.0.1",
  "localhost.": "127.0.0.1",
  "inside.example": "10.1.2.3",
  "metadata.google.internal": "169.254.169.254",
  "both.example": [[PUBLIC, "10.0.0.1"]],
  "six.example": "::1",
  "mapped.example": "::ffff:10.0.0.1",
  "nat64.example": "64:ff9b::a00:1",
  "nowhere.example": [[]],
  [new URL("http://lócalhost.example").hostname]: "127.0.0.1",
});

describe("hostile URLs", () => {
  test.each([
    // Schemes.
    ["file:///etc/passwd", "bad_url"],
    ["data:image/png;base64,AAAA", "bad_url"],
    ["gopher://photos.example/_GET", "bad_url"],
    ["ftp://photos.example/a.jpg", "bad_url"],
    ["javascript:alert(1)", "bad_url"],
    ["blob:http://photos.example/1", "bad_url"],
    ["//photos.example/a.jpg", "bad_url"],
    ["/a.jpg", "bad_url"],
    ["http://", "bad_url"],
    ["http://[::1", "bad_url"],
    ["http://a b/", "bad_url"],
    [`http://photos.example/${"a".repeat(5_000)}`, "bad_url"],
    // Credentials and ports.
    ["http://user:pass@photos.example/", "credentials"],
    ["http://photos.example@127.0.0.1/", "credentials"],
    ["http://:@127.0.0.1/", "private_address"],
    ["http://photos.example:22/", "port"],
    ["http://photos.example:6379/", "port"],
    ["https://photos.example:8443/", "port"],
    // IPv4 in all its forms.
    ["http://127.0.0.1/", "private_address"],
    ["http://127.1/", "private_address"],
    ["http://2130706433/", "private_address"],
    ["http://0x7f000001/", "private_address"],
    ["http://0x7f.1/", "private_address"],
    ["http://0177.0.0.1/", "private_address"],
    ["http://017700000001/", "private_address"],
    ["http://127.0.0.1./", "private_address"],
    ["http://①②⑦.0.0.1/", "private_address"],
    ["http://0/", "private_address"],
    ["http://0.0.0.0/", "private_address"],
    ["http://10.0.0.1/", "private_address"],
    ["http://172.16.0.1/", "private_address"],
    ["http://172.31.255.254/", "private_address"],
    ["http://192.168.1.1/", "private_address"],
    ["http://100.64.0.1/", "private_address"],
    ["http://100.127.255.254/", "private_address"],
    ["http://169.254.169.254/latest/meta-data", "private_address"],
    ["http://192.0.0.1/", "private_address"],
    ["http://192.0.2.1/", "private_address"],
    ["http://198.18.0.1/", "private_address"],
    ["http://198.51.100.1/", "private_address"],
    ["http://203.0.113.1/", "private_address"],
    ["http://224.0.0.1/", "private_address"],
    ["http://240.0.0.1/", "private_address"],
    ["http://255.255.255.255/", "private_address"],
    // IPv6 in all its forms.
    ["http://[::]/", "private_address"],
    ["http://[::1]/", "private_address"],
    ["http://[0:0:0:0:0:0:0:1]/", "private_address"],
    ["http://[::ffff:127.0.0.1]/", "private_address"],
    ["http://[::ffff:7f00:1]/", "private_address"],
    [`http://[::ffff:${PUBLIC}]/`, "private_address"],
    ["http://[::127.0.0.1]/", "private_address"],
    ["http://[64:ff9b::7f00:1]/", "private_address"],
    ["http://[64:ff9b:1::7f00:1]/", "private_address"],
    ["http://[2002:7f00:1::]/", "private_address"],
    ["http://[2001:0:7f00:1::]/", "private_address"],
    ["http://[fe80::1]/", "private_address"],
    ["http://[fec0::1]/", "private_address"],
    ["http://[fc00::1]/", "private_address"],
    ["http://[fd12:3456::1]/", "private_address"],
    ["http://[ff02::1]/", "private_address"],
    ["http://[2001:db8::1]/", "private_address"],
    ["http://[4000::1]/", "private_address"],
    // Names.
    ["http://localhost/", "private_address"],
    ["http://LOCALHOST/", "private_address"],
    ["http://localhost./", "private_address"],
    ["http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "private_address"],
    ["http://lócalhost.example/", "private_address"],
    ["http://inside.example/", "private_address"],
    ["http://metadata.google.internal/", "private_address"],
    ["http://both.example/", "private_address"],
    ["http://six.example/", "private_address"],
    ["http://mapped.example/", "private_address"],
    ["http://nat64.example/", "private_address"],
    ["http://nowhere.example/", "unknown_host"],
    ["http://unheard-of.example/", "unknown_host"],
  ])("%s: %s, and nothing is connected to", async (url, fault) => {
    expect(await faultOf(fetchWith(everywhere)(url))).toBe(fault);
    expect(connections).toEqual([]);
    expect(honeypot.hits).toEqual([]);
  });

  test.each([
    ["http://127.0.0.1/latest/meta-data", "private_address"],
    ["http://localhost/", "private_address"],
    ["http://[::1]/", "private_address"],
    ["http://2130706433/", "private_address"],
    ["//inside.example/", "private_address"],
    ["http://user@photos.example/a.jpg", "credentials"],
    ["http://photos.example:8080/", "port"],
    ["file:///etc/passwd", "bad_url"],
    ["http://[", "bad_url"],
  ])("a redirect to %s: %s, and the answer is the last thing that is reached", async (location, fault) => {
    web.files.set("/away", (_, response) => response.writeHead(302, { location }).end());
    expect(await faultOf(fetchWith(everywhere)("http://photos.example/away"))).toBe(fault);
    expect(web.hits).toEqual(["/away"]);
    expect(honeypot.hits).toEqual([]);
  });

  test("a name that answers otherwise a moment later is connected to where it was checked", async () => {
    const rebinding = names({ "rebind.example": [[PUBLIC], ["127.0.0.1"]] });
    const fetched = await fetchWith(rebinding)("http://rebind.example/a.jpg");
    expect(new TextDecoder().decode(fetched)).toBe("a picture");
    expect(connections.map(({ address }) => address)).toEqual([PUBLIC]);

    // Each redirect asks and checks again.
    const later = names({ "rebind-2.example": [[PUBLIC], ["127.0.0.1"]] });
    web.files.set("/self", (_, response) =>
      response.writeHead(307, { location: "http://rebind-2.example/" }).end(),
    );
    expect(await faultOf(fetchWith(later)("http://rebind-2.example/self"))).toBe("private_address");
    expect(honeypot.hits).toEqual([]);
  });
});

describe("what is public", () => {
  test.each([PUBLIC, "8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])(
    "%s is",
    (address) => expect(isPublicAddress(address)).toBe(true),
  );
  test.each(["fe80::1%eth0", "", "example.org", "1.2.3.4.5"])("%s is no public address", (address) =>
    expect(isPublicAddress(address)).toBe(false),
  );
});

describe("the operator's own server", () => {
  test("is reached at its private address and port, and nothing else there is", async () => {
    const files = await startFileServer({ "/x.png": Buffer.from("ours") });
    const trusted = createSafeFetch(nodeConnection, { maxBytes: KB, trustedOrigin: files.origin });
    expect(new TextDecoder().decode(await trusted(`${files.origin}/x.png`))).toBe("ours");
    expect(await faultOf(trusted(honeypot.origin))).toBe("port");
    expect(await faultOf(trusted("http://127.0.0.1/"))).toBe("private_address");
    expect(await faultOf(trusted(files.origin.replace("127.0.0.1", "localhost")))).toBe("port");
    files.files.set("/away", (_, response) =>
      response.writeHead(302, { location: `${honeypot.origin}/` }).end(),
    );
    expect(await faultOf(trusted(`${files.origin}/away`))).toBe("port");
    await files.close();
    expect(honeypot.hits).toEqual([]);
  });
});

describe("bounds", () => {
  const get = (path: string, options: Partial<SafeFetchOptions> = {}) =>
    faultOf(fetchWith(everywhere, options)(`http://photos.example${path}`));

  test.each([
    [404, "gone", false],
    [410, "gone", false],
    [401, "refused", false],
    [403, "refused", false],
    [204, "refused", false],
    [304, "refused", false],
    [429, "server_error", true],
    [503, "server_error", true],
  ])("an answer of %i is %s", async (status, fault, again) => {
    web.files.set("/status", (_, response) => response.writeHead(status).end());
    const error = await fetchWith(everywhere)("http://photos.example/status").catch((error) => error);
    expect(error).toMatchObject({ fault, again, status });
    expect(error.message).not.toContain("photos.example");
  });

  test("a body that is too large is given up, whether it says so or not", async () => {
    let sent = 0;
    web.files.set("/said", (_, response) => response.writeHead(200, { "content-length": "999999" }).end());
    expect(await get("/said", { maxBytes: KB })).toBe("too_large");
    const ended = new Promise<void>((resolve) => {
      web.files.set("/endless", (_, response) => {
        response.on("close", resolve);
        response.writeHead(200);
        const more = () => {
          sent += 16 * KB;
          response.write(Buffer.alloc(16 * KB), (error) => error ?? setImmediate(more));
        };
        more();
      });
    });
    expect(await get("/endless", { maxBytes: 256 * KB })).toBe("too_large");
    await ended;
    expect(sent).toBeLessThan(64 * 1024 * KB);
  });

  test("a compressed answer is not unpacked", async () => {
    web.files.set("/packed", (_, response) =>
      response.writeHead(200, { "content-encoding": "gzip" }).end("x"),
    );
    expect(await get("/packed")).toBe("encoded");
  });

  test("redirects end after three", async () => {
    web.files.set("/round", (_, response) => response.writeHead(302, { location: "/round" }).end());
    expect(await get("/round")).toBe("redirects");
    expect(web.hits).toHaveLength(4);
    web.files.set("/to", (_, response) => response.writeHead(301, { location: "a.jpg" }).end());
    expect(await get("/to")).toBe("fetched");
  });

  test("time is over for a server that answers nothing, and for one that never ends", async () => {
    web.files.set("/silent", () => {});
    expect(await get("/silent", { timeoutMs: 50 })).toBe("timeout");
    web.files.set("/slow", (_, response) => response.writeHead(200).write("x"));
    expect(await get("/slow", { timeoutMs: 50 })).toBe("timeout");
    const silent = createSafeFetch(
      { resolve: () => new Promise(() => {}), connect },
      { maxBytes: KB, timeoutMs: 50 },
    );
    expect(await faultOf(silent("http://photos.example/"))).toBe("timeout");
  });

  test("the caller's own end is thrown as it is", async () => {
    web.files.set("/silent", () => {});
    const caller = new AbortController();
    const fetching = fetchWith(everywhere)("http://photos.example/silent", caller.signal);
    const reason = new Error("shutting down");
    caller.abort(reason);
    await expect(fetching).rejects.toBe(reason);
  });

  test("a server that breaks off, and one where nobody listens, are worth another try", async () => {
    web.files.set("/cut", (_, response) => {
      response.writeHead(200, { "content-length": "100" });
      response.write("half", () => response.destroy());
    });
    expect(await get("/cut")).toBe("unreachable");
    const refusing = createSafeFetch(
      { resolve: everywhere, connect: () => Promise.reject(new Error("ECONNREFUSED")) },
      { maxBytes: KB },
    );
    expect(await faultOf(refusing("http://photos.example/"))).toBe("unreachable");
  });

  test("of several addresses the next is tried where one does not answer", async () => {
    const several = names({ "many.example": [["8.8.8.8", PUBLIC]] });
    const picky: SafeFetchPorts["connect"] = (connection) =>
      connection.address === "8.8.8.8" ? Promise.reject(new Error("EHOSTUNREACH")) : connect(connection);
    const fetched = createSafeFetch({ resolve: several, connect: picky }, { maxBytes: KB });
    expect(new TextDecoder().decode(await fetched("http://many.example/a.jpg"))).toBe("a picture");
  });
});
