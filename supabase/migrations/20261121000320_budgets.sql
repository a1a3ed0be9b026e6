-- What may be spent: budgets in dollars, for everything, for a collection, for queries; a day, a month, a move (law 9).
-- Makes: reembed.budgets, set_budget(), and what claims, settlements and searches call: reserve(), spend(), out_of_budget().
-- Risks: none until set_budget() is called: without a budget nothing is refused. A space whose price is 0 needs none.
--
-- Budget rows are the last that a transaction locks, always in the order of their key, and only for as long as it takes to commit. Whoever
-- holds one waits for nothing any more, so waiting for one, even with a space's row or jobs in hand, can close no circle.

alter table reembed.collections add check (name not in ('all', 'queries'));

create table reembed.budgets (
  scope text not null,
  period text not null check (period in ('day', 'month', 'move')),
  limit_usd numeric not null check (limit_usd > 0 and limit_usd < 'infinity'),
  spent_usd numeric not null default 0,
  reserved_usd numeric not null default 0,
  refused_usd numeric,
  begun_at timestamptz not null default clock_timestamp(),
  primary key (scope, period)
);
comment on table reembed.budgets is
  'What may be spent in a period, in US dollars. Nothing renews it by the clock: the first reservation of a new period does. A move lasts from the start of a version''s loading until it is ready.';
comment on column reembed.budgets.scope is 'all (queries too), queries, or a collection''s name.';
comment on column reembed.budgets.reserved_usd is 'For requests under way, by estimate. A worker that dies leaves its part, which counts as spent once its lease is over.';
comment on column reembed.budgets.refused_usd is 'The amount that did not fit last: no claim is tried until it would.';
comment on column reembed.budgets.begun_at is 'When it was set, or renewed: what was reserved before is not counted here.';
alter table reembed.budgets enable row level security;

create function reembed.period_start(b reembed.budgets) returns timestamptz
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select case b.period
    when 'move' then (select max(e.at) from reembed.events e where e.kind = 'load' and (b.scope = 'all' or e.collection = b.scope))
    else date_trunc(b.period, clock_timestamp(), 'UTC') end
$$;
comment on function reembed.period_start(reembed.budgets) is 'When the present period of a budget began: the day or month of UTC, or the last start of a loading; null where there was none.';

create function reembed.is_renewed(b reembed.budgets) returns boolean
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select coalesce(reembed.period_start(b) > b.begun_at, false)
$$;
comment on function reembed.is_renewed(reembed.budgets) is 'Whether a new period began since what the row counts: the next reservation sets it to zero.';

create function reembed.is_exhausted(b reembed.budgets) returns boolean
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select not reembed.is_renewed(b)
     and (b.spent_usd + b.reserved_usd >= b.limit_usd or coalesce(b.spent_usd + b.reserved_usd + b.refused_usd > b.limit_usd, false))
$$;
comment on function reembed.is_exhausted(reembed.budgets) is 'Whether nothing is left of a budget, or less than what was refused last.';

create function reembed.budget_state(b reembed.budgets) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('scope', b.scope, 'period', b.period, 'limit_usd', b.limit_usd,
    'spent_usd', case when reembed.is_renewed(b) then 0 else b.spent_usd end,
    'reserved_usd', case when reembed.is_renewed(b) then 0 else b.reserved_usd end,
    'exhausted', reembed.is_exhausted(b),
    'renews_at', case b.period
      when 'day' then (date_trunc('day', clock_timestamp() at time zone 'UTC') + interval '1 day') at time zone 'UTC'
      when 'month' then (date_trunc('month', clock_timestamp() at time zone 'UTC') + interval '1 month') at time zone 'UTC' end)
$$;
comment on function reembed.budget_state(reembed.budgets) is
  'A budget as answers show it: { scope, period, limit_usd, spent_usd, reserved_usd, exhausted, renews_at: null for a move, which only the next one renews }.';

create function reembed.budget_applies(b reembed.budgets, scopes text[], is_move boolean) returns boolean
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select b.scope = any (scopes) and (b.period <> 'move' or is_move)
$$;
comment on function reembed.budget_applies(reembed.budgets, text[], boolean) is 'Whether a purchase for these scopes, as part of a move or not, counts against a budget.';

create function reembed.set_budget(scope text, period text, limit_usd numeric) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if set_budget.scope is null or set_budget.scope not in ('all', 'queries') then
    perform reembed.collection_named(set_budget.scope);
  end if;
  if set_budget.period is null or set_budget.period not in ('day', 'month', 'move') then
    raise exception using errcode = 'RE004', message = format('period is %L: it must be day, month or move', left(set_budget.period, 60)),
      hint = 'Days and months are those of UTC; a move lasts from the start of a version''s loading until it is ready.';
  end if;
  if set_budget.scope = 'queries' and set_budget.period = 'move' then
    raise exception using errcode = 'RE004', message = 'period is move, scope is queries: a query is part of no move', hint = 'Give queries a budget for the day or the month.';
  end if;
  if set_budget.limit_usd is null then
    delete from reembed.budgets b where b.scope = set_budget.scope and b.period = set_budget.period;
  elsif set_budget.limit_usd > 0 and set_budget.limit_usd < 'infinity' then
    insert into reembed.budgets as b (scope, period, limit_usd) values (set_budget.scope, set_budget.period, set_budget.limit_usd)
    on conflict on constraint budgets_pkey do update set limit_usd = excluded.limit_usd;
  else
    raise exception using errcode = 'RE004', message = format('limit_usd is %s: it must be a number of dollars above 0', set_budget.limit_usd),
      hint = 'To spend nothing call reembed.pause_space; for no limit set the budget to null, which removes it.';
  end if;
  insert into reembed.events (kind, collection, detail)
  values ('budget', nullif(nullif(set_budget.scope, 'all'), 'queries'),
          jsonb_build_object('scope', set_budget.scope, 'period', set_budget.period, 'limit_usd', set_budget.limit_usd));
end
$$;
comment on function reembed.set_budget(text, text, numeric) is
  'Sets what may be spent: scope all, queries or a collection; period day, month (UTC) or move; dollars above 0, null removes. It counts from when it is first set; a changed limit keeps what was spent. RE004, RE005 on bad arguments.';

create function reembed.open_budgets(scopes text[], is_move boolean) returns reembed.budgets
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  tightest reembed.budgets;
begin
  perform from reembed.budgets b where reembed.budget_applies(b, scopes, is_move) order by b.scope, b.period for no key update;
  update reembed.budgets b set spent_usd = 0, reserved_usd = 0, refused_usd = null, begun_at = clock_timestamp()
   where reembed.budget_applies(b, scopes, is_move) and reembed.is_renewed(b);
  select * into tightest from reembed.budgets b where reembed.budget_applies(b, scopes, is_move)
   order by b.limit_usd - b.spent_usd - b.reserved_usd limit 1;
  return tightest;
end
$$;
comment on function reembed.open_budgets(text[], boolean) is
  'Locks the budgets that apply, in the order of their key, renews those whose period is over and returns the one with the least left; null where there is none.';

create function reembed.reserve(scopes text[], amount numeric, is_move boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  tightest constant reembed.budgets := reembed.open_budgets(scopes, is_move);
begin
  if tightest.limit_usd - tightest.spent_usd - tightest.reserved_usd < amount then
    update reembed.budgets b set refused_usd = amount where b.scope = tightest.scope and b.period = tightest.period;
    return reembed.budget_state((select b from reembed.budgets b where b.scope = tightest.scope and b.period = tightest.period));
  end if;
  update reembed.budgets b set reserved_usd = b.reserved_usd + amount
   where reembed.budget_applies(b, scopes, is_move) and b.spent_usd + b.reserved_usd + amount <= b.limit_usd;
  return null;
end
$$;
comment on function reembed.reserve(text[], numeric, boolean) is
  'Reserves dollars in every budget of these scopes that applies, or in none. Returns null when done, else the budget that has not enough left (budget_state). The ledger''s row is written after it in the same transaction: its time tells spend() which period was charged.';

create function reembed.spend(scopes text[], reserved_at timestamptz, reserved numeric, spent numeric, is_move boolean default false) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  perform from reembed.budgets b where reembed.budget_applies(b, scopes, is_move) order by b.scope, b.period for no key update;
  update reembed.budgets b set reserved_usd = greatest(b.reserved_usd - spend.reserved, 0), spent_usd = b.spent_usd + spend.spent
   where reembed.budget_applies(b, scopes, is_move) and b.begun_at <= spend.reserved_at;
end
$$;
comment on function reembed.spend(text[], timestamptz, numeric, numeric, boolean) is
  'Replaces what was reserved at that time by what was spent, in the budgets that counted it; one that was renewed or first set since is left alone. What a provider counts above the estimate may pass the limit.';

create function reembed.is_moving(v reembed.versions) returns boolean
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$ select v.state in ('loading', 'indexing') $$;
comment on function reembed.is_moving(reembed.versions) is 'Whether what is bought for the version is part of a move.';

create function reembed.out_of_budget(v reembed.versions) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select reembed.budget_state(b) from reembed.budgets b
   where reembed.budget_applies(b, array['all', (select c.name from reembed.collections c where c.id = v.collection_id)], reembed.is_moving(v))
     and reembed.is_exhausted(b)
     and exists (select from reembed.spaces s where s.id = v.space_id and s.price_per_mtok > 0)
   order by b.scope, b.period limit 1
$$;
comment on function reembed.out_of_budget(reembed.versions) is 'The exhausted budget because of which a version may buy nothing now (budget_state); null where there is none.';

revoke execute on all functions in schema reembed from public;
