-- Adds rows of calls to the rollups, and takes away what they were before. One write a key, in the order of the keys.
CREATE OR REPLACE FUNCTION roll_up(figures call_figure[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  changes call_change[];
  is_less boolean;
BEGIN
  -- What stayed the same cancels out. A key has to fit into an index, whatever a producer calls a model.
  SELECT array_agg(ROW(one.*)::call_change), bool_or(one.calls < 0) INTO changes, is_less FROM (
    SELECT tenant_id, user_id, date_trunc('hour', created_at, 'UTC') AS hour, left(provider, 150) AS provider,
           left(model, 150) AS model, task_type, status, left(reason, 150) AS reason,
           CASE WHEN attempted THEN latency_floor(latency_ms) END AS latency_from_ms,
           sum(sign) AS calls, sum(CASE WHEN was_cached THEN sign ELSE 0 END) AS cached,
           sum(CASE WHEN attempted THEN sign ELSE 0 END) AS attempted,
           sum(CASE WHEN attempted THEN sign * latency_ms ELSE 0 END) AS latency_ms, sum(sign * cost_cents) AS cost_cents
    FROM (SELECT sign, tenant_id, user_id, created_at, provider, model, task_type, status, reason, was_cached,
                 attempted AND status <> 'pending' AS attempted, latency_ms, cost_cents FROM unnest(figures)) AS figure
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ) AS one
  WHERE one.calls <> 0 OR one.cached <> 0 OR one.latency_ms <> 0 OR one.cost_cents <> 0;
  IF changes IS NULL THEN
    RETURN;
  END IF;

  INSERT INTO calls_under_way AS old
  SELECT tenant_id, user_id, hour, provider, model, task_type, sum(calls), sum(cost_cents)
  FROM unnest(changes) WHERE status = 'pending' GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
  ON CONFLICT (tenant_id, user_id, hour, provider, model, task_type) DO UPDATE
  SET calls = old.calls + excluded.calls, cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_sums_of_users AS old
  SELECT tenant_id, user_id, span, date_trunc(span, hour, 'UTC'), provider, model, task_type, status, reason,
         sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
  FROM unnest(changes), unnest(ARRAY['hour', 'month']) AS span
  WHERE status <> 'pending' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ON CONFLICT (tenant_id, user_id, span, span_start, provider, model, task_type, status, reason) DO UPDATE
  SET calls = old.calls + excluded.calls, cached = old.cached + excluded.cached,
      attempted = old.attempted + excluded.attempted, latency_ms = old.latency_ms + excluded.latency_ms,
      cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_sums_of_tenants AS old
  SELECT tenant_id, span, date_trunc(span, hour, 'UTC'), provider, model, task_type, status, reason,
         sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
  FROM unnest(changes), unnest(ARRAY['hour', 'month']) AS span
  WHERE status <> 'pending' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
  ON CONFLICT (tenant_id, span, span_start, provider, model, task_type, status, reason) DO UPDATE
  SET calls = old.calls + excluded.calls, cached = old.cached + excluded.cached,
      attempted = old.attempted + excluded.attempted, latency_ms = old.latency_ms + excluded.latency_ms,
      cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_latencies_of_users AS old
  SELECT tenant_id, user_id, date_trunc('month', hour, 'UTC'), provider, model, status, latency_from_ms, sum(calls)
  FROM unnest(changes)
  WHERE latency_from_ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(calls) <> 0 ORDER BY 1, 2, 3, 4, 5, 6, 7
  ON CONFLICT (tenant_id, user_id, month, provider, model, status, latency_from_ms) DO UPDATE
  SET calls = old.calls + excluded.calls;

  INSERT INTO call_latencies_of_tenants AS old
  SELECT tenant_id, date_trunc('month', hour, 'UTC'), provider, model, status, latency_from_ms, sum(calls)
  FROM unnest(changes)
  WHERE latency_from_ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(calls) <> 0 ORDER BY 1, 2, 3, 4, 5, 6
  ON CONFLICT (tenant_id, month, provider, model, status, latency_from_ms) DO UPDATE
  SET calls = old.calls + excluded.calls;

  -- Only what became less can have come to nothing; such a row goes, so that a rebuild gives the same rows.
  IF NOT is_less THEN
    RETURN;
  END IF;
  DELETE FROM calls_under_way AS old USING unnest(changes) AS less
  WHERE less.status = 'pending' AND less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.user_id, old.hour, old.provider, old.model, old.task_type)
      = (less.tenant_id, less.user_id, less.hour, less.provider, less.model, less.task_type);
  IF NOT EXISTS (SELECT FROM unnest(changes) AS less WHERE less.status <> 'pending' AND less.calls < 0) THEN
    RETURN;
  END IF;
  DELETE FROM call_sums_of_users AS old USING unnest(changes) AS less, unnest(ARRAY['hour', 'month']) AS its
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.user_id, old.span, old.span_start, old.status, old.provider, old.model, old.task_type, old.reason)
      = (less.tenant_id, less.user_id, its, date_trunc(its, less.hour, 'UTC'), less.status, less.provider, less.model,
         less.task_type, less.reason);
  DELETE FROM call_sums_of_tenants AS old USING unnest(changes) AS less, unnest(ARRAY['hour', 'month']) AS its
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.span, old.span_start, old.status, old.provider, old.model, old.task_type, old.reason)
      = (less.tenant_id, its, date_trunc(its, less.hour, 'UTC'), less.status, less.provider, less.model,
         less.task_type, less.reason);
  DELETE FROM call_latencies_of_users AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.user_id, old.month, old.provider, old.model, old.status, old.latency_from_ms)
      = (less.tenant_id, less.user_id, date_trunc('month', less.hour, 'UTC'), less.provider, less.model, less.status,
         less.latency_from_ms);
  DELETE FROM call_latencies_of_tenants AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.month, old.provider, old.model, old.status, old.latency_from_ms)
      = (less.tenant_id, date_trunc('month', less.hour, 'UTC'), less.provider, less.model, less.status,
         less.latency_from_ms);
END
$$;

-- Whatever writes a call's row moves the rollups in the same statement: by what it was, and what it is.
CREATE OR REPLACE FUNCTION roll_up_calls() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  figures call_figure[];
BEGIN
  SELECT array_agg(ROW(1, tenant_id, user_id, created_at, provider, model, task_type, status,
    coalesce(block_reason, failure_reason, ''), was_cached, provider_attempted, latency_ms, cost_cents)::call_figure)
  INTO figures FROM after;
  IF TG_OP = 'UPDATE' THEN
    SELECT figures || array_agg(ROW(-1, tenant_id, user_id, created_at, provider, model, task_type, status,
      coalesce(block_reason, failure_reason, ''), was_cached, provider_attempted, latency_ms, cost_cents)::call_figure)
    INTO figures FROM before;
  END IF;
  PERFORM roll_up(figures);
  RETURN NULL;
END
$$;
DROP FUNCTION roll_up_all(call_figure[]);
DROP FUNCTION roll_up_totals(call_figure[]);
DROP FUNCTION sums_of_all_lock();
-- The same columns and meaning as before, from the rollups. Who sees sums of tenants reads those: by row-level security
-- they are all that this reader may see; who sees none reads their users'.
CREATE OR REPLACE VIEW dashboard_cache_hit_rate WITH (security_invoker = true) AS
SELECT 'app.tasks.llm.' || task_type AS endpoint,
       sum(calls)::bigint AS total_calls,
       sum(cached)::bigint AS cache_hits,
       trim_scale(round(100.0 * sum(cached) / sum(calls), 2)) AS cache_hit_rate_pct
FROM (
  SELECT task_type, calls, cached FROM call_sums_of_tenants WHERE span = 'month' AND status = 'success'
  UNION ALL
  SELECT task_type, calls, cached FROM call_sums_of_users WHERE span = 'month' AND status = 'success'
    AND NOT EXISTS (SELECT FROM call_sums_of_tenants)
) AS seen
GROUP BY task_type;

-- Least and greatest latency and percentiles are those of the histogram: exact below 32 ms; from there the least is rounded
-- down and the greatest up, by up to 1/16, and percentiles are within 1/32. The average is exact.
CREATE OR REPLACE VIEW dashboard_provider_cost_latency WITH (security_invoker = true) AS
WITH sums AS (
  SELECT provider, model, status, sum(calls)::bigint AS calls, sum(attempted) AS attempted, sum(latency_ms) AS latency_ms,
         sum(cost_cents) AS cost_cents
  FROM (
    SELECT provider, model, status, calls, attempted, latency_ms, cost_cents
    FROM call_sums_of_tenants WHERE span = 'month'
    UNION ALL
    SELECT provider, model, status, calls, attempted, latency_ms, cost_cents
    FROM call_sums_of_users WHERE span = 'month' AND NOT EXISTS (SELECT FROM call_sums_of_tenants)
    UNION ALL
    SELECT provider, model, 'pending', calls, 0, 0, cost_cents FROM calls_under_way
  ) AS seen
  GROUP BY provider, model, status
), buckets AS (
  SELECT provider, model, status, latency_from_ms, sum(calls) AS calls
  FROM (
    SELECT provider, model, status, latency_from_ms, calls FROM call_latencies_of_tenants
    UNION ALL
    SELECT provider, model, status, latency_from_ms, calls FROM call_latencies_of_users
    WHERE NOT EXISTS (SELECT FROM call_latencies_of_tenants)
  ) AS seen
  GROUP BY provider, model, status, latency_from_ms
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
SET LOCAL ROLE skeldir_ledger;
INSERT INTO call_sums_of_tenants
SELECT tenant_id, span, span_start, provider, model, task_type, status, reason,
       sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
FROM call_sums_of_users WHERE span = 'hour' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
RESET ROLE;
CREATE INDEX call_sums_by_time ON call_sums_of_tenants (span, span_start);
DROP TABLE call_hours_of_tenants, call_hours_of_all, call_sums_of_all, call_latencies_of_all, call_totals_of_tenants;
DROP INDEX shutoffs_that_hold;
ALTER TABLE llm_hourly_shutoff_state DROP COLUMN used_percent;
ALTER TABLE llm_monthly_budget_state DROP COLUMN used_percent;
ALTER TABLE tenant_budget_state DROP COLUMN used_percent;
