/**
 * Pictures as bytes: what they are is told by their content, never by a name or a header, and how large they would be once decoded by their own
 * headers. Nothing is decoded here.
 */
import { imageSize } from "image-size";
import { sha256OfBytes } from "./digest.ts";

const PICTURE_TYPES = ["image/jpeg", "image/png", "image/webp"] as const;
export type PictureType = (typeof PICTURE_TYPES)[number];

/** A file of this size holds a photo of any camera at good quality. */
export const LARGEST_PICTURE_BYTES = 10 * 1024 * 1024;

/** A small file may stand for any number of pixels, and whoever decodes it needs memory for all of them. */
const MOST_PIXELS = 50_000_000;

/** A picture that was looked at. */
export interface Picture {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly type: PictureType;
  readonly width: number;
  readonly height: number;
  /** SHA-256 of the bytes, in hexadecimal. */
  readonly hash: string;
}

/** Why bytes are no picture that is taken: none of the types, larger than a file or a decoded picture may be, or without readable dimensions. */
export type PictureFault = "type" | "bytes" | "pixels" | "unreadable";

export class PictureError extends Error {
  override readonly name = "PictureError";
  readonly fault: PictureFault;

  constructor(fault: PictureFault) {
    super(PICTURE_FAULTS[fault]);
    this.fault = fault;
  }
}

/** In words that go with any picture of the kind. */
const PICTURE_FAULTS: Readonly<Record<PictureFault, string>> = {
  type: "it is not a JPEG, PNG or WebP picture",
  bytes: `it is larger than ${LARGEST_PICTURE_BYTES / 1024 / 1024} MB`,
  pixels: `it has more than ${MOST_PIXELS / 1_000_000} million pixels`,
  unreadable: "its dimensions cannot be read: the file is damaged",
};

/**
 * Looks at a file's content.
 * @throws PictureError
 */
export async function inspectPicture(bytes: Uint8Array<ArrayBuffer>): Promise<Picture> {
  if (bytes.length > LARGEST_PICTURE_BYTES) throw new PictureError("bytes");
  const type = typeOf(bytes);
  if (type === undefined) throw new PictureError("type");
  const { width, height } = dimensionsOf(bytes);
  if (width * height > MOST_PIXELS) throw new PictureError("pixels");
  return { bytes, type, width, height, hash: await sha256OfBytes(bytes) };
}

/** By the signatures of the formats: JPEG's start of image, PNG's eight bytes, a RIFF of the form WEBP. */
function typeOf(bytes: Uint8Array): PictureType | undefined {
  const startsWith = (signature: readonly number[], at = 0) =>
    signature.every((byte, index) => bytes[at + index] === byte);
  if (startsWith([0xff, 0xd8, 0xff])) return "image/jpeg";
  if (startsWith([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])) return "image/png";
  if (startsWith([0x52, 0x49, 0x46, 0x46]) && startsWith([0x57, 0x45, 0x42, 0x50], 8)) return "image/webp";
  return undefined;
}

function dimensionsOf(bytes: Uint8Array): { width: number; height: number } {
  try {
    const { width, height } = imageSize(bytes);
    if (width > 0 && height > 0) return { width, height };
  } catch {
    // Whatever the reader stumbles over: a damaged file.
  }
  throw new PictureError("unreadable");
}

/** As an API takes a picture inline. */
export function dataUri({ type, bytes }: Picture): string {
  return `data:${type};base64,${btoa(asLatin1(bytes))}`;
}

/** A function takes only so many arguments at once. */
const MOST_ARGUMENTS = 32_768;

function asLatin1(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += MOST_ARGUMENTS) {
    text += String.fromCharCode(...bytes.subarray(at, at + MOST_ARGUMENTS));
  }
  return text;
}
