/** The shop's schema, for the commands that need it. */
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Database } from "./connection.ts";

/** @throws ReembedError `refused` where the database has no shop */
export async function requireShop(db: Database): Promise<void> {
  const [row] = await db.query<{ there: boolean }>(
    "select to_regprocedure('reembed.image_coverage()') is not null as there",
  );
  if (row?.there) return;
  throw new ReembedError(
    "refused",
    "this database has no products and product_images",
    "Apply the migration of the shop (supabase/migrations/*_products.sql).",
  );
}
