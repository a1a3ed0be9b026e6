import { readdirSync, readFileSync } from "node:fs";
import { type DefaultTreeAdapterTypes, parse } from "parse5";
import { describe, expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { splitBlocks } from "../../supabase/functions/_shared/sections/split.ts";
import {
  extractSections,
  normalizePageUrl,
  type Section,
  sectionId,
} from "../../supabase/functions/_shared/sections.ts";

const COURSE = new URL("../../examples/git-course/", import.meta.url);
const BASE = "https://swcarpentry.github.io/git-novice/";
const PAGE = "https://example.org/course/page.html";

const course = new Map(
  readdirSync(COURSE)
    .filter((name) => name.endsWith(".html"))
    .map((name) => [name, readFileSync(new URL(name, COURSE), "utf8")]),
);

function page(name: string): Section[] {
  const html = course.get(name);
  if (html === undefined) throw new Error(`no page ${name} among the examples`);
  return extractSections(html, BASE + name);
}

/** Sections of `<main>` with this inside; the url is cut to its fragment for reading. */
function main(html: string, maxCharacters?: number): Section[] {
  const options = maxCharacters === undefined ? {} : { maxCharacters };
  return extractSections(`<title>Site</title><main>${html}</main>`, PAGE, options);
}

const outline = (sections: readonly Section[]) =>
  sections.map(({ path, content, url }) => [path.join(" > "), content, url.slice(PAGE.length)]);

type Node = DefaultTreeAdapterTypes.Element;

/** A browser's way to a fragment, written apart from the product's: recursion over the tree, and the standard's order of tries. */
function followInBrowser(html: string, fragment: string): { target: Node; elements: Node[] } {
  const elements: Node[] = [];
  const collect = (node: { childNodes?: unknown[] }): void => {
    for (const child of (node.childNodes ?? []) as Node[]) {
      if (child.tagName) elements.push(child);
      collect(child);
    }
  };
  collect(parse(html));
  const value = (node: Node, name: string) => node.attrs.find((attr) => attr.name === name)?.value;
  const find = (key: string) =>
    elements.find((node) => value(node, "id") === key) ??
    elements.find((node) => node.tagName === "a" && value(node, "name") === key);
  const target = find(fragment) ?? find(decodeURIComponent(fragment));
  if (target === undefined) throw new Error(`a browser finds nothing for #${fragment}`);
  return { target, elements };
}

function textOf(node: unknown): string {
  const { value, childNodes } = node as { value?: string; childNodes?: unknown[] };
  return value ?? (childNodes ?? []).map(textOf).join("");
}

const words = (text: string) => text.replace(/\s+/g, " ").trim();

describe("the 16 pages of the course", () => {
  test("have one section a heading that is no label", () => {
    const counts = [...course.keys()].map((name) => {
      const wholeSections = page(name).filter(({ part }) => part === 0);
      return [name, wholeSections.length];
    });
    // Counted by hand in the pages: h1, call-out titles and headings of the text; without BASH/OUTPUT labels, cards,
    // accordion buttons and the two sample headings in a table of 04-changes.
    expect(Object.fromEntries(counts)).toEqual({
      "01-basics.html": 3,
      "02-setup.html": 7,
      "03-create.html": 5,
      "04-changes.html": 11,
      "05-history.html": 7,
      "06-ignore.html": 8,
      "07-github.html": 17,
      "08-collab.html": 8,
      "09-conflict.html": 5,
      "10-open.html": 5,
      "11-licensing.html": 3,
      "12-citation.html": 1,
      "13-hosting.html": 4,
      "14-supplemental-rstudio.html": 6,
      "index.html": 6,
      "reference.html": 3,
    });
  });

  test("cite only fragments that land on the heading or on a box it is the first heading of", () => {
    let followed = 0;
    for (const [name, html] of course) {
      for (const { url, title } of page(name)) {
        const [address, fragment] = url.split("#");
        expect(address).toBe(BASE + name);
        if (fragment === undefined) continue;
        const { target, elements } = followInBrowser(html, fragment);
        const inTarget = elements.filter((node) => {
          for (let up: unknown = node; up; up = (up as Node).parentNode) if (up === target) return true;
          return false;
        });
        const firstHeading = inTarget.find(({ tagName }) => /^h[1-6]$/.test(tagName));
        expect(words(textOf(firstHeading))).toBe(title);
        let isInMain = false;
        for (let up: unknown = target; up; up = (up as Node).parentNode)
          isInMain ||= (up as Node).tagName === "main" && up !== target;
        expect(isInMain).toBe(true);
        followed += 1;
      }
    }
    expect(followed).toBe(84);
  });

  test("give every section but the page itself a fragment: each has an id in these pages", () => {
    const without = [...course.keys()].flatMap(page).filter(({ url }) => !url.includes("#"));
    expect(new Set(without.map(({ content_type }) => content_type))).toEqual(new Set(["page"]));
  });

  test("keep every word of the text and every line of code", () => {
    for (const [name, html] of course) {
      const { elements } = followInBrowser(html, "main-content");
      const kept = page(name).map(({ content }) => content);
      const text = words(kept.join("\n"));
      for (const node of elements) {
        let isInMain = false;
        for (let up: unknown = node; up; up = (up as Node).parentNode)
          isInMain ||= (up as Node).tagName === "main";
        if (!isInMain) continue;
        if (node.tagName === "pre") {
          for (const line of textOf(node).split("\n").map(words)) expect(text).toContain(line);
        } else if (node.tagName === "p" && !node.childNodes.some(({ nodeName }) => nodeName === "br")) {
          expect(text).toContain(words(textOf(node)));
        }
      }
    }
  });

  test("leave out navigation, scripts and buttons", () => {
    const text = [...course.keys()]
      .flatMap(page)
      .map(({ content }) => content)
      .join("\n");
    for (const noise of [
      "Expand All Solutions",
      "Instructor View",
      "Code of Conduct",
      "Previous:",
      "MathJax",
    ])
      expect(text).not.toContain(noise);
  });

  test("attach a solution to the exercise before it, and the text after a call-out to the section around it", () => {
    const create = page("03-create.html");
    const exercise = create.find(({ title }) => title === "Places to Create Git Repositories");
    expect(exercise?.content).toContain("Show me the solution\nNo. Alfredo does not need to");
    expect(exercise?.content_type).toBe("exercise");
    expect(create[0]?.content).toContain("Key Points\n- git init initializes a repository.");
    expect(create.find(({ title }) => title === "Background")?.path).toEqual([
      "Correcting git init Mistakes",
      "Background",
    ]);
  });

  test("nest by level inside a flow, and by box inside a call-out", () => {
    const github = page("07-github.html");
    const parents = github.map(({ parent }) => (parent === null ? null : github[parent]?.title));
    expect(parents[0]).toBe(null);
    expect(parents[github.findIndex(({ title }) => title === "3.1 Create an SSH key pair")]).toBe(
      "3. SSH Background and Setup",
    );
    expect(parents[github.findIndex(({ title }) => title === "HTTPS vs. SSH")]).toBe(
      "2. Connect local to remote repository",
    );
    const rstudio = page("14-supplemental-rstudio.html");
    const inside = rstudio.find(({ title }) => title === "Find your Git Executable");
    expect(rstudio[inside?.parent ?? -1]?.title).toBe("Do You See a “Version Control” Option?");
    const index = page("index.html").filter(({ level }) => level === 2);
    expect(index.map(({ parent }) => parent)).toEqual([0, 0, 0]);
  });

  test("have parents before children and pieces within the limit", () => {
    for (const name of course.keys()) {
      for (const [index, { parent, content, part }] of page(name).entries()) {
        expect(content.length).toBeLessThanOrEqual(4_000);
        if (parent !== null) expect(parent).toBeLessThan(index);
        if (part > 0) expect(content).not.toBe("");
      }
    }
  });
});

describe("a fragment", () => {
  test("is the id of the heading, percent-encoded", () => {
    expect(main('<h2 id="a b%20ü:~:text=x">T</h2>x')[0]?.url).toBe(`${PAGE}#a%20b%2520%C3%BC%3A~%3Atext%3Dx`);
  });

  test("is never invented", () => {
    expect(main("<h2>No id</h2>x")[0]?.url).toBe(PAGE);
  });

  test("is left out when another element has the id first, also in hidden parts and in the page’s frame", () => {
    const html = (before: string) => `<body>${before}<main><h2 id="x">T</h2>text</main>`;
    expect(extractSections(html(""), PAGE)[0]?.url).toBe(`${PAGE}#x`);
    expect(extractSections(html('<nav id="x"></nav>'), PAGE)[0]?.url).toBe(PAGE);
    expect(extractSections(html('<div hidden><i id="x"></i></div>'), PAGE)[0]?.url).toBe(PAGE);
    // What stands in a template is no part of the document.
    expect(extractSections(html('<template><i id="x"></i></template>'), PAGE)[0]?.url).toBe(`${PAGE}#x`);
  });

  test("is left out for the second of two headings with one id", () => {
    expect(main('<h2 id="x">A</h2>a<h2 id="x">B</h2>b').map(({ url }) => url)).toEqual([`${PAGE}#x`, PAGE]);
  });

  test("of a wrapper that begins with the page's title is the page's, not that of the section after it", () => {
    const wrapped = main('<section id="top"><h1>Page</h1><h2>First</h2>a</section>');
    expect(wrapped.map(({ url }) => url)).toEqual([`${PAGE}#top`, PAGE]);
  });

  test("may be the id of a wrapper that begins with the heading, but for a short label", () => {
    const box = (label: string) => `<p>intro</p><div id="box">${label}<h3>T</h3><p>x</p></div>`;
    expect(main(box(""))[1]?.url).toBe(`${PAGE}#box`);
    expect(main(box("<span>Exercise</span>"))[1]?.url).toBe(`${PAGE}#box`);
    expect(main(box("<p>A paragraph of its own.</p>"))[1]?.url).toBe(PAGE);
    expect(main(box(`<span>${"long ".repeat(20)}</span>`))[1]?.url).toBe(PAGE);
  });

  test("of a wrapper goes to its first section alone, and to none when sections stand side by side in it", () => {
    const both = "<h2>A</h2>a<h2>B</h2>b";
    expect(main(`<div id="content">${both}</div>`).map(({ url }) => url)).toEqual([PAGE, PAGE]);
    const nested =
      '<section id="all"><section><h2>A</h2>a</section><section><h2>B</h2>b</section></section><h2>C</h2>c';
    expect(main(nested).map(({ url, parent }) => [url, parent])).toEqual([
      [PAGE, null],
      [PAGE, null],
      [PAGE, null],
    ]);
  });

  test("of a wrapper goes to no section that stands beside another in it, whatever their levels", () => {
    const urls = (html: string) => main(html).map(({ url }) => url);
    expect(urls('<div id="w"><h3>A</h3>a<h2>B</h2>b</div>')).toEqual([PAGE, PAGE]);
    expect(urls('<div id="w"><h3>A</h3><div><h2>B</h2>b</div></div>')).toEqual([PAGE, PAGE]);
    expect(urls('<div id="w"><h2>A</h2>a<div><h2>B</h2>b</div></div>')).toEqual([PAGE, PAGE]);
  });

  test("is never that of the main part itself", () => {
    const [first] = extractSections('<main id="main-content"><h1>T</h1>x</main>', PAGE);
    expect(first?.url).toBe(PAGE);
  });

  test("may be a name or an id at the beginning of the heading, as old pages have it", () => {
    expect(main('<h2><a name="old">T</a></h2>x')[0]?.url).toBe(`${PAGE}#old`);
    expect(main('<h2><span id="wiki">T</span></h2>x')[0]?.url).toBe(`${PAGE}#wiki`);
    expect(main('<p id="old">p</p><h2><a name="old">T</a></h2>x')[1]?.url).toBe(PAGE);
    // No browser goes to the name of anything else.
    expect(main('<p><input name="old">p</p><h2><a name="old">T</a></h2>x')[1]?.url).toBe(`${PAGE}#old`);
    expect(main('<h2 name="old">T</h2>x')[0]?.url).toBe(PAGE);
  });

  test("is none where it would lead to an id that is written as the other one is encoded", () => {
    const urls = main('<h2 id="a%20b">Encoded</h2>x<h2 id="a b">Spaced</h2>y').map(({ url }) => url);
    expect(urls).toEqual([`${PAGE}#a%2520b`, PAGE]);
    expect(main('<h2 id="a b">Spaced</h2>y')[0]?.url).toBe(`${PAGE}#a%20b`);
  });

  test("replaces the one of the given url, whose query stays", () => {
    const [first] = extractSections('<main><h2 id="x">T</h2>y</main>', "https://Example.org/a?b=c#old");
    expect(first?.url).toBe("https://example.org/a?b=c#x");
  });
});

describe("headings that are text", () => {
  test("label code: first in an element with nothing else but one pre", () => {
    const sections = main('<h2>T</h2><div id="cb1"><h3>BASH</h3><pre>$ ls\n  a</pre></div><p>end</p>');
    expect(outline(sections)).toEqual([["T", "BASH\n$ ls\n  a\n\nend", ""]]);
  });

  test.each([
    ["an id", '<div><h3 id="e">Example</h3><pre>x</pre></div>'],
    ["a link to itself", '<div><h3>Example<a href="#e">¶</a></h3><pre>x</pre></div>'],
    ["a section", "<section><h3>Example</h3><pre>x</pre></section>"],
    ["more text", "<div><h3>Example</h3><pre>x</pre><p>why</p></div>"],
  ])("do not label code where there is %s", (_, html) => {
    expect(main(html).map(({ title }) => title)).toEqual(["Example"]);
  });

  test("label what unfolds, a card, or stand in a quotation or a data table", () => {
    const sections = main(
      "<h2>T</h2><details><summary><h3>More</h3></summary>inside</details>" +
        '<div class="card"><h3 class="card-header">Questions</h3><p>why?</p></div>' +
        '<h3 class="accordion-header"><button>Answer</button></h3><div>because</div>' +
        "<blockquote><h3>Quoted</h3>said</blockquote>" +
        "<table><tr><th>a</th></tr><tr><td><h3>cell</h3></td></tr></table>",
    );
    expect(outline(sections)).toEqual([
      ["T", "More\ninside\n\nQuestions\nwhy?\n\nAnswer\nbecause\n\nQuoted\nsaid\na\ncell", ""],
    ]);
  });

  test("a table that only lays out the page hides no heading", () => {
    expect(
      main("<table><tr><td><h2>A</h2>a</td><td><h2>B</h2>b</td></tr></table>").map(({ title }) => title),
    ).toEqual(["A", "B"]);
  });
});

describe("sections", () => {
  test("text before the first heading belongs to the page, titled by its only h1, else by its title", () => {
    expect(main("<p>lead</p><h2>A</h2>a").map(({ title, level }) => [title, level])).toEqual([
      ["Site", 0],
      ["A", 2],
    ]);
    expect(
      main("<p>lead</p><h1>Page</h1><p>x</p><h2>A</h2>a").map(({ title, content }) => [title, content]),
    ).toEqual([
      ["Page", "lead\n\nx"],
      ["A", "a"],
    ]);
    expect(main("<h1>A</h1>a<h1>B</h1>b").map(({ path }) => path)).toEqual([["A"], ["B"]]);
    expect(extractSections("plain", PAGE).map(({ title }) => title)).toEqual([
      "example.org/course/page.html",
    ]);
  });

  test("text after a box belongs to the section around it, after a wrapped heading to the heading", () => {
    const box = '<h2>A</h2><p>1</p><div class="note"><h3>Note</h3><p>n</p></div><p>2</p>';
    expect(main(box).map(({ title, content }) => [title, content])).toEqual([
      ["A", "1\n\n2"],
      ["Note", "n"],
    ]);
    const wrapped =
      '<div class="heading"><h2>A</h2><a href="#a"></a></div><p>1</p><header><h2>B</h2><p>by</p></header><p>2</p>';
    expect(main(wrapped).map(({ title, content }) => [title, content])).toEqual([
      ["A", "1"],
      ["B", "by\n\n2"],
    ]);
  });

  test("a box that takes the place of the section before it goes on after its end", () => {
    const html = "<h2>A</h2><p>1</p><div><h2>B</h2><p>lead</p></div><p>body</p>";
    expect(outline(main(html))).toEqual([
      ["A", "1", ""],
      ["B", "lead\n\nbody", ""],
    ]);
  });

  test("headings of one level are siblings in plain containers, and nested in a part with an id", () => {
    const paths = (open: string) =>
      main(`<p>x</p>${open}<h2>A</h2>a<div><h2>B</h2>b</div></div><h2>C</h2>c`).map(({ path }) =>
        path.join(" > "),
      );
    expect(paths("<div>")).toEqual(["", "A", "B", "C"]);
    expect(paths('<div id="part">')).toEqual(["", "A", "A > B", "C"]);
  });

  test("what unfolds belongs to the box right before it, but not once there is text between them", () => {
    const html = (between: string) =>
      `<p>x</p><div><h3>Exercise</h3>e</div>${between}<details><summary><h4>Solution</h4></summary>s</details>`;
    expect(outline(main(html("")))).toEqual([
      ["", "x", ""],
      ["Exercise", "e\n\nSolution\ns", ""],
    ]);
    expect(outline(main(html("<p>y</p>")))).toEqual([
      ["", "x\n\ny\n\nSolution\ns", ""],
      ["Exercise", "e", ""],
    ]);
  });

  test("equal paths are told apart by occurrence", () => {
    expect(
      main("<h2>A</h2>1<h3>S</h3>2<h2>A</h2>3<h3>S</h3>4").map(({ path, occurrence }) => [
        ...path,
        occurrence,
      ]),
    ).toEqual([
      ["A", 0],
      ["A", "S", 0],
      ["A", 1],
      ["A", "S", 1],
    ]);
  });

  test("headings without text are none; a picture’s alternative text is text", () => {
    expect(
      main('<h2>A</h2>1<h2> &nbsp;</h2>2<h2><img src="x" alt="Logo"></h2>3<h2><!-- c --></h2>4').map(
        ({ title, content }) => [title, content],
      ),
    ).toEqual([
      ["A", "1\n\n2"],
      ["Logo", "3\n\n4"],
    ]);
  });

  test("a heading directly before its subsection has a section without content", () => {
    expect(outline(main('<h2 id="a">A</h2><h3 id="b">B</h3>b'))).toEqual([
      ["A", "", "#a"],
      ["A > B", "b", "#b"],
    ]);
  });

  test("text is normalised: lists, definitions, tables, line breaks, entities, pictures", () => {
    const [section] = main(
      "<h2>T</h2> a\n  b&nbsp;&amp;\u200b c<br>d<ul><li>one<li><p>two</p></ul><dl><dt>t<dd>d</dl>" +
        '<table><tr><th>x<th>y<tr><td>1<td></table><img alt="chart"><script>s</script><noscript>n</noscript><template>t</template>',
    );
    expect(section?.content).toBe(
      "a b & c\nd\n- one\n- two\n\nt\nd\nx | y\n1 | \n\nchart".replace("1 | ", "1 |"),
    );
  });

  test("hidden parts and form controls are no text", () => {
    const hidden =
      '<p hidden>a</p><p style="display: none">b</p><i aria-hidden="true">c</i><button>Copy</button><nav>d</nav><footer>e</footer>';
    expect(main(`<h2>T</h2>${hidden}<p>seen</p>`)[0]?.content).toBe("seen");
  });

  test("without a main part the only article counts, else the body without its frame", () => {
    const frame = "<header>h</header><nav>n</nav><aside>a</aside>";
    expect(
      extractSections(`${frame}<article><h2>A</h2>x</article><p>rest</p>`, PAGE).map(
        ({ content }) => content,
      ),
    ).toEqual(["x"]);
    expect(
      extractSections(`<title>t</title>${frame}<p>x</p><footer>f</footer>`, PAGE).map(
        ({ content }) => content,
      ),
    ).toEqual(["x"]);
  });
});

describe("splitting", () => {
  test("cuts at paragraphs, then sentences, then words, then anywhere, and never exceeds the size", () => {
    const at = (text: string) => splitBlocks([{ text, glue: "\n\n" }], 20);
    expect(
      splitBlocks(
        ["aaaa aaaa", "bbbb bbbb", "cc"].map((text) => ({ text, glue: "\n\n" as const })),
        20,
      ),
    ).toEqual(["aaaa aaaa\n\nbbbb bbbb", "cc"]);
    const tens = ["a".repeat(10), "b".repeat(10)].map((text) => ({ text, glue: "\n\n" as const }));
    expect(splitBlocks(tens, 20)).toHaveLength(2);
    expect(splitBlocks(tens, 22)).toHaveLength(1);
    expect(at("One two three. Four five six seven.")).toEqual(["One two three.", "Four five six seven."]);
    expect(at("one two three four five six")).toEqual(["one two three four", "five six"]);
    expect(at("x".repeat(45))).toEqual(["x".repeat(20), "x".repeat(20), "x".repeat(5)]);
    expect(at(`${"x".repeat(19)}😀y`)).toEqual(["x".repeat(19), "😀y"]);
  });

  test("keeps every character that is not white space, in order, for many shapes of text", () => {
    let seed = 7;
    const random = (below: number) => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed % below;
    };
    const alphabet = ["a", "word", " ", " ", "\n", ". ", "! ", "😀", "é", "。", "\n  code();"];
    for (let round = 0; round < 300; round += 1) {
      const max = 4 + random(60);
      const blocks = Array.from({ length: random(8) }, () => ({
        text: Array.from({ length: random(120) }, () => alphabet[random(alphabet.length)]).join(""),
        glue: (random(2) ? "\n" : "\n\n") as "\n" | "\n\n",
      }));
      const pieces = splitBlocks(blocks, max);
      const bare = (text: string) => text.replace(/\s+/g, "");
      expect(bare(pieces.join(""))).toBe(bare(blocks.map(({ text }) => text).join("")));
      for (const piece of pieces) {
        expect(piece.length).toBeLessThanOrEqual(max);
        expect(bare(piece)).not.toBe("");
        expect(piece.isWellFormed()).toBe(true);
      }
    }
  });

  test("pieces share title, url and parent, and are numbered", () => {
    const sections = main(
      `<h2 id="a">A</h2><h3 id="b">B</h3>${"<p>Some words in a paragraph.</p>".repeat(9)}<h4>C</h4>c`,
      100,
    );
    expect(
      sections.map(({ title, part, parent, url }) => [title, part, parent, url.slice(PAGE.length)]),
    ).toEqual([
      ["A", 0, null, "#a"],
      ["B", 0, 0, "#b"],
      ["B", 1, 0, "#b"],
      ["B", 2, 0, "#b"],
      ["C", 0, 1, ""],
    ]);
  });

  test("a size below 100 is refused", () => {
    expect(() => main("x", 99)).toThrow(/maxCharacters must be an integer of at least 100/);
  });
});

describe("hostile input", () => {
  test.each([
    ["nothing", "", []],
    ["a frameset", "<frameset><frame></frameset>", []],
    ["only hidden text", "<main hidden>x</main><p hidden>y</p>", []],
    ["null bytes", "<main>\0<h2>a\0b</h2>c&#0;\0d</main>", ["c\ufffdd"]],
    ["a lone surrogate", "<main><h2>x</h2>\ud800</main>", ["\ufffd"]],
    ["unclosed tags", "<main><h2>x</h2><p>y<b>z<div", ["yz"]],
  ])("%s", (_, html, contents) => {
    const found = extractSections(html, PAGE).map(({ content }) => content);
    expect(found).toEqual(contents);
  });

  test("100,000 nested elements do not exhaust the stack", () => {
    const deep = `<main>${'<div id="d">'.repeat(100_000)}<h2 id="x">T</h2>text`;
    expect(extractSections(deep, PAGE).map(({ content, url }) => [content, url])).toEqual([
      ["text", `${PAGE}#x`],
    ]);
  });

  test("markup that multiplies elements is refused", () => {
    const bomb = `${Array.from({ length: 400 }, (_, i) => `<p><b a=${i}>`).join("")}${"<p>".repeat(2_000)}`;
    expect(() => extractSections(bomb, PAGE)).toThrow(ReembedError);
  });

  test.each([
    ["flat", (i: number) => `<h2 id="s${i}">Title ${i}</h2><p>x</p>`],
    ["alike", () => '<h2 id="s">Title</h2><p>x</p>'],
    ["nested", (i: number) => `<section id="s${i}"><h2>Title</h2><p>x</p>`],
    ["unfolding", () => "<details><summary><h3>More</h3></summary><h2>Title</h2>x"],
  ])("20,000 headings (%s) are all found", (_, item) => {
    const html = `<main>${Array.from({ length: 20_000 }, (_, i) => item(i)).join("")}`;
    const titles = extractSections(html, PAGE).filter(({ title }) => title.startsWith("Title"));
    expect(titles).toHaveLength(20_000);
  });
});

describe("identity", () => {
  const identity = { page: PAGE, path: ["A", "B"], occurrence: 0, part: 0 };

  test("is a uuid that never changes: the first half of a SHA-256 computed elsewhere", async () => {
    expect(await sectionId("course_content", identity)).toBe("9e8b5536-dd60-8f2f-8c64-d7d26138941d");
  });

  test("differs in every component", async () => {
    const variants = [
      identity,
      { ...identity, page: `${PAGE}?x` },
      { ...identity, path: ["A,B"] },
      { ...identity, path: ["A"] },
      { ...identity, occurrence: 1 },
      { ...identity, part: 1 },
    ];
    const ids = await Promise.all([
      ...variants.map((each) => sectionId("course_content", each)),
      sectionId("other", identity),
    ]);
    expect(new Set(ids).size).toBe(variants.length + 1);
    for (const id of ids)
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  test("renaming the page renames no section", () => {
    const paths = (h1: string) => main(`<h1>${h1}</h1>x<h2>A</h2>a`).map(({ path }) => path);
    expect(paths("New")).toEqual(paths("Old"));
  });
});

test.each([
  ["not a url", "url must be an absolute http or https url"],
  ["/relative", "url must be an absolute http or https url"],
  ["javascript:alert(1)", "url must be an absolute http or https url"],
  ["https://user:pw@example.org/", "url must not carry a user name or password"],
  [`https://example.org/${"a".repeat(2_048)}`, "url must have at most 2048 characters"],
])("the url %.40s is refused", (url, message) => {
  expect(() => normalizePageUrl(url)).toThrow(message);
});
