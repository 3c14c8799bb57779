CREATE OR REPLACE VIEW dashboard_cache_hit_rate WITH (security_invoker = true) AS
SELECT endpoint,
       count(*) AS total_calls,
       count(*) FILTER (WHERE was_cached) AS cache_hits,
       trim_scale(round(100.0 * count(*) FILTER (WHERE was_cached) / count(*), 2)) AS cache_hit_rate_pct
FROM llm_api_calls
WHERE status = 'success'
GROUP BY endpoint;
CREATE OR REPLACE VIEW dashboard_provider_cost_latency WITH (security_invoker = true) AS
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
DROP TRIGGER roll_up_new ON llm_api_calls;
DROP TRIGGER roll_up_changed ON llm_api_calls;
DROP FUNCTION roll_up_calls();
DROP FUNCTION roll_up(call_figure[]);
DROP TYPE call_figure, call_change;
DROP FUNCTION latency_floor(bigint);
DROP FUNCTION latency_width(bigint);
DROP TABLE call_sums_of_users, call_sums_of_tenants, call_latencies_of_users, call_latencies_of_tenants, calls_under_way;
