/** The results that stand in the repository: one file for each benchmark, written by its last run at full size. */
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { type Machine, machineSchema } from "./machine.ts";
import type { Outcome } from "./measure.ts";

export const RESULTS = fileURLToPath(new URL("results", import.meta.url));

const axis = z.object({ label: z.string(), scale: z.enum(["linear", "log"]) });

const chart = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("bars"),
    name: z.string().regex(/^[a-z0-9-]+$/),
    title: z.string(),
    bars: z.array(z.object({ label: z.string(), value: z.number(), ours: z.boolean().default(false) })),
  }),
  z.object({
    kind: z.literal("lines"),
    name: z.string().regex(/^[a-z0-9-]+$/),
    title: z.string(),
    x: axis,
    y: axis,
    lines: z.array(
      z.object({
        label: z.string(),
        ours: z.boolean().default(false),
        points: z.array(z.object({ x: z.number(), y: z.number(), note: z.string().default("") })),
      }),
    ),
  }),
]);

const result = z.strictObject({
  name: z.string(),
  /** The day, UTC. */
  measured: z.iso.date(),
  server: z.string(),
  machine: machineSchema,
  rows: z.number(),
  about: z.string(),
  data: z.string(),
  figures: z.record(
    z.string(),
    z.strictObject({
      value: z.number(),
      meaning: z.string(),
      spread: z.tuple([z.number(), z.number()]).optional(),
    }),
  ),
  bars: z.array(
    z.strictObject({
      name: z.string(),
      value: z.number(),
      bound: z.number(),
      holds: z.boolean(),
      side: z.enum(["at least", "at most", "below"]),
    }),
  ),
  charts: z.array(chart),
});

export type Result = z.infer<typeof result>;

/** An outcome as it is kept, with where it came from. */
export function resultOf(name: string, outcome: Outcome, server: string, machine: Machine): Result {
  const { about, data, rows, figures, bars, charts = [] } = outcome;
  return result.parse({
    name,
    measured: new Date().toISOString().slice(0, 10),
    server,
    machine,
    rows,
    about,
    data,
    figures: Object.fromEntries(
      Object.entries(figures).map(([figure, [value, meaning, spread]]) => [
        figure,
        { value, meaning, ...(spread && { spread }) },
      ]),
    ),
    bars,
    charts,
  });
}

export async function writeResult(found: Result): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  await writeFile(join(RESULTS, `${found.name}.json`), `${JSON.stringify(found, null, 2)}\n`);
}

/** All results, by name. @throws ZodError for a file that is no result */
export async function readResults(): Promise<Result[]> {
  const files = (await readdir(RESULTS)).filter((file) => file.endsWith(".json")).sort();
  return Promise.all(
    files.map(async (file) => result.parse(JSON.parse(await readFile(join(RESULTS, file), "utf8")))),
  );
}
