/** A budget in words: which one, what is left, when it renews. */
import { expect, test } from "vitest";
import { type BudgetState, describeBudget } from "../../supabase/functions/_shared/budget.ts";

const BUDGET: BudgetState = {
  scope: "course_content",
  period: "day",
  limit_usd: 5,
  spent_usd: 4.9999871,
  reserved_usd: 0,
  exhausted: true,
  renews_at: "2026-11-22T00:00:00+00:00",
};

test("says which budget it is, what was spent and when it renews", () => {
  expect(describeBudget(BUDGET)).toBe(
    "the budget of course_content for the day has $4.999987 spent of $5; it renews at 2026-11-22 00:00 UTC",
  );
});

test("names what is reserved, and that only the next move renews a move's", () => {
  expect(
    describeBudget({ ...BUDGET, scope: "all", period: "move", reserved_usd: 0.00001, renews_at: null }),
  ).toBe(
    "the budget of all for the move has $4.999987 spent and $0.00001 reserved of $5; the next move renews it",
  );
});
