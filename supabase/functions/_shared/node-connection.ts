/**
 * Name look-up and connections to a chosen address, with the modules of Node that Deno has too: the Web's `fetch` connects to whatever a name
 * answers at that moment. The one file of this folder that needs more than the Web's interfaces.
 */
import { lookup } from "node:dns/promises";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Answer, Connection, SafeFetchPorts } from "./safe-fetch.ts";

/** The ports of createSafeFetch in Node and in Deno. */
export const nodeConnection: SafeFetchPorts = {
  async resolve(host) {
    const found = await lookup(host, { all: true, verbatim: true });
    return found.map(({ address }) => address);
  },
  connect,
};

function connect({ address, url, signal }: Connection): Promise<Answer> {
  const isSecure = url.protocol === "https:";
  const send = isSecure ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const request = send(
      {
        host: address,
        port: url.port || (isSecure ? 443 : 80),
        path: `${url.pathname}${url.search}`,
        // The certificate must be the name's, not the address's.
        ...(isSecure && { servername: url.hostname.replace(/^\[(.*)\]$/, "$1") }),
        headers: {
          host: url.host,
          accept: "image/jpeg, image/png, image/webp",
          "accept-encoding": "identity",
          "user-agent": "reembed",
        },
        agent: false,
        signal,
      },
      (response) => resolve(answerOf(response)),
    );
    request.on("error", reject);
    request.end();
  });
}

function answerOf(response: IncomingMessage): Answer {
  const headers = new Headers();
  for (const [name, value] of Object.entries(response.headers)) {
    if (value !== undefined) headers.set(name, String(value));
  }
  return {
    status: response.statusCode ?? 0,
    headers,
    body: response,
    // What happens to it from here on is nobody's matter any more.
    close: () => response.on("error", () => {}).destroy(),
  };
}
