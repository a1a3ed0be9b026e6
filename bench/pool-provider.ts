/**
 * A provider of embeddings that costs nothing to ask, as a process of its own: answers `POST /v1/embeddings` from vectors made before, after a
 * latency, without any limit. Arguments: dimensions, milliseconds of latency. Prints its base URL once it listens.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

const POOL = 64;
const [dimensions = 1536, latencyMs = 150] = process.argv.slice(2).map(Number);

/** Base64 of little-endian float32, as the service sends vectors; each another direction. */
const pool = Array.from({ length: POOL }, (_, at) => {
  const bytes = Buffer.alloc(dimensions * 4);
  for (let axis = 0; axis < dimensions; axis += 1)
    bytes.writeFloatLE(Math.sin((at + 1) * (axis + 1)) / Math.sqrt(dimensions / 2), axis * 4);
  return bytes.toString("base64");
});
/** The elements of an answer, ready to be joined. */
const elementOf = (index: number): string =>
  `{"object":"embedding","index":${index},"embedding":"${pool[index % POOL]}"}`;
const elements: string[] = [];

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const { input } = JSON.parse(Buffer.concat(chunks).toString("utf8")) as { input: string[] };
  await delay(latencyMs);
  for (let index = elements.length; index < input.length; index += 1) elements.push(elementOf(index));
  const tokens = input.reduce((sum, text) => sum + Math.ceil(text.length / 4), 0);
  response.writeHead(200, { "content-type": "application/json" });
  response.end(
    `{"object":"list","data":[${elements.slice(0, input.length).join(",")}],"usage":{"prompt_tokens":${tokens},"total_tokens":${tokens}}}`,
  );
});
server.listen(0, "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`);
});
