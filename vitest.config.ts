import { defineConfig } from "vitest/config";

/** What every project has. Tests of one file run in order, files run beside each other. */
const project = (name: string, seconds: number) => ({
  extends: true as const,
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    testTimeout: seconds * 1000,
    hookTimeout: seconds * 1000,
  },
});

export default defineConfig({
  test: {
    globalSetup: ["test/support/global-setup.ts"],
    reporters: ["./test/support/reporter.ts"],
    // Database tests wait for the server more than they compute; more workers than this crowd it out on two cores.
    maxWorkers: 3,
    projects: [project("unit", 10), project("db", 60), project("fault", 120), project("e2e", 120)],
  },
});
