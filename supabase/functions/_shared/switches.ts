/**
 * The environment variables by which apps choose how they embed and search. They keep their meaning where they are set; what the database cannot do
 * as they say (a model that is not the space's, a version that is not loaded) is refused, not guessed about.
 */
import { z } from "zod";
import { ReembedError } from "./errors.ts";

/** A job is claimed eight times (reembed.max_attempts): once, and seven times again. */
export const MOST_RETRIES = 7;

const unset = (value: string | undefined) => (value?.trim() ? value.trim() : undefined);

const flag = z
  .string()
  .transform((text, context) => {
    if (/^(true|1|yes|on)$/i.test(text)) return true;
    if (/^(false|0|no|off)$/i.test(text)) return false;
    context.addIssue({ code: "custom", message: "must be true or false" });
    return z.NEVER;
  })
  .optional();

const modelName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}$/, "must be the name of a model")
  .optional();

const numeric = (rule: string, fits: (value: number) => boolean) =>
  z
    .string()
    .refine((text) => /^-?(\d+\.?\d*|\.\d+)$/.test(text) && fits(Number(text)), rule)
    .transform(Number)
    .optional();

const whole = (low: number, high: number) =>
  numeric(
    `must be a whole number from ${low} to ${high}`,
    (value) => Number.isInteger(value) && value >= low && value <= high,
  );

const between = (low: number, high: number) =>
  numeric(`must be a number from ${low} to ${high}`, (value) => value >= low && value <= high);

/** A rule for a variable that may be missing; a blank one counts as not set. */
const switchOf = <Value>(rule: z.ZodType<Value, string | undefined>) =>
  z.string().optional().transform(unset).pipe(rule);

/** Each switch with its rule. */
export const SWITCHES = {
  USE_VECTOR_1536: switchOf(flag),
  SIMILARITY_THRESHOLD: switchOf(between(-1, 1)),
  OPENAI_EMBEDDING_MODEL: switchOf(modelName),
  OPENAI_EMBEDDING_BATCH_SIZE: switchOf(whole(1, 2_048)),
  OPENAI_EMBEDDING_MAX_RETRIES: switchOf(whole(0, MOST_RETRIES)),
  EMBEDDING_TIMEOUT: switchOf(between(1, 60)),
  OPENAI_CHAT_MODEL: switchOf(modelName),
};

const schema = z.object(SWITCHES);

export type Switches = z.output<typeof schema>;

/**
 * Reads the switches from a record of variables.
 * @throws ReembedError `invalid_request` that lists every malformed one at once, never a value
 */
export function readSwitches(variables: Readonly<Record<string, string | undefined>>): Switches {
  const parsed = schema.safeParse(variables);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new ReembedError(
    "invalid_request",
    `the environment: ${faults.join("; ")}`,
    "Mend the variable or unset it; docs/operations.md lists what each takes.",
  );
}

/** The switches among an environment's variables, as they stand there: for a process that is to have them too. */
export function switchesIn(variables: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.keys(SWITCHES).flatMap((name) => {
      const value = unset(variables[name]);
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

const conflict = (message: string, hint: string) => new ReembedError("environment_conflict", message, hint);

/**
 * OPENAI_EMBEDDING_MODEL against a space of the provider openai.
 * @throws ReembedError `environment_conflict` when it names another model
 */
export function checkModel(
  model: string | undefined,
  space: { readonly id: string; readonly model: string },
): void {
  if (model === undefined || model === space.model) return;
  throw conflict(
    `OPENAI_EMBEDDING_MODEL is ${model}, and the space is ${space.id}`,
    "Unset OPENAI_EMBEDDING_MODEL: the database says which model embeds for which version. To change the model, add a version in its space and move to it.",
  );
}

/** A version that could answer a search that names none. */
export interface RoutedVersion {
  readonly collection: string;
  readonly version: number;
  readonly space: string;
  readonly dimensions: number;
  /** The share of its rows that have a vector, while it is not fully loaded. */
  readonly coverage?: number | undefined;
}

const agrees = (use1536: boolean, { dimensions, version }: RoutedVersion) =>
  use1536 ? dimensions === 1_536 : dimensions !== 1_536 || version === 1;

/**
 * The number of the version that USE_VECTOR_1536 wants searched instead of the one that is routed to: v2 for true, v1 for false; undefined
 * where that one is right already, or the switch is not set.
 */
export function versionInstead(use1536: boolean | undefined, routed: RoutedVersion): number | undefined {
  if (use1536 === undefined || agrees(use1536, routed)) return;
  return use1536 ? 2 : 1;
}

/**
 * Checks that what USE_VECTOR_1536 wants searched can be.
 * @param wanted the version of the number that `versionInstead` said; undefined where the collection has none, or it was finalized
 * @throws ReembedError `environment_conflict` where it is not there, not wholly loaded, or not what the switch says
 */
export function checkInstead(
  use1536: boolean,
  routed: RoutedVersion,
  wanted: RoutedVersion | undefined,
): asserts wanted is RoutedVersion {
  const number = use1536 ? 2 : 1;
  const why =
    wanted === undefined
      ? `has no version ${number} that could answer`
      : !agrees(use1536, wanted)
        ? `has ${wanted.dimensions} dimensions in its version ${number}`
        : wanted.coverage !== undefined
          ? `has not loaded its version ${number} yet`
          : undefined;
  if (why === undefined) return;
  throw conflict(
    `USE_VECTOR_1536 is ${use1536}, and ${routed.collection} ${why}`,
    "Unset USE_VECTOR_1536: searches then follow the active version, which reembed cutover and reembed rollback switch.",
  );
}
