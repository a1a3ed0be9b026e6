/** What a picture is, by its content; from a reference to a picture; and a CLIP server over HTTP, its faults included. */
import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { nodeConnection } from "../../supabase/functions/_shared/node-connection.ts";
import { createPictureLoader } from "../../supabase/functions/_shared/picture-loader.ts";
import {
  inspectPicture,
  LARGEST_PICTURE_BYTES,
  PictureError,
} from "../../supabase/functions/_shared/pictures.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";
import { createClipEmbedder } from "../../supabase/functions/_shared/providers/clip.ts";
import { type FakeClip, startFakeClip } from "../support/fake-clip.ts";
import { type FileServer, png, pngOfSize, startFileServer, webp } from "../support/pictures.ts";

const PHOTO = new URL("../../examples/product-photos/amulet6_fullshot.jpg", import.meta.url);

describe("inspectPicture", () => {
  test("tells type and size by the content", async () => {
    expect(await inspectPicture(png(1, 30, 20))).toMatchObject({ type: "image/png", width: 30, height: 20 });
    expect(await inspectPicture(webp(320, 200))).toMatchObject({
      type: "image/webp",
      width: 320,
      height: 200,
    });
    expect(await inspectPicture(new Uint8Array(await readFile(PHOTO)))).toMatchObject({
      type: "image/jpeg",
      width: expect.any(Number),
      hash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
  });

  const text = (content: string) => new Uint8Array(Buffer.from(content));
  test.each([
    ["a text", text("<html>404</html>"), "type"],
    ["nothing", text(""), "type"],
    ["a GIF", text("GIF89a\x01\x00\x01\x00"), "type"],
    ["an SVG, which may hold a script", text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "type"],
    ["a RIFF that is a sound", text("RIFF\x24\x00\x00\x00WAVEfmt "), "type"],
    ["the beginning of a PNG", png(1).slice(0, 12), "unreadable"],
    ["the beginning of a JPEG", new Uint8Array([0xff, 0xd8, 0xff, 0xe0]), "unreadable"],
    ["a PNG of no pixels", pngOfSize(0, 10), "unreadable"],
    ["a PNG of 60,000 by 60,000 pixels in 100 bytes", pngOfSize(60_000, 60_000), "pixels"],
    ["a PNG of 4 billion pixels in a row", pngOfSize(4_294_967_295, 1), "pixels"],
    ["a large file", new Uint8Array(LARGEST_PICTURE_BYTES + 1), "bytes"],
  ])("refuses %s", async (_, bytes, fault) => {
    const error = await inspectPicture(bytes).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(PictureError);
    expect(error).toMatchObject({ fault });
  });
});

describe("a reference", () => {
  let files: FileServer;
  beforeAll(async () => {
    files = await startFileServer({
      "/images/a.png": png(1),
      "/images/%D0%BA%D1%80%D1%83%D0%B6%D0%BA%D0%B0%20%231%3F.png": png(2),
      "/images/sub/b.png": png(3),
      "/images/page.png": Buffer.from("<html>no such file</html>"),
    });
  });
  afterAll(() => files.close());
  const loader = (baseUrl?: string) => createPictureLoader(nodeConnection, { baseUrl });

  test("is a URL, or a file's name under the operator's own address", async () => {
    const load = loader(`${files.origin}/images`);
    for (const reference of [
      `${files.origin}/images/a.png`,
      "a.png",
      "кружка #1?.png",
      "sub/b.png",
      ` a.png `,
    ]) {
      expect(await load(reference)).toMatchObject({ type: "image/png" });
    }
    // Whatever a name looks like, it stays a path under that address.
    files.hits.length = 0;
    for (const reference of ["//evil.example/a.png", "\\\\evil.example/a.png", "@evil.example/a.png"]) {
      expect(await load(reference)).toMatchObject({ next: "fail" });
    }
    expect(files.hits).toHaveLength(3);
  });

  test.each([
    ["missing.png", "picture: its host answers that it is not there (404)"],
    ["page.png", "picture: it is not a JPEG, PNG or WebP picture"],
    ["http://127.0.0.1/a.png", "picture: its host is not on the public internet"],
    ["file:///etc/passwd", "picture: its URL is not an absolute http(s) URL"],
  ])("%s fails with its reason", async (reference, reason) => {
    expect(await loader(`${files.origin}/images/`)(reference)).toEqual({ reason, next: "fail" });
  });

  test("a name without an address to stand under fails with what to set", async () => {
    expect(await loader()("a.png")).toEqual({
      reason: "picture: it is a file's name, and IMAGE_FILES_URL is not set",
      next: "fail",
    });
  });
});

describe("the provider clip", () => {
  const space: Space = {
    id: "clip/clip-ViT-B-32@512",
    provider: "clip",
    model: "clip-ViT-B-32",
    dimensions: 512,
    query_prefix: "",
    document_prefix: "",
    max_input_tokens: 77,
    image_tokens: 50,
  };
  const PICTURES = 20;
  let clip: FakeClip;
  let files: FileServer;
  beforeAll(async () => {
    clip = await startFakeClip({ apiKey: "a-key" });
    files = await startFileServer(
      Object.fromEntries(Array.from({ length: PICTURES }, (_, n) => [`/${n}.png`, png(n)])),
    );
  });
  afterAll(() => Promise.all([clip.close(), files.close()]));

  const embedder = (options: Partial<Parameters<typeof createClipEmbedder>[0]> = {}): Embedder =>
    createClipEmbedder({
      space,
      baseURL: clip.url,
      apiKey: "a-key",
      load: createPictureLoader(nodeConnection, { baseUrl: files.origin }),
      ...options,
    });
  const documents = { purpose: "document" } as const;
  const names = (count: number) => Array.from({ length: count }, (_, n) => `${n}.png`);
  const fault = (work: Promise<unknown>) =>
    work.then(
      () => "no error",
      (error: unknown) => (error instanceof ProviderError ? error.fault : Promise.reject(error)),
    );
  const near = (a: readonly number[] | null | undefined, b: readonly number[]) =>
    a?.every((value, axis) => Math.abs(value - (b[axis] ?? Number.NaN)) < 1e-6);

  test("embeds pictures by reference in groups, and texts in the same space", async () => {
    const before = clip.log.length;
    const { vectors, usage, failures } = await embedder().embed(names(PICTURES), documents);
    expect(failures?.size).toBe(0);
    expect(vectors.every((vector, n) => near(vector, clip.vectorOf(png(n))))).toBe(true);
    expect(usage.tokens).toBe(PICTURES * 50);
    expect(clip.log.slice(before).map(({ modality, hashes }) => [modality, hashes.length])).toEqual([
      ["image", 16],
      ["image", 4],
    ]);

    const text = await embedder().embed(["a red mug"], { purpose: "query" });
    expect(near(text.vectors[0], clip.vectorOf("a red mug"))).toBe(true);
    const picture = await inspectPicture(png(7));
    const query = await embedder().embed([picture], { purpose: "query" });
    expect(near(query.vectors[0], clip.vectorOf(png(7)))).toBe(true);
  });

  test("what is wrong with one picture is its own failure", async () => {
    files.files.set("/page.png", Buffer.from("<html>"));
    clip.stumbleAt(png(101), 400);
    clip.stumbleAt(png(102), 500);
    for (const bad of [101, 102]) files.files.set(`/${bad}.png`, png(bad));
    const inputs = ["0.png", "gone.png", "101.png", "1.png", "page.png", "102.png", "2.png"];
    const { vectors, failures } = await embedder().embed(inputs, documents);
    expect(vectors.map((vector) => vector !== null)).toEqual([true, false, false, true, false, false, true]);
    expect(near(vectors[6], clip.vectorOf(png(2)))).toBe(true);
    expect(Object.fromEntries(failures ?? [])).toEqual({
      1: { reason: "picture: its host answers that it is not there (404)", next: "fail" },
      2: { reason: "picture: the model does not take it", next: "fail" },
      4: { reason: "picture: it is not a JPEG, PNG or WebP picture", next: "fail" },
      5: { reason: "clip/clip-ViT-B-32@512: the provider answered 500", next: "retry" },
    });
  });

  test("a server that fails at everything is the server's fault, after a bounded number of requests", async () => {
    const before = clip.log.length;
    clip.failNext(...Array.from({ length: 31 }, () => ({ status: 500 })));
    expect(await fault(embedder().embed(names(16), documents))).toBe("server_error");
    expect(clip.log.length - before).toBe(31);
    clip.failNext({ status: 503 });
    expect(await fault(embedder().embed(names(16), documents))).toBe("server_error");
    expect(clip.log.length - before).toBe(32);
  });

  test("what was embedded before the server failed is kept, and the rest comes again", async () => {
    const answers = [{ status: 429, headers: { "retry-after": "3" } }];
    const load = createPictureLoader(nodeConnection, { baseUrl: files.origin });
    const failing = embedder({
      // The refusal is put in place between the first group and the second.
      load: async (reference, signal) => {
        if (reference === "16.png") clip.failNext(...answers);
        return load(reference, signal);
      },
    });
    const { vectors, failures } = await failing.embed(names(PICTURES), documents);
    expect(vectors.filter((vector) => vector !== null)).toHaveLength(16);
    expect([...(failures ?? [])].map(([position, { next }]) => [position, next])).toEqual(
      [16, 17, 18, 19].map((position) => [position, "release"]),
    );
    clip.failNext(...answers);
    expect(await fault(embedder().embed(names(4), documents))).toBe("rate_limited");
  });

  test("a wrong key and a model that is not served pause the space, and are no picture's failure", async () => {
    expect(await fault(embedder({ apiKey: "another" }).embed(["0.png"], documents))).toBe("account_refused");
    const other = embedder({ space: { ...space, model: "clip-ViT-L-14" } });
    expect(await fault(other.embed(names(3), documents))).toBe("account_refused");
  });

  test("what the time does not reach is given back", async () => {
    const { failures } = await embedder({ budgetMs: 0 }).embed(names(2), documents);
    expect([...(failures?.values() ?? [])].map(({ next }) => next)).toEqual(["release", "release"]);
  });

  test("a caller that gives up while pictures are loaded is told so", async () => {
    files.files.set("/silent.png", () => {});
    const caller = new AbortController();
    const work = fault(embedder().embed(["silent.png"], { ...documents, signal: caller.signal }));
    caller.abort();
    expect(await work).toBe("aborted");
  });
});
