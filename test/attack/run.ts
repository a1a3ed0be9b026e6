/**
 * `npm run attack -- [--minutes 10] [--seed N] [--only name]`: the tests that throw everything at the project, for as long as they are given, with a seed that
 * repeats their choices. The last line says what was done and how many passed and failed; exit code 1 on a failure, 2 on wrong use.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { findServer } from "../../scripts/lib/test-server.ts";
import { ATTACKS, countsIn, type Planned, planAttacks } from "./attacks.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const VITEST = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url));
const USAGE = `npm run attack -- [--minutes 10] [--seed N] [--only ${ATTACKS.map(({ name }) => name).join("|")}]

${ATTACKS.map(({ name, what }) => `  ${name.padEnd(12)} ${what}`).join("\n")}`;

interface Flags {
  readonly minutes: number;
  readonly seed: number;
  readonly only: string | undefined;
}

function readFlags(): Flags {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "10" },
      seed: { type: "string" },
      only: { type: "string" },
    },
  });
  const minutes = Number(values.minutes);
  if (!(minutes >= 0.1 && minutes <= 1_440)) throw new Error("--minutes must be a number from 0.1 to 1440");
  if (values.seed !== undefined && !/^\d{1,9}$/.test(values.seed))
    throw new Error("--seed must be a whole number from 0 to 999999999");
  if (values.only !== undefined && !ATTACKS.some(({ name }) => name === values.only))
    throw new Error(`--only: no attack is called ${values.only}`);
  return { minutes, seed: Number(values.seed ?? Date.now() % 1_000_000), only: values.only };
}

/** Runs an attack's tests; what they print is passed on. */
async function run({ attack, seconds }: Planned, seed: number): Promise<{ passed: number; failed: number }> {
  const settings = attack.settings(seconds, seed);
  const named = Object.entries(settings).map(([name, value]) => [name, String(value)]);
  console.log(`\n${attack.name}: ${named.map((pair) => pair.join("=")).join(" ")}`);
  const child = spawn(process.execPath, [VITEST, "run", ...attack.files], {
    cwd: ROOT,
    env: { ...process.env, ...Object.fromEntries(named), REQUIRE_POSTGRES: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    process.stdout.write(text);
  });
  const [code] = await once(child, "close");
  const counts = countsIn(output) ?? { passed: 0, failed: 1 };
  if (attack.script !== undefined) counts[(await succeeds(attack.script)) ? "passed" : "failed"] += 1;
  // A run that ends badly without a failing test, such as one that found no test, is a failure all the same.
  if (code !== 0 && counts.failed === 0) return { ...counts, failed: 1 };
  return counts;
}

/** Whether a script of the folder `scripts` ends with 0. */
async function succeeds(script: string): Promise<boolean> {
  const path = fileURLToPath(new URL(`../../scripts/${script}`, import.meta.url));
  const [code] = await once(spawn(process.execPath, [path], { cwd: ROOT, stdio: "inherit" }), "close");
  return code === 0;
}

async function main(): Promise<number> {
  let flags: Flags;
  try {
    flags = readFlags();
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : "wrong use"}\n${USAGE}`);
    return 2;
  }
  const { minutes, seed, only } = flags;
  console.log(`seed ${seed}`);
  if ((await findServer(process.env)) === null) {
    console.error("error: an attack needs PostgreSQL\nhint: npm run postgres starts one");
    return 1;
  }
  const began = performance.now();
  const total = { passed: 0, failed: 0 };
  const done: string[] = [];
  const broken: Planned[] = [];
  for (const planned of planAttacks(minutes, only)) {
    const { passed, failed } = await run(planned, seed);
    total.passed += passed;
    total.failed += failed;
    done.push(`${planned.attack.name} ${passed} of ${passed + failed}`);
    if (failed > 0) broken.push(planned);
  }
  for (const { attack, seconds } of broken) {
    const repeated = Math.max(0.1, seconds / 60).toFixed(2);
    console.log(`to repeat: npm run attack -- --only ${attack.name} --minutes ${repeated} --seed ${seed}`);
  }
  const took = ((performance.now() - began) / 60_000).toFixed(1);
  console.log(`\nattacked for ${took} minutes with seed ${seed}: ${done.join(", ")}`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0 ? 0 : 1;
}

process.exitCode = await main();
