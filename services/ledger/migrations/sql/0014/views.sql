-- The same columns and meaning as before. An operator reads the sums of all, who sees a whole tenant its sums, a user's reader
-- the sums of users: row-level security shows each of them just one of the three.
CREATE OR REPLACE VIEW dashboard_cache_hit_rate WITH (security_invoker = true) AS
SELECT 'app.tasks.llm.' || task_type AS endpoint,
       sum(calls)::bigint AS total_calls,
       sum(cached)::bigint AS cache_hits,
       trim_scale(round(100.0 * sum(cached) / sum(calls), 2)) AS cache_hit_rate_pct
FROM (
  SELECT task_type, calls, cached FROM call_sums_of_all WHERE status = 'success'
  UNION ALL
  SELECT task_type, calls, cached FROM call_sums_of_tenants WHERE span = 'month' AND status = 'success'
    AND NOT EXISTS (SELECT FROM call_sums_of_all)
  UNION ALL
  SELECT task_type, calls, cached FROM call_sums_of_users WHERE span = 'month' AND status = 'success'
    AND NOT EXISTS (SELECT FROM call_sums_of_tenants)
) AS seen
GROUP BY task_type HAVING sum(calls) > 0;

CREATE OR REPLACE VIEW dashboard_provider_cost_latency WITH (security_invoker = true) AS
WITH sums AS (
  SELECT provider, model, status, sum(calls)::bigint AS calls, sum(attempted) AS attempted, sum(latency_ms) AS latency_ms,
         sum(cost_cents) AS cost_cents
  FROM (
    SELECT provider, model, status, calls, attempted, latency_ms, cost_cents
    FROM call_sums_of_all
    UNION ALL
    SELECT provider, model, status, calls, attempted, latency_ms, cost_cents
    FROM call_sums_of_tenants WHERE span = 'month' AND NOT EXISTS (SELECT FROM call_sums_of_all)
    UNION ALL
    SELECT provider, model, status, calls, attempted, latency_ms, cost_cents
    FROM call_sums_of_users WHERE span = 'month' AND NOT EXISTS (SELECT FROM call_sums_of_tenants)
    UNION ALL
    SELECT provider, model, 'pending', calls, 0, 0, cost_cents FROM calls_under_way
  ) AS seen
  GROUP BY provider, model, status HAVING sum(calls) > 0
), buckets AS (
  SELECT provider, model, status, latency_from_ms, sum(calls) AS calls
  FROM (
    SELECT provider, model, status, latency_from_ms, calls FROM call_latencies_of_all
    UNION ALL
    SELECT provider, model, status, latency_from_ms, calls FROM call_latencies_of_tenants
    WHERE NOT EXISTS (SELECT FROM call_latencies_of_all)
    UNION ALL
    SELECT provider, model, status, latency_from_ms, calls FROM call_latencies_of_users
    WHERE NOT EXISTS (SELECT FROM call_latencies_of_tenants)
  ) AS seen
  GROUP BY provider, model, status, latency_from_ms HAVING sum(calls) > 0
), ranked AS (
  SELECT provider, model, status, latency_from_ms, latency_width(latency_from_ms) - 1 AS beyond,
         sum(calls) OVER (PARTITION BY provider, model, status ORDER BY latency_from_ms) AS up_to,
         sum(calls) OVER (PARTITION BY provider, model, status) AS total
  FROM buckets
), latencies AS (
  SELECT provider, model, status, min(latency_from_ms) AS least, max(latency_from_ms + beyond) AS greatest,
         min(latency_from_ms + beyond / 2) FILTER (WHERE up_to >= 0.5 * total) AS p50,
         min(latency_from_ms + beyond / 2) FILTER (WHERE up_to >= 0.95 * total) AS p95,
         min(latency_from_ms + beyond / 2) FILTER (WHERE up_to >= 0.99 * total) AS p99
  FROM ranked GROUP BY provider, model, status
)
SELECT provider, model, status,
       calls AS call_count,
       trim_scale(cost_cents) AS total_cost_cents,
       least AS min_latency_ms,
       trim_scale(round(sums.latency_ms / nullif(attempted, 0), 2)) AS avg_latency_ms,
       greatest AS max_latency_ms,
       p50 AS p50_latency_ms,
       p95 AS p95_latency_ms,
       p99 AS p99_latency_ms
FROM sums LEFT JOIN latencies USING (provider, model, status);
