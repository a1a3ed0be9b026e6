/**
 * Searching by spelling: which texts are taken for the same, what a typing error still finds, in which order, from which index, for whom, and what is refused.
 */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nodesDuring, watchingClient } from "../support/plans.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Random } from "../support/random.ts";
import { clusteredVectors, unit, vectorText } from "../support/vectors.ts";

const ROWS = 6_000;
const HNSW = "Index Scan using entries_embedding_idx";
const GIN = "Bitmap Index Scan using entries_words_idx";
const TRIGRAMS = "Bitmap Index Scan using entries_spelling_idx";
const CALL = "select headword, score from public.hybrid_entries($1, $2, $3)";

/** Words of two to five syllables, all different, diacritics among them. */
function inventedWords(count: number, random: Random): string[] {
  const words = new Set<string>();
  const syllable = () =>
    random.pick([..."bdghjklmnprstw", "ts", "ch", "ñ"]) + random.pick([..."aeiou", "á", "é", "ɨ", "ɨ́"]);
  while (words.size < count) words.add(Array.from({ length: random.between(2, 5) }, syllable).join(""));
  return [...words];
}

/** What it is typed like by somebody who has no such keys. */
const plain = (word: string) => word.normalize("NFD").replaceAll("ɨ", "i").replace(/\p{M}/gu, "");

/** One letter left out, doubled, mistyped or swapped with its neighbour. */
function mistyped(word: string, random: Random): string {
  const letters = [...word];
  const at = random.between(1, letters.length - 2);
  const kind = random.pick(["omit", "double", "swap", "other"]);
  const [letter = "", next = ""] = letters.slice(at);
  if (kind === "swap") letters.splice(at, 2, next, letter);
  else letters.splice(at, 1, ...(kind === "omit" ? [] : kind === "double" ? [letter, letter] : ["x"]));
  return letters.join("");
}

describePostgres("a search by spelling over many rows", () => {
  const random = new Random(61);
  let owner: Client;
  let watcher: Client;
  let words: string[];
  let vectors: string[];

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    await owner.query(`
      create table public.entries (id int primary key, headword text not null, kind text not null, gloss text not null, embedding extensions.vector(384));
      alter table public.entries enable row level security;
      create policy "anyone reads" on public.entries for select to anon using (true);
      grant select on public.entries to anon;
      create function public.entries_input(e public.entries) returns text language sql immutable set search_path = '' as 'select e.headword';
      select reembed.add_space('test', 'wide', 384);
      begin;
      select reembed.add_collection('entries', 'public.entries', array['id', 'headword'], filter_columns => array['kind']);
      select reembed.add_version('entries', 'test/wide@384', 'embedding', 'public.entries_input');
      commit;`);
    words = inventedWords(ROWS, random);
    vectors = clusteredVectors(ROWS, 384, { seed: 62 }).map(vectorText);
    await owner.query(
      `insert into public.entries select n, headword, case when n % 3 = 0 then 'verb' else 'noun' end, 'gloss' || n % 977, vector
         from unnest($1::text[], $2::extensions.vector[]) with ordinality g(headword, vector, n)`,
      [words, vectors],
    );
    await owner.query(`
      create index entries_embedding_idx on public.entries using hnsw (embedding extensions.vector_cosine_ops);
      create index entries_words_idx on public.entries using gin (to_tsvector('simple', gloss));
      create index entries_spelling_idx on public.entries using gin (public.fold_spelling((headword)) extensions.gin_trgm_ops);
      select reembed.set_lexical_search('entries', 'to_tsvector(''simple'', gloss)', 'simple');
      select reembed.set_spelling_search('entries', 'headword');
      analyze public.entries;`);
    watcher = await watchingClient(database.adminUrl);
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });
  const found = async (text: string, vector: string | null = null, count = 5): Promise<string[]> =>
    (await owner.query<{ headword: string }>(CALL, [text, vector, count])).rows.map(
      ({ headword }) => headword,
    );

  describe.each(["postgres", "anon"])("as %s", (role) => {
    beforeAll(() => watcher.query(`set role ${role}`));
    afterAll(() => watcher.query("reset role"));

    test.each([1, 10, 100])(
      "reads meaning, words and spelling each from its own index when %i rows are asked for",
      async (count) => {
        // No headword is spelt like this, so that like ones are looked for.
        const text = `${plain(words[10] ?? "")} or gloss12`;
        const nodes = await nodesDuring(watcher, CALL, [text, vectors[7], count]);
        for (const index of [HNSW, GIN, TRIGRAMS]) expect(nodes).toContain(index);
        expect(nodes).not.toContain("Seq Scan");
      },
    );

    test("does so under a filter, and in the sixth call as in the first", async () => {
      for (let call = 0; call < 6; call += 1) {
        const nodes = await nodesDuring(
          watcher,
          "select id from public.hybrid_entries($1, $2, 5, filter_kind => 'verb')",
          [`${words[call]} or gloss12`, vectors[call]],
        );
        for (const index of [HNSW, GIN, TRIGRAMS]) expect(nodes).toContain(index);
        expect(nodes).not.toContain("Seq Scan");
      }
    });

    test("does not look for the spelling of what is none: a sentence, signs alone, a list of weight 0", async () => {
      for (const text of ["una frase entera que nadie escribiría como entrada de un diccionario", "¿?", ""]) {
        expect(await nodesDuring(watcher, CALL, [text, vectors[1], 5])).not.toContain(TRIGRAMS);
      }
      const off = "select id from public.hybrid_entries($1, $2, 5, spelling_weight => 0)";
      expect(await nodesDuring(watcher, off, [words[1], vectors[1]])).not.toContain(TRIGRAMS);
    });
  });

  test("a word that is written as it stands comes first, before all that meaning and words find", async () => {
    for (let turn = 0; turn < 60; turn += 1) {
      const at = random.between(0, ROWS - 1);
      // The vector of another row, whose gloss is typed along with nothing of this one.
      expect((await found(words[at] ?? "", vectors[(at + 1) % ROWS] ?? null))[0]).toBe(words[at]);
    }
  });

  test("so does one typed without its diacritics, in capitals, in another normal form, or with blanks around", async () => {
    for (let turn = 0; turn < 60; turn += 1) {
      const word = words[random.between(0, ROWS - 1)] ?? "";
      const typed =
        [plain(word), plain(word).toUpperCase(), word.normalize("NFD"), `  ${word}\n`][turn % 4] ?? "";
      const first = (await found(typed, vectors[3] ?? null))[0] ?? "";
      expect(plain(first)).toBe(plain(word));
    }
  });

  test("of words that differ in diacritics alone the one that is written comes first", async () => {
    await owner.query(`insert into public.entries (id, headword, kind, gloss) values
      (10001, 'zuzá', 'tone', 'x'), (10002, 'zúza', 'tone', 'x'), (10003, 'zuza', 'tone', 'x'), (10004, 'zuzar', 'tone', 'x')`);
    // The like one is no answer to a word that stands there, and one to a word that does not.
    for (const word of ["zuzá", "zúza", "zuza"]) {
      const rows = await found(word, null, 4);
      expect(rows[0]).toBe(word);
      expect(rows.slice().sort()).toEqual(["zuza", "zuzá", "zúza"]);
    }
    expect(await found("zuzarr", null, 4)).toContain("zuzar");
    await owner.query("delete from public.entries where kind = 'tone'");
  });

  test("one typing error still finds nine of ten words of five letters and more among the first ten", async () => {
    const long = words.filter((word) => plain(word).length >= 5);
    let hits = 0;
    const tries = 200;
    for (let turn = 0; turn < tries; turn += 1) {
      const word = random.pick(long);
      if ((await found(mistyped(plain(word), random), null, 10)).includes(word)) hits += 1;
    }
    expect(hits / tries).toBeGreaterThanOrEqual(0.9);
  });

  test("a word of one or two letters is found where it stands, and only there", async () => {
    await owner.query(
      "insert into public.entries (id, headword, kind, gloss) values (10001, 'é', 'short', 'x'), (10002, 'ño', 'short', 'x')",
    );
    expect((await found("e"))[0]).toBe("é");
    expect((await found("no"))[0]).toBe("ño");
    await owner.query("delete from public.entries where kind = 'short'");
    expect(await found("q")).toEqual([]);
  });

  test.each([
    "%",
    "_",
    "\\",
    "a%",
    "%a%",
    "a_a",
    "\\%",
    "'; drop table entries; --",
    "$body$",
    "x".repeat(8_000),
    "🦘",
  ])("what is typed is no pattern: %j", async (text) => {
    const rows = await owner.query<{ headword: string; score: number }>(CALL, [text, null, 50]);
    // More than the weights together only for the very spelling, which none of these is.
    for (const { score } of rows.rows) expect(score).toBeLessThan(1);
  });

  test("a headword of such signs is found as it is", async () => {
    await owner.query(
      `insert into public.entries (id, headword, kind, gloss) values (10001, 'a_%\\b', 'sign', 'x'), (10002, 'axyzb', 'sign', 'x')`,
    );
    const { rows } = await owner.query<{ headword: string; score: number }>(CALL, ["a_%\\B", null, 5]);
    expect(rows[0]).toMatchObject({ headword: "a_%\\b" });
    expect(rows.filter(({ score }) => score > 1)).toHaveLength(1);
    await owner.query("delete from public.entries where kind = 'sign'");
  });

  test("the caller's own threshold is as it was, set or not, in the transaction and after it", async () => {
    const show = async () =>
      (await owner.query("select current_setting('pg_trgm.strict_word_similarity_threshold') as value"))
        .rows[0].value;
    await owner.query("begin");
    await found(words[5] ?? "");
    expect(await show()).toBe("0.5");
    await owner.query("set local pg_trgm.strict_word_similarity_threshold = 0.9");
    await found(words[6] ?? "");
    expect(await show()).toBe("0.9");
    await owner.query("rollback");
    expect(await show()).toBe("0.5");
  });

  test("finds what an exact count of trigrams finds, in its order", async () => {
    for (let turn = 0; turn < 20; turn += 1) {
      const typed = mistyped(plain(words[random.between(0, ROWS - 1)] ?? ""), random);
      const { rows } = await owner.query<{ headword: string }>(
        `select headword from (
           select id, headword, public.fold_spelling(headword) like public.fold_spelling($1) as same,
                  extensions.strict_word_similarity(public.fold_spelling($1), public.fold_spelling(headword)) as likeness,
                  extensions.similarity(public.fold_spelling($1), public.fold_spelling(headword)) as whole
             from public.entries offset 0) every
          where same or likeness >= 0.3 and not exists (select from public.entries e where public.fold_spelling(e.headword) = public.fold_spelling($1))
          order by same desc, likeness desc, whole desc, id limit 10`,
        [typed],
      );
      expect(await found(typed, null, 10)).toEqual(rows.map(({ headword }) => headword));
    }
  });
});

describePostgres("a search by spelling under row level security", () => {
  test("nobody finds by spelling what a policy hides, and a member finds all that it lets through", async () => {
    const MEMBER = "00000000-0000-4000-8000-000000000001";
    const owner = await connect((await createDatabase()).url);
    await owner.query(`
      create table public.notes (id int primary key, team int not null, body text not null, embedding extensions.vector(16));
      create table public.memberships (member uuid, team int, primary key (member, team));
      alter table public.notes enable row level security;
      alter table public.memberships enable row level security;
      grant select on public.notes, public.memberships to authenticated;
      create policy "members read their teams" on public.memberships for select to authenticated using (member = (select auth.uid()));
      create policy "members read their teams' notes" on public.notes for select to authenticated
        using (team in (select m.team from public.memberships m where m.member = (select auth.uid())));
      create function public.notes_input(n public.notes) returns text language sql immutable set search_path = '' as 'select n.body';
      insert into public.notes select n, case when n <= 3 then 7 else 1 end, 'secreto número ' || n from generate_series(1, 4000) n;
      insert into public.memberships values ('${MEMBER}', 7);
      create index on public.notes using gist (public.fold_spelling((body)) extensions.gist_trgm_ops);
      select reembed.add_space('test', 'sixteen', 16);
      begin;
      select reembed.add_collection('notes', 'public.notes', array['id', 'body']);
      select reembed.add_version('notes', 'test/sixteen@16', 'embedding', 'public.notes_input');
      commit;
      select reembed.set_spelling_search('notes', 'body');
      analyze public.notes;`);
    const ids = async (role: "authenticated" | "anon", text: string, sub = MEMBER) =>
      asRole(
        owner,
        role,
        async (caller) =>
          (
            await caller.query<{ id: number }>("select id from public.hybrid_notes($1, match_count => 10)", [
              text,
            ])
          ).rows
            .map(({ id }) => id)
            .sort(),
        { sub },
      );
    expect(await ids("authenticated", "secreto numero")).toEqual([1, 2, 3]);
    expect(await ids("authenticated", "Secreto Numero 2")).toContain(2);
    expect(await ids("authenticated", "secreto", "00000000-0000-4000-8000-000000000002")).toEqual([]);
    expect((await ids("authenticated", "secreto numero 3999")).every((id) => id <= 3)).toBe(true);
    expect(await ids("anon", "secreto")).toEqual([]);
    await owner.end();
  });
});

describePostgres("a spelling side", () => {
  let owner: Client;

  beforeAll(async () => {
    owner = await connect((await createDatabase()).url);
    await owner.query(`
      create table public.plants (genus text, "No" int, "Name" text not null, others text, embedding extensions.vector(16), primary key (genus, "No"));
      create function public.plants_input(p public.plants) returns text language sql immutable set search_path = '' as 'select p."Name"';
      insert into public.plants values ('a', 1, 'Ñame', E'camote\\nbatata'), ('a', 2, 'Yuca', null), ('b', 1, 'Maíz', 'choclo');
      select reembed.add_space('test', 'sixteen', 16);
      begin;
      select reembed.add_collection('plants', 'public.plants', array['Name']);
      select reembed.add_version('plants', 'test/sixteen@16', 'embedding', 'public.plants_input');
      commit;`);
  });
  afterAll(() => owner?.end());
  const set = (expression: string | null) =>
    owner.query("select reembed.set_spelling_search('plants', $1)", [expression]);

  test.each([
    ["none", null, /must be given/],
    ["another column", "nothing", /cannot be computed.*42703/],
    ["another syntax", `"Name") from public.plants; --`, /cannot be computed.*42601/],
    ["another type", `"No"`, /of type integer, not text/],
    ["an expression without an index", `"Name"`, /no trigram index of public.plants serves/],
    ["the end of a body", `"Name" -- $body$`, /\$body\$/],
  ])("%s is refused", async (_, expression, message) => {
    await expect(set(expression)).rejects.toMatchObject({
      code: "RE008",
      message: expect.stringMatching(message),
    });
    expect((await owner.query("select from pg_proc where proname like 'hybrid_plants%'")).rows).toEqual([]);
  });

  test("an index without the folding does not serve; the hint's statement makes one that does", async () => {
    await owner.query(`create index on public.plants using gin ("Name" extensions.gin_trgm_ops)`);
    const refusal = await set(`"Name"`).catch((error: { hint: string }) => error);
    const hint = (refusal as { hint: string }).hint;
    await owner.query(/Run, by itself: (.*)$/.exec(hint)?.[1] ?? "");
    await set(`"Name"`);
    const { rows } = await owner.query(`select "Name", similarity from public.hybrid_plants('name')`);
    expect(rows).toEqual([{ Name: "Ñame", similarity: null }]);
  });

  test("a side alone makes an RPC with its own weight alone, which later sides join", async () => {
    const parameters = async () =>
      (
        await owner.query<{ names: string[] }>(
          `select array(select n from unnest(proargnames) n where n like '%weight') as names from pg_proc where proname = 'hybrid_plants'`,
        )
      ).rows[0]?.names;
    expect(await parameters()).toEqual(["semantic_weight", "spelling_weight"]);
    await owner.query(`create index on public.plants using gin (to_tsvector('simple', "Name"))`);
    await owner.query(
      `select reembed.set_lexical_search('plants', 'to_tsvector(''simple'', "Name")', 'simple')`,
    );
    expect(await parameters()).toEqual(["full_text_weight", "semantic_weight", "spelling_weight"]);
    await expect(
      owner.query(
        "select * from public.hybrid_plants('x', full_text_weight => 0, semantic_weight => 0, spelling_weight => 0)",
      ),
    ).rejects.toMatchObject({ code: "RE004", message: expect.stringContaining("not all 0") });
    for (const weight of ["-1", "'NaN'", "null", "1001"]) {
      await expect(
        owner.query(`select * from public.hybrid_plants('x', spelling_weight => ${weight})`),
      ).rejects.toMatchObject({ code: "RE004" });
    }
  });

  test("each line of the expression is a spelling, under a key of several columns", async () => {
    const lines = `"Name" || E'\\n' || coalesce(others, '')`;
    await owner.query(
      `create index on public.plants using gin (public.fold_spelling((${lines})) extensions.gin_trgm_ops)`,
    );
    await set(lines);
    for (const [typed, name] of [
      ["BATATA", "Ñame"],
      ["camóte", "Ñame"],
      ["maiz", "Maíz"],
      ["choclos", "Maíz"],
    ]) {
      const { rows } = await owner.query(`select "Name" from public.hybrid_plants($1)`, [typed]);
      expect(rows[0]).toEqual({ Name: name });
    }
    const vector = vectorText(unit([1, ...Array<number>(15).fill(0)]));
    await owner.query(`update public.plants set embedding = $1 where "Name" = 'Yuca'`, [vector]);
    const { rows } = await owner.query(`select "Name" from public.hybrid_plants('batata', $1)`, [vector]);
    expect(rows.map(({ Name }) => Name)).toEqual(["Ñame", "Yuca"]);
  });

  test("fold_spelling gives equal texts for what is typed alike, in any session", async () => {
    const fold = async (text: string) =>
      (await owner.query<{ folded: string }>("select public.fold_spelling($1) as folded", [text])).rows[0]
        ?.folded;
    for (const [text, folded] of [
      ["Ñandú", "nandu"],
      ["n\u0303andu\u0301", "nandu"],
      ["ɨ́mɨ", "imi"],
      ["  Œuvre ", "oeuvre"],
      ["’a", "'a"],
      ["日本", "日本"],
      ["", ""],
    ]) {
      expect(await fold(text ?? "")).toBe(`\n${folded}\n`);
    }
    await owner.query("set search_path = ''");
    expect(await fold("Ñandú")).toBe("\nnandu\n");
    await owner.query("reset search_path");
  });
});
