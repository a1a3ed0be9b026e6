/** The batches of a version as the batch lane sees them: the database's functions, typed. What they guarantee is written in the SQL. */
import type { LongTextPolicy } from "./long-text.ts";
import type { Claim, Outcomes } from "./queue.ts";

/** A batch that this process drives. */
export interface DrivenBatch {
  readonly id: string;
  readonly state: "gathering" | "uploaded" | "submitted";
  readonly input_file_id: string | null;
  readonly provider_id: string | null;
  readonly long_text: LongTextPolicy;
  /** When it was begun, in seconds since 1970. */
  readonly created_s: number;
  /** Since the provider was asked to begin, in milliseconds; null where it never was. */
  readonly asked_ms_ago: number | null;
  readonly rows: number;
}

/** A batch that is not closed, for whoever watches. */
export interface OpenBatch {
  readonly id: string;
  readonly state: DrivenBatch["state"];
  readonly provider_status: string | null;
  readonly requests: number;
  readonly requests_done: number;
  readonly requests_failed: number;
  readonly rows: number;
}

export interface BatchText {
  readonly row_id: string;
  readonly hash: string;
  readonly input: string;
}

export interface BatchRow {
  readonly row_id: string;
  readonly hash: string;
  /** An estimate. */
  readonly tokens: number;
}

/** A row's vector, or why it has none. */
export interface BatchResult {
  readonly row_id: string;
  readonly vector: readonly number[] | null;
  readonly skipped: string | null;
  /** What the provider charged for the text, at one of the rows that have it; else null. */
  readonly billed: number | null;
}

/** How a row ends without a vector: see `reembed.end_batch_rows`. */
export type RowEnd = "returned" | "busy" | "refused" | "failed" | "lost";

/** How many rows of a closed batch had each end. */
export type BatchCounts = Partial<
  Record<RowEnd | "done" | "skipped" | "stale" | "lost_lease" | "gone", number>
>;

/** What a claim for a batch answers. `claim` holds no jobs but what is to be copied. */
export interface Gathered {
  readonly claim: Claim;
  readonly rows: number;
  readonly tokens: number;
}

/** One version's batches, moved on by one driver: this process. */
export interface BatchStore {
  open(): Promise<readonly OpenBatch[]>;
  /** Jobs that a batch could take, and when the first of them is due. */
  work(): Promise<{ readonly rows: number; readonly due_in_ms: number | null }>;
  /** A new batch to gather; null where one is being prepared already. */
  start(): Promise<string | null>;
  /** Drives a batch, or goes on driving it; null where another process does. */
  take(id: string): Promise<DrivenBatch | null>;
  leave(id: string): Promise<void>;
  gather(id: string, maxRows: number, maxTokens: number): Promise<Gathered>;
  /** A page of texts; null where another process drives the batch by now. */
  texts(
    id: string,
    after: string | null,
  ): Promise<{ texts: readonly BatchText[]; last: string | null } | null>;
  noteUpload(
    id: string,
    fileId: string,
    requests: number,
    truncatedRows: readonly string[],
  ): Promise<boolean>;
  /** False: the provider must not be asked. */
  noteAsked(id: string): Promise<boolean>;
  /** False: the batch has another id at the provider already. */
  noteSubmitted(id: string, providerId: string, expiresAt: number | undefined): Promise<boolean>;
  noteStatus(id: string, status: string, done: number, failed: number): Promise<void>;
  openRows(id: string, after: string | null): Promise<readonly BatchRow[]>;
  store(id: string, results: readonly BatchResult[], options: { wait: boolean }): Promise<Outcomes>;
  end(
    id: string,
    rowIds: readonly string[],
    end: RowEnd,
    error: string | null,
    billed?: readonly (number | null)[],
  ): Promise<void>;
  /** Ends some of the rows that have no end yet; returns how many. */
  endRest(id: string, end: RowEnd, error: string | null): Promise<number>;
  /** Settles it. Null where somebody else has closed it. */
  close(id: string, outcome: string): Promise<BatchCounts | null>;
  pauseSpace(reason: string): Promise<void>;
}
