/** `reembed ingest`: documents, or rows, from files into a collection. Ingesting the same again changes only what has changed. */
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import {
  INGESTED,
  type IngestKind,
  ingestDocument,
  kindFor,
  kindsIn,
} from "../../supabase/functions/_shared/ingest/kinds.ts";
import { withDatabase } from "../lib/database.ts";
import { ingestRows } from "../lib/ingest-rows.ts";
import { jsonLinesIn } from "../lib/json-lines.ts";
import { collectionName, type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, type Output, table } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly baseUrl?: string;
}

interface File {
  readonly path: string;
  readonly kind: IngestKind;
}

/** One document of a file. */
interface Document {
  /** What it is called in messages: its file, and its line where a file has several. */
  readonly name: string;
  /** An error where it could not be read. */
  readonly value: unknown;
}

type Counts = Readonly<Record<string, number>>;

type DocumentResult =
  | { readonly file: string; readonly url?: string; readonly counts: Counts }
  | {
      readonly file: string;
      readonly url?: string;
      readonly error: { code: string; message: string; hint: string };
    };

const FORMATS: Readonly<Record<string, IngestKind["files"]>> = {
  ".html": "html",
  ".htm": "html",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
};

export function addIngest(program: Command): void {
  withDatabaseOptions(program.command("ingest"))
    .description("Takes documents apart into rows and stores what is new or has changed.")
    .argument(
      "<folder or file...>",
      "pages (*.html), articles (*.jsonl, a JSON object a line), or folders of pages; for other collections rows (*.jsonl, *.csv)",
    )
    .option(
      "--collection <name>",
      `of documents into ${INGESTED.join(" or ")}, by default by the files; any other one of rows`,
      collectionName,
    )
    .option("--base-url <url>", "for pages: a page's url is this and its file name", baseUrl)
    .addHelpText(
      "after",
      `
A row has the columns of its table, without the vectors, and is known again by the one unique index beside the primary key, else by the primary key.
An article has url, title, content, and may have published_at (such as 2026-11-20T08:00:00Z), chunk_tokens and overlap_tokens.

Example:
  npm run -s reembed -- ingest examples/git-course --base-url https://swcarpentry.github.io/git-novice/
  npm run -s reembed -- ingest examples/news/articles.jsonl
  npm run -s reembed -- ingest examples/bora/lexicon.csv --collection lexicon`,
    )
    .action(ingest);
}

async function ingest(paths: readonly string[], options: Options): Promise<void> {
  const out = createOutput(options.json);
  const { collection } = options;
  if (collection !== undefined && !INGESTED.includes(collection)) {
    if (options.baseUrl !== undefined)
      throw invalid("--base-url is for pages, and rows go into this collection", "Leave it out.");
    return ingestRows(paths, collection, options, out);
  }
  const files = await findFiles(paths, options);
  const urls = urlsOf(files, options.baseUrl);
  const results = await withDatabase(options, async (db) => {
    const results: DocumentResult[] = [];
    for (const { path, kind } of files) {
      for await (const { name, value } of documentsOf(path, kind, urls.get(path))) {
        const url = urlIn(value);
        try {
          if (value instanceof ReembedError) throw value;
          const done = await ingestDocument(db.rpc, kind, value);
          results.push({ file: name, ...(url && { url }), counts: numbersOf(done) });
        } catch (error) {
          // A document that cannot be taken stops no other; a database that fails, or lacks the collection, stops them all.
          if (!(error instanceof ReembedError) || error.status >= 500 || error.code === "refused")
            throw error;
          const { code, message, hint } = error;
          results.push({ file: name, ...(url && { url }), error: { code, message, hint } });
        }
      }
    }
    return results;
  });
  print(results, out);
}

/** @throws ReembedError `invalid_request` naming the path */
async function findFiles(paths: readonly string[], { collection }: Options): Promise<File[]> {
  const files = new Map<string, File>();
  for (const given of paths) {
    for (const path of await filesOf(given)) files.set(path, { path, kind: kindOf(path, collection) });
  }
  return [...files.values()];
}

function kindOf(path: string, collection: string | undefined): IngestKind {
  const format = FORMATS[extname(path).toLowerCase()];
  const named = collection === undefined ? undefined : kindFor(collection);
  const [only, ...others] = format === undefined ? [] : named === undefined ? kindsIn(format) : [named];
  if (only === undefined || only.files !== format) {
    throw invalid(
      `${path} is no file of documents${collection === undefined ? "" : ` for ${collection}`}`,
      `Name files that end in ${Object.keys(FORMATS).join(", ")}: pages are for ${names("html")}, JSON lines for ${names("jsonl")}.`,
    );
  }
  if (others.length > 0)
    throw invalid(
      `${path} may be for several collections`,
      `Say --collection, one of ${names(format ?? "jsonl")}.`,
    );
  return only;
}

const names = (format: IngestKind["files"]) =>
  kindsIn(format)
    .map(({ collection }) => collection)
    .join(", ");

async function filesOf(path: string): Promise<string[]> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw invalid(`there is no file or folder ${path}`, "Check the path.");
  if (!found.isDirectory()) return [path];
  const pages = (await readdir(path, { withFileTypes: true }))
    .filter((entry) => !entry.isDirectory() && /\.html?$/i.test(entry.name))
    .map(({ name }) => name)
    .sort();
  if (pages.length === 0)
    throw invalid(`the folder ${path} holds no *.html`, "Name a folder with pages, or files.");
  return pages.map((name) => join(path, name));
}

/** The urls of pages, which do not say theirs themselves. @throws ReembedError `invalid_request` without --base-url, or where two are one */
function urlsOf(files: readonly File[], base: string | undefined): ReadonlyMap<string, string> {
  const urls = new Map<string, string>();
  const pages = new Map<string, string>();
  for (const { path, kind } of files) {
    if (kind.files !== "html") continue;
    if (base === undefined)
      throw invalid(
        "--base-url is missing: pages do not say their own url",
        "A page's url is this and its file name.",
      );
    const url = new URL(encodeURIComponent(basename(path)), base).href;
    const other = pages.get(url);
    if (other !== undefined) {
      throw invalid(
        `${other} and ${path} would both become ${url}`,
        "Ingest them with a base URL of their own each.",
      );
    }
    pages.set(url, path);
    urls.set(path, url);
  }
  return urls;
}

async function* documentsOf(
  path: string,
  kind: IngestKind,
  url: string | undefined,
): AsyncGenerator<Document> {
  if (kind.files === "html") {
    yield { name: path, value: { url, html: await readFile(path, "utf8") } };
    return;
  }
  for await (const { line, ...read } of jsonLinesIn(path)) {
    const value =
      "fault" in read
        ? new ReembedError(
            "invalid_json",
            `the line ${read.fault}`,
            "Write one JSON object a line, in UTF-8.",
          )
        : read.value;
    yield { name: `${path}:${line}`, value };
  }
}

function urlIn(value: unknown): string | undefined {
  const url = typeof value === "object" && value !== null && "url" in value ? value.url : undefined;
  return typeof url === "string" ? url : undefined;
}

const numbersOf = (counts: Readonly<Record<string, unknown>>): Counts =>
  Object.fromEntries(
    Object.entries(counts).flatMap(([name, value]) =>
      typeof value === "number" && !name.endsWith("_id") ? [[name, value]] : [],
    ),
  );

function print(results: readonly DocumentResult[], out: Output): void {
  const totals: Record<string, number> = {};
  const counted = results.flatMap((result) => ("counts" in result ? [result] : []));
  for (const { counts } of counted) {
    for (const [name, count] of Object.entries(counts)) totals[name] = (totals[name] ?? 0) + count;
  }
  const columns = Object.keys(totals);
  const row = (name: string, counts: Counts) => [
    name,
    ...columns.map((column) => String(counts[column] ?? "")),
  ];
  const rows = counted.map(({ file, counts }) => row(basename(file), counts));
  for (const line of table(["document", ...columns], [...rows, row("total", totals)])) out.say(line);
  for (const result of results) {
    if (!("error" in result)) continue;
    process.exitCode = 1;
    out.note(`error: ${result.file}: ${result.error.message}`);
    out.note(`hint: ${result.error.hint}`);
  }
  out.result({
    documents: results.map(({ file, url, ...rest }) => ({
      file,
      ...(url && { url }),
      ...("counts" in rest ? rest.counts : rest),
    })),
    totals,
  });
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
