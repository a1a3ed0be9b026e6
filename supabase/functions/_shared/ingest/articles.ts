/**
 * Articles into article_chunks: the text is cut here, and the database changes what has changed, in one transaction (reembed.apply_article). A chunk whose
 * text is still there keeps its row and its vectors wherever it stands now, so an edited article is bought in part.
 */
import { z } from "zod";
import { chunkText } from "../chunks.ts";
import { ReembedError } from "../errors.ts";
import { normalizePageUrl } from "../sections.ts";
import type { IngestKind } from "./kinds.ts";
import { requireSize } from "./size.ts";

const MOST_CHUNKS = 20_000;

const document = z.strictObject({
  url: z.string(),
  title: z.string().min(1).max(1_000),
  content: z.string(),
  published_at: z.iso.datetime({ offset: true }).nullable().optional(),
  /** The sizes of its chunks in tokens; the same each time, or all of them are new. */
  chunk_tokens: z.number().optional(),
  overlap_tokens: z.number().optional(),
});

const applied = z.object({
  article_id: z.union([z.number(), z.string()]),
  inserted: z.number(),
  updated: z.number(),
  deleted: z.number(),
  unchanged: z.number(),
});

export const articles: IngestKind<typeof document> = {
  collection: "article_chunks",
  files: "jsonl",
  document,
  async ingest(rpc, { url, title, content, published_at = null, chunk_tokens, overlap_tokens }) {
    // PostgreSQL's text holds no NUL.
    const text = content.replaceAll("\0", "");
    requireSize("content", text, "Split the article.");
    const chunks = chunkText(text, {
      ...(chunk_tokens === undefined ? {} : { chunkTokens: chunk_tokens }),
      ...(overlap_tokens === undefined ? {} : { overlapTokens: overlap_tokens }),
    });
    if (chunks.length === 0) {
      throw new ReembedError(
        "invalid_request",
        "content must have text; nothing was changed",
        "To remove an article, delete its row: its chunks go with it.",
      );
    }
    if (chunks.length > MOST_CHUNKS) {
      throw new ReembedError(
        "invalid_request",
        `content makes ${chunks.length} chunks: at most ${MOST_CHUNKS}`,
        "Split the article, or give larger chunk_tokens.",
      );
    }
    const counts = applied.parse(
      await rpc("reembed_apply_article", {
        url: normalizePageUrl(url),
        title: title.replaceAll("\0", ""),
        content: text,
        published_at,
        chunks: chunks.map((chunk) => chunk.text.toWellFormed()),
      }),
    );
    return { chunks: chunks.length, ...counts };
  },
};
