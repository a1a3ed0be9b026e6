/** `reembed ingest`: HTML pages to sections of course_content. Ingesting a page again changes only what has changed. */
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { type IngestResult, ingestPage } from "../../supabase/functions/_shared/ingest.ts";
import { createRowStore } from "../../supabase/functions/_shared/row-store.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, type Output, table } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly baseUrl: string;
}

interface Page {
  readonly file: string;
  readonly url: string;
}

type PageResult = Page & (IngestResult | { readonly error: { code: string; message: string; hint: string } });

const COUNTS = ["sections", "inserted", "updated", "deleted", "unchanged"] as const;

export function addIngest(program: Command): void {
  withDatabaseOptions(program.command("ingest"))
    .description("Takes HTML pages apart into sections and stores what is new or has changed.")
    .argument("<folder or page...>", "folders (their *.html) and single pages")
    .requiredOption("--base-url <url>", "a page's url is this and its file name", baseUrl)
    .addHelpText(
      "after",
      "\nExample:\n  npm run -s reembed -- ingest examples/git-course --base-url https://swcarpentry.github.io/git-novice/",
    )
    .action(ingest);
}

async function ingest(paths: readonly string[], options: Options): Promise<void> {
  const out = createOutput(options.json);
  const pages = await findPages(paths, options.baseUrl);
  const results = await withDatabase(options, async (db) => {
    await requireCourse(db);
    const rows = createRowStore(db.rpc);
    const results: PageResult[] = [];
    for (const page of pages) {
      try {
        const html = await readFile(page.file, "utf8");
        results.push({ ...page, ...(await ingestPage({ rows, url: page.url, html })) });
      } catch (error) {
        // A page that cannot be taken stops no other; a database that fails stops them all.
        if (!(error instanceof ReembedError) || error.status >= 500) throw error;
        const { code, message, hint } = error;
        results.push({ ...page, error: { code, message, hint } });
      }
    }
    return results;
  });
  print(results, out);
}

/** The pages of files and folders, each with its url. @throws ReembedError `invalid_request` naming the path */
async function findPages(paths: readonly string[], base: string): Promise<Page[]> {
  const pages = new Map<string, Page>();
  for (const path of paths) {
    for (const file of await filesOf(path)) {
      const url = new URL(encodeURIComponent(basename(file)), base).href;
      const other = pages.get(url);
      if (other !== undefined && other.file !== file) {
        throw invalid(
          `${other.file} and ${file} would both become ${url}`,
          "Ingest them with a base URL of their own each.",
        );
      }
      pages.set(url, { file, url });
    }
  }
  return [...pages.values()];
}

async function filesOf(path: string): Promise<string[]> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw invalid(`there is no file or folder ${path}`, "Check the path.");
  if (!found.isDirectory()) return [path];
  const names = (await readdir(path, { withFileTypes: true }))
    .filter((entry) => !entry.isDirectory() && /\.html?$/i.test(entry.name))
    .map(({ name }) => name)
    .sort();
  if (names.length === 0)
    throw invalid(`the folder ${path} holds no *.html`, "Name a folder with pages, or pages.");
  return names.map((name) => join(path, name));
}

async function requireCourse(db: Database): Promise<void> {
  const [row] = await db.query<{ there: boolean }>(
    "select to_regprocedure('public.reembed_course_page(text)') is not null as there",
  );
  if (row?.there) return;
  throw new ReembedError(
    "refused",
    "this database has no course_content collection to ingest into",
    "Apply the migration of the course domain (supabase/migrations/*_course.sql).",
  );
}

function print(results: readonly PageResult[], out: Output): void {
  const totals = Object.fromEntries(COUNTS.map((count) => [count, 0])) as Record<
    (typeof COUNTS)[number],
    number
  >;
  const rows: string[][] = [];
  for (const result of results) {
    if ("error" in result) continue;
    for (const count of COUNTS) totals[count] += result[count];
    rows.push([basename(result.file), ...COUNTS.map((count) => String(result[count]))]);
  }
  rows.push(["total", ...COUNTS.map((count) => String(totals[count]))]);
  for (const line of table(["page", ...COUNTS], rows)) out.say(line);
  for (const result of results) {
    if (!("error" in result)) continue;
    process.exitCode = 1;
    out.note(`error: ${result.file}: ${result.error.message}`);
    out.note(`hint: ${result.error.hint}`);
  }
  out.result({ pages: results, totals });
}

/** An http(s) URL that ends with a slash, so that file names are added to it and replace nothing. */
function baseUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !["http:", "https:"].includes(url.protocol) || url.search || url.hash)
    throw new InvalidArgumentError("It must be an http or https URL without query and fragment.");
  return url.href.endsWith("/") ? url.href : `${url.href}/`;
}

function invalid(message: string, hint: string): ReembedError {
  return new ReembedError("invalid_request", message, hint);
}
