/** A writer of the hammered table: everything that an application does to rows, to those that are its own, so that writers never meet. */
import type { Client } from "pg";
import type { Random } from "../random.ts";
import { COLLECTION, type Note, writeText } from "./table.ts";

interface Statement {
  readonly sql: string;
  readonly values: readonly unknown[];
}

export interface WriterPorts {
  readonly client: Client;
  readonly random: Random;
  readonly shelves: readonly string[];
  /** The vector columns that whole rows are written back with. */
  readonly columns: () => readonly string[];
  readonly onFault: (fault: string) => void;
}

export class Writer {
  readonly #ports: WriterPorts;
  readonly #least: number;
  /** What is committed. */
  #notes: Note[];

  constructor(ports: WriterPorts, notes: readonly Note[]) {
    this.#ports = ports;
    this.#notes = [...notes];
    this.#least = Math.ceil(notes.length / 2);
  }

  /** One transaction: a single statement, or up to four between `begin` and `commit` or `rollback`. */
  async write(): Promise<void> {
    const { client, random, onFault } = this.#ports;
    const notes = [...this.#notes];
    try {
      if (random.chance(0.6)) {
        await this.#send(this.#statement(notes));
        this.#notes = notes;
        return;
      }
      await client.query("begin");
      for (let left = random.between(2, 4); left > 0; left -= 1) await this.#send(this.#statement(notes));
      const keeps = random.chance(0.8);
      await client.query(keeps ? "commit" : "rollback");
      if (keeps) this.#notes = notes;
    } catch (error) {
      onFault(`a write failed: ${String(error)}`);
      await client.query("rollback");
    }
  }

  async #send({ sql, values }: Statement): Promise<void> {
    await this.#ports.client.query(sql, [...values]);
  }

  /** A statement, after which the notes are these. */
  #statement(notes: Note[]): Statement {
    const { random, shelves, columns } = this.#ports;
    const at = random.between(0, notes.length - 1);
    const note = notes[at];
    if (note === undefined) throw new Error("a writer has no notes left");
    const { id } = note;
    const text = writeText(random);
    const kind = random.weighted({
      insert: 2,
      edit: 5,
      plain: 1,
      upsert: 3,
      delete: notes.length > this.#least ? 2 : 0,
    });
    switch (kind) {
      case "insert": {
        const added = { id: crypto.randomUUID(), shelf: random.pick(shelves), ...text };
        notes.push(added);
        return {
          sql: `insert into public.${COLLECTION} (id, shelf, title, body) values ($1, $2, $3, $4)`,
          values: [added.id, added.shelf, added.title, added.body],
        };
      }
      case "edit":
        notes[at] = { ...note, ...text };
        return {
          sql: `update public.${COLLECTION} set title = $2, body = $3 where id = $1`,
          values: [id, text.title, text.body],
        };
      case "plain":
        return {
          sql: `update public.${COLLECTION} set note = $2 where id = $1`,
          values: [id, text.title],
        };
      case "upsert": {
        // As a client sends a whole row back, with no vector: half of the time without any change of its text.
        const column = random.pick(columns());
        const written = random.chance(0.5) ? note : { ...note, ...text };
        notes[at] = written;
        return {
          sql: `insert into public.${COLLECTION} (id, shelf, title, body, ${column}) values ($1, $2, $3, $4, null)
                on conflict (id) do update set title = excluded.title, body = excluded.body, ${column} = excluded.${column}`,
          values: [id, written.shelf, written.title, written.body],
        };
      }
      case "delete":
        notes.splice(at, 1);
        return { sql: `delete from public.${COLLECTION} where id = $1`, values: [id] };
    }
  }
}
