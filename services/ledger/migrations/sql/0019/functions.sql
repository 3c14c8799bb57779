-- As in 0014, by quarters of an hour where there were hours, but for the sums of users.
CREATE OR REPLACE FUNCTION roll_up(figures call_figure[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  changes call_change[];
  is_less boolean;
BEGIN
  -- What stayed the same cancels out. A key has to fit into an index, whatever a producer calls a model.
  SELECT array_agg(ROW(one.*)::call_change), bool_or(one.calls < 0) INTO changes, is_less FROM (
    SELECT tenant_id, user_id, date_bin('15 minutes', created_at, '1970-01-01 00:00Z') AS quarter, left(provider, 150) AS provider,
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

  INSERT INTO calls_under_way AS old (tenant_id, user_id, quarter, provider, model, task_type, calls, cost_cents)
  SELECT tenant_id, user_id, quarter, provider, model, task_type, sum(calls), sum(cost_cents)
  FROM unnest(changes) WHERE status = 'pending' GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
  ON CONFLICT (tenant_id, user_id, quarter, provider, model, task_type) DO UPDATE
  SET calls = old.calls + excluded.calls, cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_sums_of_users AS old
  SELECT tenant_id, user_id, span, date_trunc(span, quarter, 'UTC'), provider, model, task_type, status, reason,
         sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
  FROM unnest(changes), unnest(ARRAY['hour', 'month']) AS span
  WHERE status <> 'pending' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ON CONFLICT (tenant_id, user_id, span, span_start, provider, model, task_type, status, reason) DO UPDATE
  SET calls = old.calls + excluded.calls, cached = old.cached + excluded.cached,
      attempted = old.attempted + excluded.attempted, latency_ms = old.latency_ms + excluded.latency_ms,
      cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_sums_of_tenants AS old
  SELECT tenant_id, 'month', date_trunc('month', quarter, 'UTC'), provider, model, task_type, status, reason,
         sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
  FROM unnest(changes)
  WHERE status <> 'pending' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
  ON CONFLICT (tenant_id, span, span_start, provider, model, task_type, status, reason) DO UPDATE
  SET calls = old.calls + excluded.calls, cached = old.cached + excluded.cached,
      attempted = old.attempted + excluded.attempted, latency_ms = old.latency_ms + excluded.latency_ms,
      cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_quarters_of_tenants AS old
  SELECT tenant_id, quarter, status, sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
  FROM unnest(changes) WHERE status <> 'pending' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
  ON CONFLICT (tenant_id, quarter, status) DO UPDATE
  SET calls = old.calls + excluded.calls, cached = old.cached + excluded.cached,
      attempted = old.attempted + excluded.attempted, latency_ms = old.latency_ms + excluded.latency_ms,
      cost_cents = old.cost_cents + excluded.cost_cents;

  INSERT INTO call_latencies_of_users AS old
  SELECT tenant_id, user_id, date_trunc('month', quarter, 'UTC'), provider, model, status, latency_from_ms, sum(calls)
  FROM unnest(changes)
  WHERE latency_from_ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(calls) <> 0 ORDER BY 1, 2, 3, 4, 5, 6, 7
  ON CONFLICT (tenant_id, user_id, month, provider, model, status, latency_from_ms) DO UPDATE
  SET calls = old.calls + excluded.calls;

  INSERT INTO call_latencies_of_tenants AS old
  SELECT tenant_id, date_trunc('month', quarter, 'UTC'), provider, model, status, latency_from_ms, sum(calls)
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
    AND (old.tenant_id, old.user_id, old.quarter, old.provider, old.model, old.task_type)
      = (less.tenant_id, less.user_id, less.quarter, less.provider, less.model, less.task_type);
  IF NOT EXISTS (SELECT FROM unnest(changes) AS less WHERE less.status <> 'pending' AND less.calls < 0) THEN
    RETURN;
  END IF;
  DELETE FROM call_sums_of_users AS old USING unnest(changes) AS less, unnest(ARRAY['hour', 'month']) AS its
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.user_id, old.span, old.span_start, old.status, old.provider, old.model, old.task_type, old.reason)
      = (less.tenant_id, less.user_id, its, date_trunc(its, less.quarter, 'UTC'), less.status, less.provider, less.model,
         less.task_type, less.reason);
  DELETE FROM call_sums_of_tenants AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.span, old.span_start, old.status, old.provider, old.model, old.task_type, old.reason)
      = (less.tenant_id, 'month', date_trunc('month', less.quarter, 'UTC'), less.status, less.provider, less.model,
         less.task_type, less.reason);
  DELETE FROM call_quarters_of_tenants AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.quarter, old.status) = (less.tenant_id, less.quarter, less.status);
  DELETE FROM call_latencies_of_users AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.user_id, old.month, old.provider, old.model, old.status, old.latency_from_ms)
      = (less.tenant_id, less.user_id, date_trunc('month', less.quarter, 'UTC'), less.provider, less.model, less.status,
         less.latency_from_ms);
  DELETE FROM call_latencies_of_tenants AS old USING unnest(changes) AS less
  WHERE less.calls < 0 AND old.calls = 0
    AND (old.tenant_id, old.month, old.provider, old.model, old.status, old.latency_from_ms)
      = (less.tenant_id, date_trunc('month', less.quarter, 'UTC'), less.provider, less.model, less.status,
         less.latency_from_ms);
END
$$;

CREATE OR REPLACE FUNCTION roll_up_all(figures call_figure[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  changes call_change[];
  me bigint := 0;
  empty_quarters call_quarters_of_all[];
  empty_sums call_sums_of_all[];
  empty_latencies call_latencies_of_all[];
BEGIN
  SELECT array_agg(ROW(one.*)::call_change) INTO changes FROM (
    SELECT NULL::uuid, NULL::uuid, date_bin('15 minutes', created_at, '1970-01-01 00:00Z'), left(provider, 150), left(model, 150), task_type,
           status, left(reason, 150), CASE WHEN attempted THEN latency_floor(latency_ms) END,
           sum(sign) AS calls, sum(CASE WHEN was_cached THEN sign ELSE 0 END) AS cached,
           sum(CASE WHEN attempted THEN sign ELSE 0 END) AS attempted,
           sum(CASE WHEN attempted THEN sign * latency_ms ELSE 0 END) AS latency_ms, sum(sign * cost_cents) AS cost_cents
    FROM unnest(figures) WHERE status <> 'pending'
    GROUP BY 3, 4, 5, 6, 7, 8, 9
  ) AS one
  WHERE one.calls <> 0 OR one.cached <> 0 OR one.latency_ms <> 0 OR one.cost_cents <> 0;
  IF changes IS NULL THEN
    RETURN;
  END IF;
  IF NOT pg_try_advisory_xact_lock(sums_of_all_lock()) THEN
    me := pg_current_xact_id()::text::bigint;
  END IF;

  WITH others AS (
    DELETE FROM call_quarters_of_all WHERE me = 0 AND left_by <> 0 RETURNING *
  ), written AS (
    INSERT INTO call_quarters_of_all AS kept (quarter, status, left_by, calls, cached, attempted, latency_ms, cost_cents)
    SELECT quarter, status, me, sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
    FROM (
      SELECT quarter, status, calls, cached, attempted, latency_ms, cost_cents FROM unnest(changes)
      UNION ALL
      SELECT quarter, status, calls, cached, attempted, latency_ms, cost_cents FROM others
    ) AS one
    GROUP BY quarter, status
    ON CONFLICT (quarter, status, left_by) DO UPDATE
    SET calls = kept.calls + excluded.calls, cached = kept.cached + excluded.cached,
        attempted = kept.attempted + excluded.attempted, latency_ms = kept.latency_ms + excluded.latency_ms,
        cost_cents = kept.cost_cents + excluded.cost_cents
    RETURNING kept.*
  )
  SELECT array_agg(ROW(written.*)::call_quarters_of_all) FILTER (WHERE calls = 0 AND left_by = 0)
  INTO empty_quarters FROM written;

  WITH others AS (
    DELETE FROM call_sums_of_all WHERE me = 0 AND left_by <> 0 RETURNING *
  ), written AS (
    INSERT INTO call_sums_of_all AS kept (
      month, provider, model, task_type, status, reason, left_by, calls, cached, attempted, latency_ms, cost_cents)
    SELECT month, provider, model, task_type, status, reason, me,
           sum(calls), sum(cached), sum(attempted), sum(latency_ms), sum(cost_cents)
    FROM (
      SELECT date_trunc('month', quarter, 'UTC') AS month, provider, model, task_type, status, reason,
             calls, cached, attempted, latency_ms, cost_cents
      FROM unnest(changes)
      UNION ALL
      SELECT month, provider, model, task_type, status, reason, calls, cached, attempted, latency_ms, cost_cents FROM others
    ) AS one
    GROUP BY month, provider, model, task_type, status, reason
    ON CONFLICT (month, provider, model, task_type, status, reason, left_by) DO UPDATE
    SET calls = kept.calls + excluded.calls, cached = kept.cached + excluded.cached,
        attempted = kept.attempted + excluded.attempted, latency_ms = kept.latency_ms + excluded.latency_ms,
        cost_cents = kept.cost_cents + excluded.cost_cents
    RETURNING kept.*
  )
  SELECT array_agg(ROW(written.*)::call_sums_of_all) FILTER (WHERE calls = 0 AND left_by = 0)
  INTO empty_sums FROM written;

  WITH others AS (
    DELETE FROM call_latencies_of_all WHERE me = 0 AND left_by <> 0 RETURNING *
  ), written AS (
    INSERT INTO call_latencies_of_all AS kept (month, provider, model, status, latency_from_ms, left_by, calls)
    SELECT month, provider, model, status, latency_from_ms, me, sum(calls)
    FROM (
      SELECT date_trunc('month', quarter, 'UTC') AS month, provider, model, status, latency_from_ms, calls
      FROM unnest(changes)
      WHERE latency_from_ms IS NOT NULL
      UNION ALL
      SELECT month, provider, model, status, latency_from_ms, calls FROM others
    ) AS one
    GROUP BY month, provider, model, status, latency_from_ms HAVING sum(calls) <> 0
    ON CONFLICT (month, provider, model, status, latency_from_ms, left_by) DO UPDATE
    SET calls = kept.calls + excluded.calls
    RETURNING kept.*
  )
  SELECT array_agg(ROW(written.*)::call_latencies_of_all) FILTER (WHERE calls = 0 AND left_by = 0)
  INTO empty_latencies FROM written;

  -- What has come to nothing goes, so that a rebuild gives the same rows.
  IF empty_quarters IS NOT NULL THEN
    DELETE FROM call_quarters_of_all AS old USING unnest(empty_quarters) AS none
    WHERE old.calls = 0 AND old.left_by = 0
      AND (old.quarter, old.status) = (none.quarter, none.status);
  END IF;
  IF empty_sums IS NOT NULL THEN
    DELETE FROM call_sums_of_all AS old USING unnest(empty_sums) AS none
    WHERE old.calls = 0 AND old.left_by = 0
      AND (old.month, old.provider, old.model, old.task_type, old.status, old.reason)
        = (none.month, none.provider, none.model, none.task_type, none.status, none.reason);
  END IF;
  IF empty_latencies IS NOT NULL THEN
    DELETE FROM call_latencies_of_all AS old USING unnest(empty_latencies) AS none
    WHERE old.calls = 0 AND old.left_by = 0
      AND (old.month, old.provider, old.model, old.status, old.latency_from_ms)
        = (none.month, none.provider, none.model, none.status, none.latency_from_ms);
  END IF;
END
$$;
