-- What is there already, from the calls: the hours do not say it.
SET LOCAL ROLE skeldir_ledger;
DELETE FROM call_quarters_of_tenants;
INSERT INTO call_quarters_of_tenants (tenant_id, quarter, status, calls, cached, attempted, latency_ms, cost_cents)
SELECT tenant_id, date_bin('15 minutes', created_at, '1970-01-01 00:00Z'), status, count(*), count(*) FILTER (WHERE was_cached),
       count(*) FILTER (WHERE provider_attempted), coalesce(sum(latency_ms) FILTER (WHERE provider_attempted), 0),
       sum(cost_cents)
FROM llm_api_calls WHERE status <> 'pending' GROUP BY 1, 2, 3;
DELETE FROM call_quarters_of_all;
INSERT INTO call_quarters_of_all (quarter, status, calls, cached, attempted, latency_ms, cost_cents)
SELECT quarter, status, sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
FROM call_quarters_of_tenants GROUP BY 1, 2;
DELETE FROM calls_under_way;
INSERT INTO calls_under_way (tenant_id, user_id, quarter, provider, model, task_type, calls, cost_cents)
SELECT tenant_id, user_id, date_bin('15 minutes', created_at, '1970-01-01 00:00Z'), left(provider, 150), left(model, 150), task_type,
       count(*), sum(cost_cents)
FROM llm_api_calls WHERE status = 'pending' GROUP BY 1, 2, 3, 4, 5, 6;
RESET ROLE;
