/**
 * What searching by words and by spelling beside meaning costs: the hybrid RPC against the match RPC on the same rows and queries, and against the hybrid
 * search of Supabase's documentation, which ranks by distance in a window over the whole table. The bars: at most three times the match RPC.
 * Vectors are 768 wide, so that 50,000 rows are indexed within a minute; wider ones make the part that both have in common dearer, and the ratio smaller.
 */
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { clusteredVectors, seededRandom, vectorText } from "../test/support/vectors.ts";
import { atMost, type Benchmark, interleaved, median, medianFigure, rounded } from "./measure.ts";

const DIMENSIONS = 768;
const VOCABULARY = 20_000;
const WORDS_A_ROW = 60;
const QUERIES = 20;
/** The documented form takes up to a second a query. */
const DOCUMENTED_QUERIES = 4;
const ROUNDS = 9;
const CHUNK = 5_000;

/** The tsvector is stored, as the documentation has it; an index on the expression instead is measured beside it. */
const SCHEMA = `
  create table public.stored (id bigint primary key, headword text not null, body text not null, embedding extensions.vector(${DIMENSIONS}),
    words tsvector generated always as (to_tsvector('english', body)) stored);
  create function reembed.stored_input(r public.stored) returns text language sql immutable set search_path = '' as 'select r.body';`;

/** The query of Supabase's guide to hybrid search, with cosine distance. */
const DOCUMENTED = `
  with full_text as (
    select id, row_number() over (order by ts_rank_cd(words, websearch_to_tsquery('english', $1)) desc) as rank_ix
      from public.stored where words @@ websearch_to_tsquery('english', $1) order by rank_ix limit 10),
  semantic as (
    select id, row_number() over (order by embedding operator(extensions.<=>) $2::extensions.vector) as rank_ix
      from public.stored order by rank_ix limit 10)
  select stored.id from full_text full outer join semantic on full_text.id = semantic.id
    join public.stored on coalesce(full_text.id, semantic.id) = stored.id
   order by coalesce(1.0 / (60 + full_text.rank_ix), 0.0) + coalesce(1.0 / (60 + semantic.rank_ix), 0.0) desc limit 5`;

/** Word number n of the vocabulary, drawn as in a language: the n-th stands in about 1/n of the rows that the first stands in. */
function someWord(random: () => number): number {
  return Math.floor(VOCABULARY ** random());
}

/** Letters alone, so that the parser takes it for one word and the stemmer leaves it. */
const wordOf = (n: number) =>
  `q${n.toString(26).replace(/\d/g, (digit) => "qrstuvwxyz"[Number(digit)] ?? "")}x`;

/** A word of two to five syllables, a third of them with a diacritic. */
function headword(random: () => number): string {
  const pick = (letters: string) => letters[Math.floor(random() * letters.length)] ?? "";
  return Array.from(
    { length: 2 + Math.floor(random() * 4) },
    () => `${pick("bdghjklmnñprstw")}${pick("aeiouáéíú")}`,
  ).join("");
}

/** Without its diacritics, and with one error: in turn two neighbours swapped, a letter left out, one doubled, another one typed. */
function mistyped(word: string, n: number): string {
  const letters = [...word.normalize("NFD").replace(/\p{M}/gu, "")];
  const at = 1 + (n % (letters.length - 2));
  const [letter = "", next = ""] = letters.slice(at);
  const [taken, put] = [
    [2, [next, letter]],
    [1, []],
    [1, [letter, letter]],
    [1, ["x"]],
  ][n % 4] as [number, string[]];
  letters.splice(at, taken, ...put);
  return letters.join("");
}

export const hybrid: Benchmark = async (server, rows = 50_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      await client.query(SCHEMA);
      const random = seededRandom(7);
      const vectors = clusteredVectors(rows + QUERIES, DIMENSIONS, { seed: 8, clusters: 200 });
      const queryVectors = vectors.splice(rows).map(vectorText);
      const spelling = seededRandom(9);
      const headwords = Array.from({ length: rows }, () => headword(spelling));
      for (let from = 0; from < rows; from += CHUNK) {
        const some = vectors.slice(from, from + CHUNK);
        await client.query(
          `insert into public.stored (id, headword, body, embedding)
           select $3 + n, headword, body, vector::extensions.vector from unnest($1::text[], $2::text[], $4::text[]) with ordinality g(body, vector, headword, n)`,
          [
            some.map(() => Array.from({ length: WORDS_A_ROW }, () => wordOf(someWord(random))).join(" ")),
            some.map(vectorText),
            from,
            headwords.slice(from, from + CHUNK),
          ],
        );
      }
      await client.query("set maintenance_work_mem = '512MB'");
      await client.query("create index on public.stored using hnsw (embedding extensions.vector_cosine_ops)");
      await client.query("create index on public.stored using gin (words)");
      await client.query("create index on public.stored using gin (to_tsvector('english', body))");
      await client.query(
        "create index on public.stored using gin (public.fold_spelling((headword)) extensions.gin_trgm_ops)",
      );
      await client.query("vacuum analyze public.stored");
      await client.query(`
        begin;
        select reembed.add_space('test', 'narrow', ${DIMENSIONS});
        select reembed.add_collection('stored', 'public.stored', array['id', 'body']);
        select reembed.add_version('stored', 'test/narrow@${DIMENSIONS}', 'embedding', 'reembed.stored_input');
        commit;`);

      // A word of less than one row in a hundred or a rarer one, as a query's telling words are; a word of every twentieth row; one of every other.
      const usual = queryVectors.map((_, n) => `${wordOf(800 + n)} or ${wordOf(9_000 + n)}`);
      const frequent = queryVectors.map((_, n) => wordOf(100 + n));
      const common = queryVectors.map((_, n) => wordOf(2 + n));
      const each =
        (sql: string, texts: readonly string[] | null, queries = QUERIES) =>
        async () => {
          for (const [n, vector] of queryVectors.slice(0, queries).entries()) {
            await client.query(sql, texts === null ? [vector] : [texts[n], vector]);
          }
        };
      const match = each("select id from public.match_stored($1, null, 5)", null);
      const HYBRID = "select id from public.hybrid_stored($1, $2, 5)";

      await client.query("select reembed.set_lexical_search('stored', 'words', 'english')");
      const stored = await interleaved(
        { match, usual: each(HYBRID, usual), frequent: each(HYBRID, frequent), common: each(HYBRID, common) },
        ROUNDS,
      );
      const { documented } = await interleaved(
        { documented: each(DOCUMENTED, usual, DOCUMENTED_QUERIES) },
        3,
      );
      await client.query(
        "select reembed.set_lexical_search('stored', 'to_tsvector(''english'', body)', 'english')",
      );
      const expression = await interleaved(
        { usual: each(HYBRID, usual), frequent: each(HYBRID, frequent), common: each(HYBRID, common) },
        3,
      );
      const rowsWith = async (texts: readonly string[]) => {
        const {
          rows: [found],
        } = await client.query<{ average: number }>(
          `select avg((select count(*) from public.stored where words @@ websearch_to_tsquery('english', q)))::float as average
             from unnest($1::text[]) q`,
          [texts],
        );
        return Math.round(found?.average ?? 0);
      };
      await client.query("select reembed.set_lexical_search('stored', 'words', 'english')");
      await client.query("select reembed.set_spelling_search('stored', 'headword')");
      const asked = queryVectors.map((_, n) => headwords[(n * 2_477) % rows] ?? "");
      const typed = asked.map(mistyped);
      const spelt = await interleaved(
        { match, exact: each(HYBRID, asked), mistyped: each(HYBRID, typed), sentence: each(HYBRID, usual) },
        ROUNDS,
      );
      let found = 0;
      for (const [n, text] of typed.entries()) {
        const { rows: first } = await client.query<{ id: string }>(
          "select id from public.hybrid_stored($1, match_count => 10)",
          [text],
        );
        if (first.some(({ id }) => headwords[Number(id) - 1] === asked[n])) found += 1;
      }
      const perQuery = (samples: readonly number[], meaning: string) =>
        medianFigure(samples, meaning, QUERIES);
      const documentedOverHybrid =
        ((median(documented) / DOCUMENTED_QUERIES) * QUERIES) / median(stored.usual);
      return {
        about:
          "Searching by words and by spelling beside meaning: the hybrid RPC against the match RPC on the same rows and queries, and against the hybrid search of Supabase's documentation. Each time is of one query.",
        data: `Texts of ${WORDS_A_ROW} words drawn from ${VOCABULARY} as in a language, seed 7; vectors around 200 centres by clusteredVectors of test/support/vectors.ts, seed 8.`,
        rows,
        figures: {
          dimensions: [DIMENSIONS, "of the vectors"],
          match_ms: perQuery(stored.match, "the match RPC: by meaning alone"),
          hybrid_ms: perQuery(stored.usual, "the hybrid RPC, for a query of two telling words"),
          rows_with_the_words: [await rowsWith(usual), "rows with one of the two words, on average"],
          documented_ms: medianFigure(
            documented,
            "the hybrid search as Supabase documents it, for the same queries",
            DOCUMENTED_QUERIES,
          ),
          documented_over_hybrid: [
            rounded(documentedOverHybrid),
            "how much longer that takes than the hybrid RPC",
          ],
          frequent_words_ms: perQuery(stored.frequent, "the hybrid RPC, for a frequent word"),
          rows_with_frequent_words: [await rowsWith(frequent), "rows with that word, on average"],
          exact_headword_ms: perQuery(
            spelt.exact,
            "the hybrid RPC by meaning, words and spelling, for a headword as it stands",
          ),
          mistyped_headword_ms: perQuery(
            spelt.mistyped,
            "the same for a headword without its diacritics and with one typing error, four kinds in turn",
          ),
          mistyped_found: [
            found / QUERIES,
            "of those headwords, the share among the first ten rows by words and spelling alone",
          ],
          two_words_by_all_ms: perQuery(spelt.sentence, "the same for the query of two telling words"),
          common_words_ms: perQuery(stored.common, "the hybrid RPC, for one of the commonest words"),
          rows_with_common_words: [await rowsWith(common), "rows with that word, on average"],
          expression_index_ms: perQuery(
            expression.usual,
            "two telling words, where the words are an index on the expression instead of a stored column",
          ),
          expression_index_frequent_words_ms: perQuery(expression.frequent, "a frequent word, there"),
          expression_index_common_words_ms: perQuery(expression.common, "one of the commonest words, there"),
        },
        bars: [
          atMost(
            "time of the hybrid search relative to the semantic one",
            median(stored.usual) / median(stored.match),
            3,
          ),
          atMost(
            "time of the search by meaning, words and spelling, for headwords as they stand or mistyped, relative to the semantic one",
            Math.max(median(spelt.exact), median(spelt.mistyped)) / median(spelt.match),
            3,
          ),
        ],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};
