/**
 * A fake CLIP server: a real HTTP server on loopback with the wire format and the error bodies of infinity's `POST /embeddings`, and faults on demand.
 * Its vectors are unit vectors drawn from the SHA-256 of what is embedded, unless they were taught.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import { Random } from "./random.ts";

const CLIP_MODEL = "clip-ViT-B-32";
const DIMENSIONS = 512;

const Body = z.object({
  model: z.string(),
  input: z.union([z.string(), z.array(z.string()).min(1).max(2048)]),
  modality: z.enum(["text", "image"]).default("text"),
  encoding_format: z.enum(["float", "base64"]).default("float"),
});

export interface ClipRequest {
  readonly modality: "text" | "image";
  /** Of each input the SHA-256 (hex): of a text's UTF-8, of a picture's bytes. */
  readonly hashes: readonly string[];
}

export interface FakeClip {
  readonly url: string;
  readonly apiKey: string | undefined;
  /** Every request that could be read, in the order of arrival. */
  readonly log: readonly ClipRequest[];
  /** From now on this vector stands for these bytes. */
  teach(content: Uint8Array | string, vector: readonly number[]): void;
  /** These bytes are answered so, whatever else is in the request: 400 is a damaged picture, 500 a bug of the server. */
  stumbleAt(content: Uint8Array, status: 400 | 500): void;
  /** The next requests are answered so. */
  failNext(
    ...answers: {
      readonly status: number;
      readonly headers?: Record<string, string>;
      readonly message?: string;
    }[]
  ): void;
  vectorOf(content: Uint8Array | string): readonly number[];
  close(): Promise<void>;
}

export async function startFakeClip(options: { readonly apiKey?: string } = {}): Promise<FakeClip> {
  const { apiKey } = options;
  const log: ClipRequest[] = [];
  const taught = new Map<string, readonly number[]>();
  const stumbling = new Map<string, 400 | 500>();
  const failing: { status: number; headers?: Record<string, string>; message?: string }[] = [];

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      if (request.destroyed) response.destroy();
      else response.writeHead(500).end(`fake-clip has a bug: ${error}`);
    });
  });

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await bodyOf(request);
    if (request.method !== "POST" || request.url !== "/embeddings")
      return send(response, 404, { detail: "Not Found" });
    if (apiKey !== undefined && request.headers.authorization !== `Bearer ${apiKey}`)
      return send(response, 401, { detail: "Unauthorized" });
    const parsed = Body.safeParse(JSON.parse(body));
    if (!parsed.success) return send(response, 422, { detail: parsed.error.issues });
    const { model, input, modality, encoding_format } = parsed.data;
    const contents = [input].flat().map((text) => (modality === "text" ? text : bytesOf(text)));
    if (contents.some((content) => content === undefined)) return send(response, 422, { detail: "input" });
    const hashes = contents.map((content) => hashOf(content ?? ""));
    log.push({ modality, hashes });
    const failure = failing.shift();
    if (failure !== undefined)
      return refuse(response, failure.status, failure.message ?? "told to fail", failure.headers);
    if (model !== CLIP_MODEL)
      return refuse(response, 400, `Invalid model: Engine for model name ${model} not found.`);
    const stumble = hashes.map((hash) => stumbling.get(hash)).find((status) => status !== undefined);
    if (stumble === 400) return refuse(response, 400, "imageCorruption, could not open ['bytes']");
    if (stumble === 500) return refuse(response, 500, "InternalServerError: index out of range");
    const tokens = contents.length * 50;
    send(response, 200, {
      object: "list",
      data: hashes.map((hash, index) => {
        const vector = taught.get(hash) ?? drawn(hash);
        return {
          object: "embedding",
          index,
          embedding:
            encoding_format === "base64"
              ? Buffer.from(new Float32Array(vector).buffer).toString("base64")
              : vector,
        };
      }),
      model,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
      id: "infinity-0",
      created: 1_700_000_000,
    });
  }

  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    apiKey,
    log,
    teach: (content, vector) => void taught.set(hashOf(content), unit(vector)),
    stumbleAt: (content, status) => void stumbling.set(hashOf(content), status),
    failNext: (...answers) => void failing.push(...answers),
    vectorOf: (content) => taught.get(hashOf(content)) ?? drawn(hashOf(content)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

const hashOf = (content: Uint8Array | string): string => createHash("sha256").update(content).digest("hex");

function drawn(hash: string): number[] {
  const random = new Random(Number.parseInt(hash.slice(0, 8), 16));
  return unit(Array.from({ length: DIMENSIONS }, () => random.next() - 0.5));
}

function unit(vector: readonly number[]): number[] {
  const norm = Math.hypot(...vector);
  return vector.map((value) => value / norm);
}

/** Of a data URI; undefined for anything else: nothing here sends a URL that the server would have to fetch. */
function bytesOf(uri: string): Uint8Array | undefined {
  const [, base64] = /^data:image\/(?:jpeg|png|webp);base64,([A-Za-z0-9+/]+=*)$/.exec(uri) ?? [];
  return base64 === undefined ? undefined : Buffer.from(base64, "base64");
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function refuse(
  response: ServerResponse,
  status: number,
  message: string,
  headers: Record<string, string> = {},
) {
  send(response, status, { error: { message, type: null, param: null, code: status } }, headers);
}

function send(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}) {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}
