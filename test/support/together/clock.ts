/**
 * A clock for a test's own database that can be set. Every function of ours that asks for the time, and every column that begins with it, asks this
 * clock from then on; nothing else of them changes.
 */
import type { ClientBase } from "pg";

const CLOCK = /(?<![\w.])(?:pg_catalog\.)?(clock_timestamp|now)\(\)/g;
/** Ways of asking for the time that the clock does not know how to replace. */
const OTHERS =
  /\b(?:statement_timestamp|transaction_timestamp|timeofday)\(|\b(?:current_timestamp|localtimestamp|current_date|current_time)\b/i;

export interface Clock {
  /** How many functions and columns ask it. */
  readonly asked: number;
  /** Sets it on, or back where the seconds are negative. */
  jump(seconds: number): Promise<void>;
}

/**
 * Puts the clock in. Functions that are made later from the texts of these ask it as well.
 * @param client the owner of the functions, outside any transaction; the one that later sets the clock
 * @throws when one of them asks for the time in a way that would go past the clock
 */
export async function installClock(client: ClientBase): Promise<Clock> {
  await client.query(`
    create schema test_clock;
    grant usage on schema test_clock to public;
    create table test_clock.shift (by interval not null);
    insert into test_clock.shift values ('0');
    create function test_clock.clock_timestamp() returns timestamptz language sql volatile security definer set search_path = pg_catalog, pg_temp
      as 'select clock_timestamp() + s.by from test_clock.shift s';
    create function test_clock.now() returns timestamptz language sql stable security definer set search_path = pg_catalog, pg_temp
      as 'select now() + s.by from test_clock.shift s';`);
  const { rows: functions } = await client.query<{ definition: string }>(
    `select pg_get_functiondef(p.oid) as definition from pg_proc p
      where p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace) and p.prokind = 'f'
        and not exists (select from pg_depend d where d.objid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'e')`,
  );
  let asked = 0;
  for (const { definition } of functions) {
    if (OTHERS.test(definition)) throw new Error(`this function goes past the clock:\n${definition}`);
    const changed = definition.replace(CLOCK, "test_clock.$1()");
    if (changed === definition) continue;
    await client.query(changed);
    asked += 1;
  }
  const { rows: defaults } = await client.query<{ owner: string; column: string; expression: string }>(
    `select d.adrelid::regclass::text as owner, quote_ident(a.attname) as column, pg_get_expr(d.adbin, d.adrelid) as expression
       from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum join pg_class c on c.oid = d.adrelid
      where c.relnamespace = 'reembed'::regnamespace and a.attgenerated = ''`,
  );
  for (const { owner, column, expression } of defaults) {
    const changed = expression.replace(CLOCK, "test_clock.$1()");
    if (changed === expression) continue;
    await client.query(`alter table ${owner} alter column ${column} set default ${changed}`);
    asked += 1;
  }
  return {
    asked,
    async jump(seconds) {
      await client.query("update test_clock.shift set by = by + make_interval(secs => $1)", [seconds]);
    },
  };
}
