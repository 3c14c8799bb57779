-- Buckets have five significant bits: below 32 ms each is one millisecond, then 1/16 to 1/32 of where it begins is its width.
-- So the middle of a bucket is within 1/32 (3.2 %) of every latency in it. Histograms of the same buckets add up.
CREATE FUNCTION latency_width(latency_ms bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN 1::bigint << greatest(length(ltrim(latency_ms::bit(64)::text, '0')) - 5, 0);
CREATE FUNCTION latency_floor(latency_ms bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN greatest(latency_ms, 0) - greatest(latency_ms, 0) % latency_width(greatest(latency_ms, 0));

-- A call's row as it came (sign 1) or as it was (-1).
CREATE TYPE call_figure AS (
  sign integer,
  tenant_id uuid,
  user_id uuid,
  created_at timestamptz,
  provider text,
  model text,
  task_type text,
  status text,
  reason text,
  was_cached boolean,
  attempted boolean,
  latency_ms bigint,
  cost_cents numeric
);
CREATE TYPE call_change AS (
  tenant_id uuid,
  user_id uuid,
  hour timestamptz,
  provider text,
  model text,
  task_type text,
  status text,
  reason text,
  latency_from_ms bigint,
  calls bigint,
  cached bigint,
  attempted bigint,
  latency_ms bigint,
  cost_cents numeric
);

-- Adds rows of calls to the rollups, and takes away what they were before. One write a key, in the order of the keys.
CREATE FUNCTION roll_up(figures call_figure[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
CREATE FUNCTION roll_up_calls() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER roll_up_new AFTER INSERT ON llm_api_calls
  REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION roll_up_calls();
CREATE TRIGGER roll_up_changed AFTER UPDATE ON llm_api_calls
  REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION roll_up_calls();
