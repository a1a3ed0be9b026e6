/** What a statement did inside: which plans ran, as auto_explain tells them, and how many rows it read. */
import type { Client } from "pg";
import { expect } from "vitest";
import { connect } from "./postgres.ts";

interface Plan {
  readonly "Node Type": string;
  readonly "Index Name"?: string;
  readonly "Actual Loops"?: number;
  readonly Plans?: readonly Plan[];
}

/** The node types that ran, from the root down, with the index where there is one. */
function nodesOf(plan: Plan): string[] {
  if (plan["Actual Loops"] === 0) return [];
  const index = plan["Index Name"];
  const name = index === undefined ? plan["Node Type"] : `${plan["Node Type"]} using ${index}`;
  return [name, ...(plan.Plans ?? []).flatMap(nodesOf)];
}

/** A superuser's session in which auto_explain reports what ran, nested statements too. */
export async function watchingClient(url: string): Promise<Client> {
  const client = await connect(url);
  await client.query(`
    load 'auto_explain';
    set auto_explain.log_min_duration = 0;
    set auto_explain.log_analyze = on;
    set auto_explain.log_nested_statements = on;
    set auto_explain.log_format = json;
    set auto_explain.log_level = notice;`);
  return client;
}

/** What ran inside an RPC, of all its statements. `client` is a watching one. */
export async function nodesDuring(
  client: Client,
  sql: string,
  parameters: readonly unknown[],
): Promise<string[]> {
  const nodes: string[][] = [];
  const listen = (notice: { message?: string | undefined }) => {
    const json = /plan:\s*(\{[\s\S]*)$/.exec(notice.message ?? "")?.[1];
    if (json === undefined) return;
    const parsed: { "Query Text": string; Plan: Plan } = JSON.parse(json);
    if (parsed["Query Text"] !== sql) nodes.push(nodesOf(parsed.Plan));
  };
  client.on("notice", listen);
  await client.query(sql, [...parameters]);
  client.off("notice", listen);
  expect(nodes).not.toEqual([]);
  return nodes.flat();
}

/** Rows of jobs and records that one call reads. The counters are the session's own; they are flushed only between transactions. */
export async function rowsRead<T>(
  client: Client,
  call: () => Promise<T>,
): Promise<{ answer: T; read: number }> {
  const count = async () => {
    const { rows } = await client.query<{ read: number }>(
      `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int as read from pg_stat_xact_user_tables
        where schemaname = 'reembed' and relname in ('jobs', 'records')`,
    );
    return rows[0]?.read ?? Number.NaN;
  };
  await client.query("begin");
  const before = await count();
  const answer = await call();
  const read = (await count()) - before;
  await client.query("commit");
  return { answer, read };
}
