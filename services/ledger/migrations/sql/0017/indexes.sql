-- By how many percent a cap is used: 0 where there is none. Before it was 100 there (`least` passes over what is null), so windows that
-- nothing bounds stood before those that are nearly spent.
ALTER TABLE llm_hourly_shutoff_state DROP COLUMN used_percent;
ALTER TABLE llm_monthly_budget_state DROP COLUMN used_percent;
ALTER TABLE tenant_budget_state DROP COLUMN used_percent;
ALTER TABLE llm_hourly_shutoff_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  ((CASE WHEN threshold_cents > 0 THEN least(100, floor(100 * (total_cost_cents + reserved_cents) / threshold_cents)) ELSE 0 END)::smallint) STORED;
ALTER TABLE llm_monthly_budget_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  ((CASE WHEN cap_cents > 0 THEN least(100, floor(100 * (spent_cents + reserved_cents) / cap_cents)) ELSE 0 END)::smallint) STORED;
ALTER TABLE tenant_budget_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  ((CASE WHEN cap_cents > 0 THEN least(100, floor(100 * (spent_cents + reserved_cents) / cap_cents)) ELSE 0 END)::smallint) STORED;
-- The windows of all tenants in the order in which an operator lists them, whole: newest first, in each the nearest to their caps, and
-- last by id. Before, windows that were equally far were sorted for each page; at 10,000 tenants thousands are. A balance
-- whose percentage stays writes no index, as before.
CREATE INDEX hours_by_use ON llm_hourly_shutoff_state
  ((hour_start AT TIME ZONE 'UTC') DESC, used_percent DESC, tenant_id DESC, user_id DESC) WHERE balance_version IS NOT NULL;
CREATE INDEX months_by_use ON llm_monthly_budget_state ((month::timestamp) DESC, used_percent DESC, tenant_id DESC, user_id DESC);
CREATE INDEX tenant_windows_by_use ON tenant_budget_state
  (budget_window, (window_start AT TIME ZONE 'UTC') DESC, used_percent DESC, tenant_id DESC);
