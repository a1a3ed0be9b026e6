/** A budget as the database shows it, and in words. */
import { z } from "zod";

export const budgetState = z.object({
  /** `all`, `queries`, or a collection's name. */
  scope: z.string(),
  period: z.enum(["day", "month", "move"]),
  limit_usd: z.number(),
  spent_usd: z.number(),
  /** For requests under way, and for those whose worker died. */
  reserved_usd: z.number(),
  /** Nothing is left, or less than what was asked for last. */
  exhausted: z.boolean(),
  /** Null for a move, whose budget the next move renews. */
  renews_at: z.string().nullable(),
});
export type BudgetState = z.infer<typeof budgetState>;

/** Which budget it is: `the budget of all for the day`. */
export function nameOfBudget({ scope, period }: Pick<BudgetState, "scope" | "period">): string {
  return `the budget of ${scope} for the ${period}`;
}

/** What is left of a budget, and when it renews. Dollars to six digits: a request may cost less than a hundredth of a cent. */
export function describeBudget(budget: BudgetState): string {
  const dollars = (amount: number) => `$${Number(amount.toFixed(6))}`;
  const reserved = budget.reserved_usd > 0 ? ` and ${dollars(budget.reserved_usd)} reserved` : "";
  const renews =
    budget.renews_at === null
      ? "the next move renews it"
      : `it renews at ${new Date(budget.renews_at).toISOString().slice(0, 16).replace("T", " ")} UTC`;
  return `${nameOfBudget(budget)} has ${dollars(budget.spent_usd)} spent${reserved} of ${dollars(budget.limit_usd)}; ${renews}`;
}
