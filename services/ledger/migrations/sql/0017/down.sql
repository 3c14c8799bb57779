ALTER TABLE llm_hourly_shutoff_state DROP COLUMN used_percent;
ALTER TABLE llm_monthly_budget_state DROP COLUMN used_percent;
ALTER TABLE tenant_budget_state DROP COLUMN used_percent;
ALTER TABLE llm_hourly_shutoff_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  (coalesce(least(100, floor(100 * (total_cost_cents + reserved_cents) / nullif(threshold_cents, 0))), 0)::smallint) STORED;
ALTER TABLE llm_monthly_budget_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  (coalesce(least(100, floor(100 * (spent_cents + reserved_cents) / nullif(cap_cents, 0))), 0)::smallint) STORED;
ALTER TABLE tenant_budget_state ADD COLUMN used_percent smallint NOT NULL GENERATED ALWAYS AS
  (coalesce(least(100, floor(100 * (spent_cents + reserved_cents) / nullif(cap_cents, 0))), 0)::smallint) STORED;
CREATE INDEX hours_by_use ON llm_hourly_shutoff_state ((hour_start AT TIME ZONE 'UTC'), used_percent DESC);
CREATE INDEX months_by_use ON llm_monthly_budget_state (month, used_percent DESC);
CREATE INDEX tenant_windows_by_use
  ON tenant_budget_state (budget_window, (window_start AT TIME ZONE 'UTC'), used_percent DESC);
