-- How calls ended by quarter of an hour, in place of by hour (docs/adr/0015-rollups.md): what is written with each batch stays one row a tenant
-- and end, and one of all; hours and days are summed from these. Writers wait until the functions count by quarters, too.
LOCK TABLE llm_api_calls IN SHARE ROW EXCLUSIVE MODE;
-- All at once, before a row of the catalogue is changed: who vacuums one of them would wait for that row, and be waited for.
LOCK TABLE call_hours_of_tenants, call_hours_of_all, calls_under_way IN ACCESS EXCLUSIVE MODE;
ALTER TYPE call_change RENAME ATTRIBUTE hour TO quarter;
ALTER TABLE call_hours_of_tenants RENAME TO call_quarters_of_tenants;
ALTER TABLE call_quarters_of_tenants RENAME COLUMN hour TO quarter;
ALTER INDEX call_hours_of_tenants_pkey RENAME TO call_quarters_of_tenants_pkey;
ALTER TABLE call_hours_of_all RENAME TO call_quarters_of_all;
ALTER TABLE call_quarters_of_all RENAME COLUMN hour TO quarter;
ALTER INDEX call_hours_of_all_pkey RENAME TO call_quarters_of_all_pkey;
ALTER INDEX call_hours_left RENAME TO call_quarters_left;
ALTER TABLE calls_under_way RENAME COLUMN hour TO quarter;

-- For the release before, which reads hours while it is replaced. The next migration may drop them.
CREATE VIEW call_hours_of_tenants WITH (security_invoker = true) AS
SELECT tenant_id, date_bin('1 hour', quarter, '1970-01-01 00:00Z') AS hour, status, sum(calls)::bigint AS calls,
       sum(cached)::bigint AS cached, sum(attempted)::bigint AS attempted, sum(latency_ms)::bigint AS latency_ms,
       sum(cost_cents) AS cost_cents
FROM call_quarters_of_tenants GROUP BY 1, 2, 3;
CREATE VIEW call_hours_of_all WITH (security_invoker = true) AS
SELECT date_bin('1 hour', quarter, '1970-01-01 00:00Z') AS hour, status, 0::bigint AS left_by, sum(calls)::bigint AS calls,
       sum(cached)::bigint AS cached, sum(attempted)::bigint AS attempted, sum(latency_ms)::bigint AS latency_ms,
       sum(cost_cents) AS cost_cents
FROM call_quarters_of_all GROUP BY 1, 2;
GRANT SELECT ON call_hours_of_tenants, call_hours_of_all TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;
ALTER TABLE calls_under_way ADD COLUMN hour timestamptz
  GENERATED ALWAYS AS (date_bin('1 hour', quarter, '1970-01-01 00:00Z')) STORED;
