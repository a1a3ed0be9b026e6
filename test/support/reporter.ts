/**
 * Vitest's own report, and as its very last line `N passed, N failed, N skipped`. Where tests were left out because there is no
 * PostgreSQL, the line before it says how many, and how to get one.
 */
import type { SerializedError } from "vitest";
import { DefaultReporter, type TestCase, type TestModule, type TestRunEndReason } from "vitest/node";
import type {} from "./postgres.ts";

export default class ClosingLineReporter extends DefaultReporter {
  override onTestRunEnd(
    modules: ReadonlyArray<TestModule>,
    unhandledErrors: ReadonlyArray<SerializedError>,
    reason: TestRunEndReason,
  ): void {
    super.onTestRunEnd(modules, unhandledErrors, reason);
    for (const line of closingLines(modules, unhandledErrors.length)) this.ctx.logger.log(line);
  }
}

function closingLines(modules: ReadonlyArray<TestModule>, unhandledErrors: number): string[] {
  const count = { passed: 0, failed: unhandledErrors, skipped: 0, pending: 0 };
  let leftOut = 0;
  for (const module of modules) {
    const failedBefore = count.failed;
    for (const test of module.children.allTests()) {
      count[test.result().state]++;
      if (isLeftOut(test)) leftOut++;
    }
    // A file that cannot be loaded, or whose hook fails, has no failing test of its own and is a failure all the same.
    if (module.state() === "failed" && count.failed === failedBefore) count.failed++;
  }
  const closing = `${count.passed} passed, ${count.failed} failed, ${count.skipped + count.pending} skipped`;
  if (leftOut === 0) return [closing];
  return [`${leftOut} tests need PostgreSQL and were left out: npm run postgres starts one`, closing];
}

function isLeftOut(test: TestCase): boolean {
  for (let parent = test.parent; parent.type === "suite"; parent = parent.parent) {
    if (parent.meta().leftOutForPostgres) return true;
  }
  return false;
}
