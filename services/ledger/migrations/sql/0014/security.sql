DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['call_hours_of_all', 'call_sums_of_all', 'call_latencies_of_all', 'call_totals_of_tenants',
                            'call_hours_of_tenants'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    -- Who sees no row of them may ask all the same: the dashboards' views do.
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO skeldir_ledger', name);
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
  END LOOP;
END
$$;
CREATE POLICY auditor_reads ON call_totals_of_tenants FOR SELECT TO skeldir_auditor
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid));
CREATE POLICY auditor_reads ON call_hours_of_tenants FOR SELECT TO skeldir_auditor
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid));
REVOKE ALL ON FUNCTION roll_up_all(call_figure[]), roll_up_totals(call_figure[]), sums_of_all_lock() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION roll_up_all(call_figure[]), roll_up_totals(call_figure[]), sums_of_all_lock() TO skeldir_ledger;

-- What is there already: the sums of the tenants' sums. Writers wait until the trigger's function is theirs, too.
LOCK TABLE llm_api_calls IN SHARE ROW EXCLUSIVE MODE;
SET LOCAL ROLE skeldir_ledger;
INSERT INTO call_hours_of_tenants
SELECT tenant_id, span_start, status, sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
FROM call_sums_of_tenants WHERE span = 'hour' GROUP BY 1, 2, 3;
DELETE FROM call_sums_of_tenants WHERE span = 'hour';
INSERT INTO call_hours_of_all
SELECT hour, status, 0, sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
FROM call_hours_of_tenants GROUP BY 1, 2;
INSERT INTO call_sums_of_all
SELECT span_start, provider, model, task_type, status, reason, 0,
       sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
FROM call_sums_of_tenants WHERE span = 'month' GROUP BY 1, 2, 3, 4, 5, 6;
INSERT INTO call_latencies_of_all
SELECT month, provider, model, status, latency_from_ms, 0, sum(calls) FROM call_latencies_of_tenants GROUP BY 1, 2, 3, 4, 5;
INSERT INTO call_totals_of_tenants
SELECT tenant_id, span_start, coalesce(sum(calls) FILTER (WHERE status = 'success'), 0),
       coalesce(sum(calls) FILTER (WHERE status = 'blocked'), 0), coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0),
       sum(cost_cents)
FROM call_sums_of_tenants WHERE span = 'month' GROUP BY 1, 2;
RESET ROLE;
