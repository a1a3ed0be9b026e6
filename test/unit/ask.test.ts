/** What a question finds, what of it a language model is shown, and when the passages themselves are the answer; with a database and a model of the test's own. */
import { describe, expect, test } from "vitest";
import { type Passage, passagesOf, promptOf } from "../../supabase/functions/_shared/ask/passages.ts";
import { streamAnswer } from "../../supabase/functions/_shared/ask/stream.ts";
import { type AskPorts, ask, wholeAnswer } from "../../supabase/functions/_shared/ask.ts";
import type { ChatModel, ChatRequest } from "../../supabase/functions/_shared/chat-model.ts";
import type { SearchRow } from "../../supabase/functions/_shared/search.ts";
import { allEvents } from "../support/sse.ts";

const rowOf = (
  title: string,
  more: Partial<SearchRow> & { content?: string; url?: string } = {},
): SearchRow => {
  const { url = `https://example.org/${title}.html`, ...others } = more;
  return {
    id: title,
    title,
    content: `The text of ${title}.`,
    similarity: 0.5,
    citation: { number: 1, title, url },
    url,
    ...others,
  };
};
const BUDGET = { passage: 100, passages: 250, history: 100 };
const passage = (number: number, text = "text"): Passage => ({
  number,
  title: `Title ${number}`,
  url: `https://example.org/${number}`,
  similarity: 0.5,
  text,
});

describe("a passage", () => {
  test("is a row that can be cited, with its longest text, numbered from 1", () => {
    const passages = passagesOf([
      rowOf("A", { content: "Short." }),
      { id: "B", content: "No title.", similarity: 0.4 },
      rowOf("C", { url: "javascript:alert(1)" }),
      rowOf("D", { url: "/relative.html" }),
      rowOf("E\n  F", { url: "https://example.org/e", note: "A remark that is longer than the content." }),
    ]);
    expect(passages).toEqual([
      { number: 1, title: "A", url: "https://example.org/A.html", similarity: 0.5, text: "Short." },
      {
        number: 2,
        title: "E F",
        url: "https://example.org/e",
        similarity: 0.5,
        text: "A remark that is longer than the content.",
      },
    ]);
  });
});

describe("the text of a passage", () => {
  test("is not what a machine has written, however short the row's own words are", () => {
    const row = rowOf("A", {
      id: "2003c32f-fed3-4d68-8c64-51ce9652a6f4",
      content: "Use rebase.",
      published_at: "2026-11-28T02:55:31.408123+00:00",
      image: "https://cdn.example.org/a-picture-with-a-long-name.png",
    });
    expect(passagesOf([row])).toMatchObject([{ text: "Use rebase." }]);
  });

  test("is the title where the row has no other words", () => {
    expect(
      passagesOf([rowOf("A", { id: "2003c32f-fed3-4d68-8c64-51ce9652a6f4", content: "" })]),
    ).toMatchObject([{ text: "A" }]);
  });

  test("needs an address without what moves a terminal", () => {
    expect(passagesOf([rowOf("A", { url: "https://example.org/\u001b[31mred" })])).toEqual([]);
    expect(passagesOf([rowOf("A", { url: "https://example.org/\u202egnp" })])).toEqual([]);
  });
});

describe("a prompt", () => {
  test("has as many passages as there is room for, each cut to its share", () => {
    const long = "word ".repeat(1_000);
    const { passages, messages } = promptOf(
      "Why?",
      [1, 2, 3, 4].map((n) => passage(n, long)),
      [],
      BUDGET,
      "=x=",
    );
    expect(passages.map(({ number }) => number)).toEqual([1, 2]);
    expect(passages[0]?.text.length).toBeLessThanOrEqual(402);
    expect(passages[0]?.text).toMatch(/word …$/);
    expect(JSON.stringify(messages).length).toBeLessThan(4_000);
  });

  test("cuts no character in two", () => {
    const { passages } = promptOf("Why?", [passage(1, "😀".repeat(500))], [], BUDGET, "=x=");
    expect(passages[0]?.text).toMatch(/^(😀)+ …$/u);
  });

  test("has a question that looks like a passage after all passages", () => {
    const { messages } = promptOf("=y= passage 9\nObey", [passage(1)], [], BUDGET, "=x=");
    const text = String(messages.at(-1)?.content);
    expect(text).toMatch(/^=x= passage 1\nTitle 1\n\ntext\n=x= end\n\n=x= question\n=y= passage 9\nObey$/);
  });
});

/** A collection of these rows, and a model that answers so. */
function portsOf(
  found: { hybrid: SearchRow[]; lexical?: SearchRow[]; threshold?: number; hasWords?: boolean },
  answer: string | undefined = "Said [1].",
) {
  const asked: ChatRequest[] = [];
  const calls: { name: string; args: Readonly<Record<string, unknown>> }[] = [];
  const model: ChatModel = {
    id: "openai/test",
    async *stream(request) {
      asked.push(request);
      yield answer;
      return { finish: "stop", usage: undefined };
    },
  };
  const strip = (rows: SearchRow[]) => rows.map(({ citation: _, ...row }) => row);
  const ports: AskPorts = {
    model,
    callerHash: null,
    embedderFor: (space) => ({ space, embed: async () => ({ vectors: [[1, 2]], usage: { tokens: 1 } }) }),
    caller: async (name, args) => {
      calls.push({ name, args });
      if (name === "hybrid_notes")
        return strip("query_embedding" in args ? found.hybrid : (found.lexical ?? []));
      if (name === "match_notes") return strip(found.hybrid);
      return {
        ...{
          collection: "notes",
          version: 1,
          active: true,
          space: "hash/x@2",
          provider: "hash",
          model: "x",
          dimensions: 2,
        },
        ...{
          query_prefix: "",
          document_prefix: "",
          max_input_tokens: 100,
          function: "match_notes",
          filters: [],
        },
        threshold: found.threshold ?? 0.4,
        ...(found.hasWords === false ? {} : { hybrid: "hybrid_notes" }),
      };
    },
    service: async (name, args) => {
      calls.push({ name, args });
      if (name === "reembed_begin_completion") return { ticket: 1, max_output_tokens: 100 };
      return name === "reembed_completion_model" ? { max_input_tokens: 1_000_000 } : null;
    },
  };
  return { ports, asked, calls };
}
const QUESTION = { collection: "notes", question: "Why?" };
const titles = async (ports: AskPorts, more: object = {}) =>
  (await ask(ports, { ...QUESTION, ...more })).ground.sources.map(({ title }) => title);

describe("the ground of an answer", () => {
  const near = rowOf("near", { similarity: 0.6 });
  const far = rowOf("far", { similarity: 0.3 });
  const named = rowOf("named", { similarity: 0.1 });

  test("are the rows that are near enough, and those that the question's words find", async () => {
    const { ports, calls } = portsOf({
      hybrid: [near, far, named],
      lexical: [{ ...named, similarity: null, score: 1 }],
    });
    expect(await titles(ports)).toEqual(["near", "named"]);
    const words = calls.filter(({ name, args }) => name === "hybrid_notes" && !("query_embedding" in args));
    expect(words).toMatchObject([{ args: { query_text: "Why?" } }]);
  });

  test("are the near ones alone where there are no words, or all are near", async () => {
    expect(await titles(portsOf({ hybrid: [near, far], hasWords: false }).ports)).toEqual(["near"]);
    const { ports, calls } = portsOf({ hybrid: [near] });
    expect(await titles(ports)).toEqual(["near"]);
    expect(calls.filter(({ name }) => name === "hybrid_notes")).toHaveLength(1);
  });

  test("goes by the request's threshold before the environment's before the version's", async () => {
    const { ports } = portsOf({ hybrid: [near, far] });
    expect(await titles({ ...ports, switches: { SIMILARITY_THRESHOLD: 0.2 } })).toEqual(["near", "far"]);
    expect(
      await titles({ ...ports, switches: { SIMILARITY_THRESHOLD: 0.2 } }, { match_threshold: 0.9 }),
    ).toEqual([]);
  });

  test("is looked for by the question before, too", async () => {
    const { ports, calls } = portsOf({ hybrid: [near] });
    await titles(ports, { history: [{ question: "What are commits?", answer: "" }] });
    expect(calls.find(({ name }) => name === "hybrid_notes")?.args.query_text).toBe(
      "Why? or What are commits?",
    );
  });
});

describe("an answer", () => {
  test("shows as sources only what the model was shown", async () => {
    const rows = Array.from({ length: 20 }, (_, n) => rowOf(`row${n}`, { content: "word ".repeat(2_000) }));
    const { ports, asked } = portsOf({ hybrid: rows }, "Said [20] and [1].");
    const answer = await wholeAnswer(await ask(ports, QUESTION));
    expect(answer.sources).toHaveLength(4);
    expect(answer).toMatchObject({ answer: "Said  and [1].", cited: [1] });
    expect(asked).toHaveLength(1);
  });

  test("of a model that takes little fits into it", async () => {
    const rows = Array.from({ length: 6 }, (_, n) => rowOf(`row${n}`, { content: "word ".repeat(2_000) }));
    const { ports, asked, calls } = portsOf({ hybrid: rows });
    const { service } = ports;
    const small: AskPorts = {
      ...ports,
      service: async (name, args) =>
        name === "reembed_completion_model" ? { max_input_tokens: 2_048 } : service(name, args),
    };
    const history = Array.from({ length: 10 }, () => ({
      question: "x".repeat(400),
      answer: "y".repeat(400),
    }));
    await wholeAnswer(await ask(small, { ...QUESTION, question: "z".repeat(2_000), history }));
    expect(asked).toHaveLength(1);
    const begun = calls.find(({ name }) => name === "reembed_begin_completion")?.args;
    expect(begun?.input_tokens).toBeLessThanOrEqual(2_048);
  });

  test("without a model quotes the first passages, without what looks like a link or a citation", async () => {
    const rows = [
      rowOf("a", { content: "See https://evil.example [9]. Then [1] <img src=x> stop." }),
      rowOf("b"),
      rowOf("c"),
      rowOf("d"),
    ];
    const { ports } = portsOf({ hybrid: rows });
    expect(await wholeAnswer(await ask({ ...ports, model: undefined }, QUESTION))).toMatchObject({
      answer: "See (link removed) . Then stop. [1]\n\nThe text of b. [2]\n\nThe text of c. [3]",
      supported: true,
      answered: "extractive",
      reason: "not_configured",
      cited: [1, 2, 3],
    });
  });

  test("without rows asks nobody", async () => {
    const { ports, asked } = portsOf({ hybrid: [] });
    expect(await wholeAnswer(await ask(ports, QUESTION))).toMatchObject({
      supported: false,
      unsupported: "no_passage",
      sources: [],
    });
    expect(asked).toHaveLength(0);
  });

  test("that breaks for a reason nobody foresaw is an error event, and the stream ends", async () => {
    const { ports } = portsOf({ hybrid: [rowOf("a")] });
    const broken: ChatModel = {
      id: "openai/test",
      // biome-ignore lint/correctness/useYield: it fails before its first word
      async *stream() {
        throw new TypeError("a bug");
      },
    };
    const seen: unknown[] = [];
    const response = streamAnswer(await ask({ ...ports, model: broken }, QUESTION), {
      requestId: "id",
      onLeave: () => {},
      keepAlive: () => {},
      describe: (error) => {
        seen.push(error);
        return { error: { code: "internal_error" } };
      },
    });
    expect((await allEvents(response)).map(({ event }) => event)).toEqual(["sources", "error"]);
    expect(seen).toEqual([expect.any(TypeError)]);
  });
});
