/** Whether the next index build fits into the memory that it will be given: past that pgvector builds on disk, several times slower. */
import type { Rule } from "./rule.ts";

const MB = 1_048_576;

export const indexMemory: Rule = {
  number: 8,
  name: "index-memory",
  async check({ db }) {
    const waiting = await db.query<{ name: string; role: string; needed: number; given: number }>(
      `select format('%s v%s', c.name, v.number) as name, quote_ident(current_user) as role,
              (p.plan ->> 'graph_bytes')::float8 as needed, (p.plan ->> 'memory_bytes')::float8 as given
         from reembed.versions v join reembed.collections c on c.id = v.collection_id, reembed.index_plan(c.name, v.number) p(plan)
        where v.state in ('prepared', 'loading', 'indexing') and reembed.is_intact(v) and not reembed.has_index(v)
          and not (p.plan -> 'fits' -> 'memory')::boolean order by 1`,
    );
    return waiting.map(({ name, role, needed, given }) => ({
      level: "warning",
      object: name,
      message: `its index needs about ${Math.ceil(needed / MB)} MB to be built in memory, and is given ${Math.round(given / MB)} MB: the build goes on on disk, several times slower`,
      fix: `alter role ${role} set maintenance_work_mem = '${Math.ceil((needed * 1.1) / MB)}MB';`,
    }));
  },
};
