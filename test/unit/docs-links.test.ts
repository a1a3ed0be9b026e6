/** The documents promise only what is there: links, files, scripts, commands and database functions that exist. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

const markdownIn = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(folder, name));

const DOCUMENTS = [
  "README.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  ...markdownIn("docs"),
  ...markdownIn("examples"),
];

const firstGroups = (text: string, pattern: RegExp): string[] =>
  [...text.matchAll(pattern)].map(([, found = ""]) => found);

const withoutCode = (markdown: string) =>
  markdown.replace(/^```[\s\S]*?^```/gm, "").replace(/`[^`\n]*`/g, "");

/** What stands in code, be it a fenced block or a word in a line. */
const codeIn = (markdown: string): string[] => [
  ...firstGroups(markdown, /^```\w*\n([\s\S]*?)^```/gm),
  ...firstGroups(markdown.replace(/^```[\s\S]*?^```/gm, ""), /`([^`\n]+)`/g),
];

/** The links of a document that lead to no other site. */
const relativeLinks = (path: string): string[] =>
  firstGroups(withoutCode(read(path)), /\]\(<?([^)\s>]+)>?\)/g).filter((link) => !/^[a-z]+:/.test(link));

/** The anchors of a document's headings, as GitHub makes them. */
const anchorsOf = (path: string): string[] =>
  firstGroups(read(path).replace(/^```[\s\S]*?^```/gm, ""), /^#{1,6} (.+)$/gm).map((heading) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-"),
  );

const targetOf = (path: string, link: string) =>
  relative(ROOT, resolve(ROOT, dirname(path), link.split("#", 1)[0] || `./${path.split("/").at(-1)}`));

const COMMANDS = readdirSync(join(ROOT, "scripts/commands")).flatMap((file) =>
  firstGroups(read(`scripts/commands/${file}`), /program\.command\("([a-z-]+)"\)/g),
);

const MIGRATIONS = readdirSync(join(ROOT, "supabase/migrations"))
  .map((file) => read(`supabase/migrations/${file}`))
  .join("\n");

describe.each(DOCUMENTS)("%s", (path) => {
  test("links to files and headings that are there", () => {
    const broken = relativeLinks(path).filter((link) => {
      const target = targetOf(path, link);
      const anchor = link.split("#")[1];
      return (
        target.startsWith("..") ||
        !existsSync(join(ROOT, target)) ||
        (anchor !== undefined && !anchorsOf(target).includes(anchor))
      );
    });
    expect(broken).toEqual([]);
  });

  test("names files of this repository that are there", () => {
    const named = codeIn(read(path)).filter((code) =>
      /^(\.ci|bench|docs|examples|scripts|supabase|test)\/[\w./-]+\.(ts|sql|md|sh|json|toml|html)$/.test(
        code,
      ),
    );
    expect(named.filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
  });

  test("names npm scripts that are there", () => {
    const code = codeIn(read(path)).join("\n");
    const scripts = [
      ...firstGroups(code, /\bnpm run (?:-s )?([\w:]+)/g),
      ...firstGroups(code, /\bnpm (start|test)\b/g),
    ];
    expect(scripts.filter((script) => !(script in packageJson.scripts))).toEqual([]);
  });

  test("names commands of the command line that are there", () => {
    const code = codeIn(read(path)).join("\n");
    const commands = firstGroups(code, /\breembed(?: --)? ([a-z]+)\b/g);
    expect(commands.filter((command) => !COMMANDS.includes(command))).toEqual([]);
  });

  test("calls functions of the schema reembed that are there", () => {
    const text = read(path);
    const called = firstGroups(text, /\breembed\.([a-z_]+)\(/g);
    const made = new Set(firstGroups(`${MIGRATIONS}\n${text}`, /create function reembed\.([a-z_]+)\(/g));
    expect(called.filter((name) => !made.has(name))).toEqual([]);
  });
});

describe("docs/architecture.md", () => {
  /** The words in code of the last column, or the first, of the tables in a part of the page. */
  const namedIn = (from: string, to: string, column: 0 | 1) => {
    const text = read("docs/architecture.md").split(from)[1]?.split(to)[0] ?? "";
    return (text.match(/^\| .* \|$/gm) ?? []).flatMap((row) =>
      firstGroups(row.slice(2, -2).split(" | ")[column] ?? "", /`([^`]+)`/g),
    );
  };

  test("names every migration", () => {
    const migrations = readdirSync(join(ROOT, "supabase/migrations")).map((name) =>
      name.replace(/^\d{8}0*|\.sql$/g, ""),
    );
    expect(namedIn("In the database", "In the engine", 1)).toEqual(migrations);
  });

  test.each([
    ["In the engine", "On the command line", "supabase/functions/_shared"],
    ["On the command line", "## The laws", "scripts"],
  ])("%s: names what is there", (from, to, folder) => {
    const named = namedIn(from, to, 1);
    expect(named.length).toBeGreaterThan(0);
    expect(named.filter((name) => !existsSync(join(ROOT, folder, name)))).toEqual([]);
  });

  test("says of each folder what is in it", () => {
    const named = namedIn("## The folders", "## The parts", 0);
    expect(named.filter((name) => !existsSync(join(ROOT, name)))).toEqual([]);
    const foldersIn = (folder: string) =>
      readdirSync(join(ROOT, folder), { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(folder, entry.name));
    // Hidden ones, the packages, and this page's own stand aside.
    const top = foldersIn(".").filter((name) => !/^(\..*|node_modules|docs)$/.test(name));
    const parents = ["supabase", "scripts"];
    const told = top.flatMap((name) => (parents.includes(name) ? foldersIn(name) : [name]));
    const missing = told.filter((name) => !named.includes(name) && !/\/\./.test(name));
    expect(missing).toEqual([]);
  });
});

test("every document can be reached from README.md", () => {
  const reached = new Set(["README.md"]);
  for (const path of reached) {
    for (const link of path.endsWith(".md") ? relativeLinks(path) : []) reached.add(targetOf(path, link));
  }
  expect(DOCUMENTS.filter((path) => !reached.has(path))).toEqual([]);
});
