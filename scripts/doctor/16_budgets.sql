-- Budgets of which nothing is left: claims, or queries, buy nothing.
select 'error' as level, format('budget of %s a %s', b.scope, b.period) as object,
       format('%s of $%s is spent or reserved', round(b.spent_usd + b.reserved_usd, 4), b.limit_usd) as message,
       format('Wait until it is renewed, or raise it: select reembed.set_budget(%L, %L, <dollars>);', b.scope, b.period) as fix
  from reembed.budgets b where reembed.is_exhausted(b)
