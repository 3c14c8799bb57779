-- The dashboards. security_invoker: whoever looks sees through their own row-level security.
CREATE VIEW dashboard_monthly_spend WITH (security_invoker = true) AS
SELECT tenant_id, user_id, month, trim_scale(total_cost_cents) AS total_cost_cents, total_calls
FROM llm_monthly_costs;

-- Over answered calls: a call that was refused, or that failed, had no chance to hit.
CREATE VIEW dashboard_cache_hit_rate WITH (security_invoker = true) AS
SELECT endpoint,
       count(*) AS total_calls,
       count(*) FILTER (WHERE was_cached) AS cache_hits,
       trim_scale(round(100.0 * count(*) FILTER (WHERE was_cached) / count(*), 2)) AS cache_hit_rate_pct
FROM llm_api_calls
WHERE status = 'success'
GROUP BY endpoint;

CREATE VIEW dashboard_breaker_shutoff_state WITH (security_invoker = true) AS
SELECT 'breaker' AS state_type, tenant_id, user_id, breaker_key AS state_key, state AS state_value,
       failure_count, to_char(opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS opened_at,
       to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS updated_at
FROM llm_breaker_state
UNION ALL
SELECT 'hourly_shutoff', tenant_id, user_id, to_char(hour_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       is_shutoff::text,
       NULL::integer, NULL::text, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM llm_hourly_shutoff_state;

-- Latency of attempted calls only: a cached or refused call has none.
CREATE VIEW dashboard_provider_cost_latency WITH (security_invoker = true) AS
SELECT provider, model, status,
       count(*) AS call_count,
       trim_scale(sum(cost_cents)) AS total_cost_cents,
       min(latency_ms) FILTER (WHERE provider_attempted) AS min_latency_ms,
       trim_scale(round(avg(latency_ms) FILTER (WHERE provider_attempted), 2)) AS avg_latency_ms,
       max(latency_ms) FILTER (WHERE provider_attempted) AS max_latency_ms,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE provider_attempted) AS p50_latency_ms,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE provider_attempted) AS p95_latency_ms,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE provider_attempted) AS p99_latency_ms
FROM llm_api_calls
GROUP BY provider, model, status;
