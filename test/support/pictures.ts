/** Small pictures made by hand, and a server of picture files with faults and a count of what reached it. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { crc32, deflateSync } from "node:zlib";

/** A PNG of one colour. Different numbers make different files. */
export function png(colour: number, width = 8, height = 8): Uint8Array<ArrayBuffer> {
  const row = Buffer.concat([Buffer.of(0), Buffer.alloc(width * 3, colour % 256)]);
  return new Uint8Array(
    Buffer.concat([
      Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
      chunk("IHDR", header(width, height)),
      chunk("tEXt", Buffer.from(`Comment\0${colour}`)),
      chunk("IDAT", deflateSync(Buffer.concat(Array.from({ length: Math.min(height, 64) }, () => row)))),
      chunk("IEND", Buffer.alloc(0)),
    ]),
  );
}

/** A PNG of a few bytes that says it has this many pixels: a decompression bomb's head. */
export function pngOfSize(width: number, height: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    Buffer.concat([
      Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
      chunk("IHDR", header(width, height)),
      chunk("IDAT", deflateSync(Buffer.alloc(16))),
      chunk("IEND", Buffer.alloc(0)),
    ]),
  );
}

/** A WebP (lossless) of this size, as far as its headers go. */
export function webp(width: number, height: number): Uint8Array<ArrayBuffer> {
  const bits = Buffer.alloc(5);
  bits[0] = 0x2f;
  bits.writeUInt32LE(((width - 1) | ((height - 1) << 14)) >>> 0, 1);
  const body = Buffer.concat([Buffer.from("WEBPVP8L"), uint32le(bits.length), bits, Buffer.alloc(11)]);
  return new Uint8Array(Buffer.concat([Buffer.from("RIFF"), uint32le(body.length), body]));
}

function header(width: number, height: number): Buffer {
  const data = Buffer.alloc(13);
  data.writeUInt32BE(width, 0);
  data.writeUInt32BE(height, 4);
  data.set([8, 2, 0, 0, 0], 8);
  return data;
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type), data]);
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}

function uint32le(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export type FileAnswer = Uint8Array | ((request: IncomingMessage, response: ServerResponse) => void);

export interface FileServer {
  readonly origin: string;
  readonly port: number;
  /** The paths that were asked for, in the order of arrival. */
  readonly hits: string[];
  /** What is answered under a path that begins with a slash; everything else is 404. */
  readonly files: Map<string, FileAnswer>;
  close(): Promise<void>;
}

/** Serves files on loopback. */
export async function startFileServer(files: Readonly<Record<string, FileAnswer>> = {}): Promise<FileServer> {
  const hits: string[] = [];
  const served = new Map(Object.entries(files));
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    hits.push(path);
    const file = served.get(path);
    if (file === undefined) response.writeHead(404).end();
    else if (typeof file === "function") file(request, response);
    else response.writeHead(200, { "content-type": "application/octet-stream" }).end(file);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    port,
    hits,
    files: served,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
