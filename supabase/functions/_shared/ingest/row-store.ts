/** The rows of course_content behind the service's database functions: one call to read a page, one that writes it whole. */
import { z } from "zod";
import type { Rpc } from "../rpc.ts";
import type { RowStore } from "./page-sections.ts";

const text = z.string().nullable();
const rows = z.array(
  z.object({
    id: z.string(),
    title: text,
    content: text,
    url: text,
    content_type: text,
    part_id: text,
    module_id: text,
    parent_id: text,
  }),
);

/** The store that ingest writes to, over any way of calling the database's functions. */
export function createRowStore(rpc: Rpc): RowStore {
  return {
    async list(page) {
      return rows.parse(await rpc("reembed_course_page", { page }));
    },
    async apply({ inserts, updates, deletes }) {
      await rpc("reembed_apply_course_page", { upserts: [...inserts, ...updates], deletes });
    },
  };
}
