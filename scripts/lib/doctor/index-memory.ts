/** Whether the next index build fits into memory: past maintenance_work_mem pgvector builds on disk, several times slower. */
import { diskOf, type VectorType } from "../disk.ts";
import type { Rule } from "./rule.ts";

const MB = 1_048_576;

export const indexMemory: Rule = {
  number: 8,
  name: "index-memory",
  async check({ db }) {
    const waiting = await db.query<{
      name: string;
      role: string;
      rows: number;
      type: VectorType;
      dimensions: number;
      memory: number;
    }>(
      `select format('%s v%s', c.name, v.number) as name, quote_ident(current_user) as role, a.atttypmod as dimensions,
              case when format_type(a.atttypid, null) ~ 'halfvec' then 'halfvec' else 'vector' end as type,
              case when reembed.is_intact(v) then coalesce(reembed.table_rows(c), (select greatest(x.reltuples, 0) from pg_class x where x.oid = c.source_table), 0) end::float8 as rows,
              pg_size_bytes(current_setting('maintenance_work_mem'))::float8 as memory
         from reembed.versions v join reembed.collections c on c.id = v.collection_id
         join pg_attribute a on a.attrelid = v.vector_table and a.attname = v.vector_column and not a.attisdropped
        where v.state in ('prepared', 'loading', 'indexing') and reembed.is_intact(v) and not reembed.has_index(v) order by 1`,
    );
    return waiting.flatMap(({ name, role, rows, type, dimensions, memory }) => {
      const needed = diskOf(rows, type, dimensions).indexBytes;
      if (needed <= memory) return [];
      const megabytes = Math.ceil((needed * 1.1) / MB);
      return {
        level: "warning",
        object: name,
        message: `its index needs about ${Math.ceil(needed / MB)} MB to be built in memory, and maintenance_work_mem is ${Math.round(memory / MB)} MB: the build goes on on disk, several times slower`,
        fix: `alter role ${role} set maintenance_work_mem = '${megabytes}MB';`,
      } as const;
    });
  },
};
