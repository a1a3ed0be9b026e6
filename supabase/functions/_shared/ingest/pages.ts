/** Rendered pages into course_content: see page-sections.ts. */
import { z } from "zod";
import type { IngestKind } from "./kinds.ts";
import { ingestPage } from "./page-sections.ts";
import { createRowStore } from "./row-store.ts";

const document = z.strictObject({ url: z.string(), html: z.string() });

export const pages: IngestKind<typeof document> = {
  collection: "course_content",
  files: "html",
  document,
  ingest: async (rpc, { url, html }) => ({
    ...(await ingestPage({ rows: createRowStore(rpc), url, html })),
  }),
};
