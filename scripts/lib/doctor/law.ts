/** Law 2, counted: rows that are neither current nor queued, and what is left of rows that are gone. */
import type { Finding, Rule } from "./rule.ts";

/** Above so many rows in all, only `--full` reads them. */
const MOST_ROWS = 100_000;

export const law: Rule = {
  number: 21,
  name: "law",
  async check({ db, full }) {
    const [size] = await db.query<{ rows: number }>(
      `select coalesce(sum(greatest(x.reltuples, pg_relation_size(x.oid) / 8192)), 0)::float8 as rows
         from reembed.versions v join reembed.collections c on c.id = v.collection_id join pg_class x on x.oid = c.source_table where v.maintained`,
    );
    if (!full && (size?.rows ?? 0) > MOST_ROWS) {
      return {
        skipped: `it reads every row of every maintained version, some ${Math.round(size?.rows ?? 0).toLocaleString("en")}: --full does`,
      };
    }
    const findings: Finding[] = [];
    // Of a table that is gone the rule registry tells.
    const violations = await db.query<{ collection: string; version: number; problem: string; rows: number }>(
      `select collection, version, problem, count(*)::float8 as rows from reembed.violations()
        where problem <> 'its table or its vector column is gone' group by 1, 2, 3 order by 1, 2, 3`,
    );
    for (const { collection, version, problem, rows } of violations) {
      findings.push({
        level: "error",
        object: `${collection} v${version}`,
        message: `${rows} rows are neither current nor queued: ${problem}`,
        fix: `select reembed.reconcile('${collection}');`,
      });
    }
    const leftovers = await db.query<{ name: string; collection: string; sql: string }>(
      `select format('%s v%s', c.name, v.number) as name, c.name as collection,
              format('select (select count(*) from reembed.jobs o where o.version_id = %1$s and not exists (select from %2$s t where %3$s))
                           + (select count(*) from reembed.records o where o.version_id = %1$s and not exists (select from %2$s t where %3$s)) as rows',
                     v.id, c.source_table, reembed.key_match(c, c.key_columns, 't', 'o.row_id')) as sql
         from reembed.versions v join reembed.collections c on c.id = v.collection_id where v.maintained and reembed.is_intact(v) order by 1`,
    );
    for (const { name, collection, sql } of leftovers) {
      const [row] = await db.query<{ rows: string }>(sql);
      if (row === undefined || row.rows === "0") continue;
      findings.push({
        level: "warning",
        object: name,
        message: `${row.rows} jobs and records are of rows that are gone`,
        fix: `select reembed.reconcile('${collection}');`,
      });
    }
    return findings;
  },
};
