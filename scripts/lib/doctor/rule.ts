/** What a rule of `reembed doctor` is, and what it finds. Each rule has a number, a section of the same number in docs/doctor.md and a test. */
import { readFile } from "node:fs/promises";
import type { Embedder, Space } from "../../../supabase/functions/_shared/embedder.ts";
import type { Database } from "../connection.ts";
import type { VersionEntry } from "../targets.ts";

/** error: something fails, is lost or is open to others; warning: something will, or costs more than it must; info: worth knowing. */
export type Level = "error" | "warning" | "info";

export interface Finding {
  readonly level: Level;
  /** What it is about: a version, a function, a role, a file. */
  readonly object: string;
  readonly message: string;
  /** What to do: an SQL text where one will do. */
  readonly fix: string;
}

/** What rules look at. */
export interface Patient {
  readonly db: Database;
  /** Also what reads every row of a large table. */
  readonly full: boolean;
  /** Whether providers may be asked: that costs some ten tokens a space. */
  readonly provider: boolean;
  /** The folder of the project whose files are looked at. */
  readonly project: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The versions that are not retired. */
  readonly versions: readonly VersionEntry[];
  readonly embedderFor: (space: Space) => Embedder;
  /** The space's vector of the fixed text, or why there is none; asked once. */
  readonly ask: (space: Space) => Promise<Asked>;
}

/** What became of one request to a provider. */
export type Asked =
  | { readonly vector: readonly number[] }
  | { readonly skipped: string }
  | { readonly refused: { readonly message: string; readonly hint: string } };

/** What a rule says: its findings, or why it cannot be checked here. */
export type Verdict = readonly Finding[] | { readonly skipped: string };

export interface Rule {
  readonly number: number;
  readonly name: string;
  readonly check: (patient: Patient) => Promise<Verdict>;
}

/**
 * A key of OpenAI's, a secret key of Supabase's, or a JWT whose payload says service_role (in each of base64's three alignments). Read alike by
 * PostgreSQL and JavaScript.
 */
export const SECRET =
  "sk-[A-Za-z0-9_-]{20,}|sb_secret_[A-Za-z0-9_-]{10,}|eyJ[A-Za-z0-9_-]*[.][A-Za-z0-9_-]*(c2VydmljZV9yb2xl|zZXJ2aWNlX3JvbGU|NlcnZpY2Vfcm9sZ)";

/** What a rule's SQL may need that is not everywhere, or not everybody's to read. */
const NEEDS = {
  cron: { extension: "pg_cron", schema: "cron", table: "cron.job" },
  net: { extension: "pg_net", schema: "net", table: "net._http_response" },
} as const;

/**
 * A rule that is one SQL text, in scripts/doctor/<number>_<name>.sql. It returns level, object, message and fix.
 * @param options.secret whether its $1 is the pattern of a key
 */
export function sqlRule(
  number: number,
  name: string,
  { needs, secret = false }: { readonly needs?: keyof typeof NEEDS; readonly secret?: boolean } = {},
): Rule {
  const file = `${String(number).padStart(2, "0")}_${name}.sql`;
  return {
    number,
    name,
    async check({ db }) {
      if (needs !== undefined) {
        const { extension, schema, table } = NEEDS[needs];
        const [row] = await db.query<{ there: boolean; readable: boolean }>(
          `select to_regnamespace($1) is not null as there,
                  case when has_schema_privilege(to_regnamespace($1)::oid, 'usage') then has_table_privilege(to_regclass($2)::oid, 'select') end is true as readable`,
          [schema, table],
        );
        if (!row?.there) return { skipped: `${extension} is not installed here` };
        if (!row.readable) return { skipped: `${table} is not this role's to read` };
      }
      const sql = await readFile(new URL(`../../doctor/${file}`, import.meta.url), "utf8");
      return db.query<{ [Column in keyof Finding]: Finding[Column] }>(sql, secret ? [SECRET] : []);
    },
  };
}
