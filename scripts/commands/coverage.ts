/** `reembed coverage`: what of a shop can be found by a photo, and why the rest cannot. */
import type { Command } from "commander";
import { z } from "zod";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, percent, table } from "../lib/output.ts";
import { requireShop } from "../lib/shop.ts";

const coverage = z.object({
  products: z.number(),
  products_without_image: z.number(),
  images: z.number(),
  versions: z.array(
    z.object({
      version: z.number(),
      space: z.string(),
      active: z.boolean(),
      embedded: z.number(),
      skipped: z.number(),
      failed: z.number(),
      waiting: z.number(),
      products_embedded: z.number(),
      reasons: z.array(z.object({ reason: z.string(), images: z.number() })),
    }),
  ),
});

const HEADINGS = ["version", "space", "images", "waiting", "failed", "skipped", "products", "of all"];

export function addCoverage(program: Command): void {
  withDatabaseOptions(program.command("coverage"))
    .description("Says how many images and products of the shop have a vector, and why others have none.")
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- coverage")
    .action(async (options: DatabaseOptions) => {
      const out = createOutput(options.json);
      const found = await withDatabase(options, async (db) => {
        await requireShop(db);
        const [row] = await db.query<{ coverage: unknown }>("select reembed.image_coverage() as coverage");
        return coverage.parse(row?.coverage);
      });
      out.say(
        `${found.products} products, ${found.products_without_image} of them without an image; ${found.images} images`,
      );
      for (const line of table(
        HEADINGS,
        found.versions.map((version) =>
          [
            `v${version.version}${version.active ? " active" : ""}`,
            version.space,
            version.embedded,
            version.waiting,
            version.failed,
            version.skipped,
            version.products_embedded,
            found.products === 0 ? "-" : percent(version.products_embedded / found.products),
          ].map(String),
        ),
      ))
        out.say(line);
      for (const { version, reasons } of found.versions) {
        for (const { reason, images } of reasons) out.say(`v${version}: ${images} failed: ${reason}`);
      }
      out.result(found);
    });
}
