/** `reembed ingest-products`: a shop's products and their images from a file. Ingesting it again changes only what has changed. */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, table } from "../lib/output.ts";
import { parseProducts } from "../lib/products.ts";
import { requireShop } from "../lib/shop.ts";

/** Products in one transaction. */
const CHUNK = 500;

const counts = z.object({
  products: z.object({ inserted: z.number(), updated: z.number(), unchanged: z.number() }),
  images: z.object({ inserted: z.number(), updated: z.number(), deleted: z.number(), unchanged: z.number() }),
});

export function addIngestProducts(program: Command): void {
  withDatabaseOptions(program.command("ingest-products"))
    .description("Stores a shop's products and their images, where they are new or have changed.")
    .argument("<file>", "JSON lines, a product a line, or .csv, an image a line")
    .addHelpText(
      "after",
      `
A product has id, name, article, url, and images with column_number, image_url, image_filename; an image that a product's list lacks is deleted.

Example:
  npm run -s reembed -- ingest-products examples/product-photos/products.jsonl`,
    )
    .action(async (file: string, options: DatabaseOptions) => {
      const out = createOutput(options.json);
      const products = parseProducts(basename(file), await readText(file));
      const totals = await withDatabase(options, async (db) => {
        await requireShop(db);
        const sums = counts.parse({
          products: { inserted: 0, updated: 0, unchanged: 0 },
          images: { inserted: 0, updated: 0, deleted: 0, unchanged: 0 },
        });
        for (let at = 0; at < products.length; at += CHUNK) {
          const chunk = products.slice(at, at + CHUNK);
          // As text: over a connection an array would become PostgreSQL's own.
          const [row] = await db.query<{ counts: unknown }>("select reembed.ingest_products($1) as counts", [
            JSON.stringify(chunk),
          ]);
          add(sums, counts.parse(row?.counts));
        }
        return sums;
      });
      const { products: written, images } = totals;
      for (const line of table(
        ["", "inserted", "updated", "deleted", "unchanged"],
        [
          ["products", written.inserted, written.updated, "-", written.unchanged].map(String),
          ["images", images.inserted, images.updated, images.deleted, images.unchanged].map(String),
        ],
      ))
        out.say(line);
      out.result(totals);
    });
}

function add(sums: z.output<typeof counts>, more: z.output<typeof counts>): void {
  for (const kind of ["products", "images"] as const) {
    const sum: Record<string, number> = sums[kind];
    for (const [name, count] of Object.entries(more[kind])) sum[name] = (sum[name] ?? 0) + count;
  }
}

async function readText(file: string): Promise<string> {
  return readFile(file, "utf8").catch(() => {
    throw new ReembedError("invalid_request", `there is no file ${file} that can be read`, "Check the path.");
  });
}
