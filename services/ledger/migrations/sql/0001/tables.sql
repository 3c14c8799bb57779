-- Columns named *_stamp or *_version order the writes of one group of columns: the highest wins, whatever came first.
-- Amounts are cents, exact. Times are those of the events, so that a rebuild gives the same rows.

-- The books: every event as it stood in the log. Appended to, never changed.
CREATE TABLE events (
  seq bigint GENERATED ALWAYS AS IDENTITY,
  id uuid PRIMARY KEY,
  partition integer,                    -- null: the control stream
  stream text NOT NULL,
  entry_id text NOT NULL,
  type text NOT NULL,
  version integer NOT NULL,
  time timestamptz NOT NULL,
  tenant_id uuid,                       -- null: an order that concerns every tenant
  user_id uuid,
  subject text NOT NULL,
  correlation_id text,
  causation_id uuid,
  body text NOT NULL                    -- the JSON exactly as it was written
);
CREATE INDEX events_by_user ON events (tenant_id, user_id, seq);
CREATE INDEX events_by_subject ON events (tenant_id, subject);
CREATE INDEX events_of_control ON events (tenant_id, entry_id) WHERE partition IS NULL;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Up to where each stream is in the books.
CREATE TABLE checkpoints (
  stream text PRIMARY KEY,
  entry_id text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- Entries that could not be read or projected. They are in the dead-letter stream too.
CREATE TABLE skipped_entries (
  stream text NOT NULL,
  entry_id text NOT NULL,
  reason text NOT NULL,
  type bytea,
  data bytea,
  dead_lettered boolean NOT NULL DEFAULT false,
  skipped_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, entry_id)
);

CREATE TABLE dead_letters (
  origin text NOT NULL,
  entry_id text NOT NULL,
  letter_id text NOT NULL,              -- its entry in the dead-letter stream
  reason text NOT NULL,
  type bytea,
  data bytea,
  recorded_at timestamptz NOT NULL,
  PRIMARY KEY (origin, entry_id)
);

-- Who looked across tenants.
CREATE TABLE read_audit (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  at timestamptz NOT NULL DEFAULT now(),
  key_id text NOT NULL,
  key_tenant_id uuid NOT NULL,
  what text NOT NULL,
  tenant_id uuid,
  user_id uuid
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON read_audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON read_audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One row a task; `id` is the task's id, a function of (tenant, endpoint, request_id).
CREATE TABLE llm_api_calls (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  endpoint text NOT NULL,
  request_id text NOT NULL,
  task_type text NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  correlation_id text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  -- task.submitted
  submitted_stamp uuid,
  cache_key text,
  cache_watermark bigint NOT NULL DEFAULT 0,
  max_cost_cents numeric,
  request_metadata_ref jsonb,
  -- task.allowed
  decision_stamp uuid,
  decision_id uuid,
  decided_at timestamptz,
  budget_reservation_cents numeric NOT NULL DEFAULT 0,
  allowed_breaker_state text,
  -- attempt.started
  attempt_stamp uuid,
  attempt_id uuid,
  attempts integer NOT NULL DEFAULT 0,
  -- task.succeeded, task.blocked, task.failed
  end_stamp uuid,
  ended_at timestamptz,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'success', 'blocked', 'failed')),
  block_reason text,
  failure_reason text,
  failure_detail text,
  was_cached boolean NOT NULL DEFAULT false,
  end_attempted boolean,
  end_breaker_state text,
  end_cost_cents numeric,
  output_text text,
  reasoning_trace_ref jsonb,
  response_metadata_ref jsonb,
  -- an end, or attempt.resolved, which knows better
  usage_stamp uuid,
  input_tokens bigint NOT NULL DEFAULT 0,
  output_tokens bigint NOT NULL DEFAULT 0,
  latency_ms bigint NOT NULL DEFAULT 0,
  -- reservation.ended
  settled_stamp uuid,
  budget_settled_cents numeric,
  provider_attempted boolean NOT NULL GENERATED ALWAYS AS (coalesce(end_attempted, attempt_id IS NOT NULL)) STORED,
  breaker_state text GENERATED ALWAYS AS (coalesce(end_breaker_state, allowed_breaker_state)) STORED,
  -- What policy settled is the last word: for an attempt of unknown end it comes after the end.
  cost_cents numeric NOT NULL GENERATED ALWAYS AS (coalesce(budget_settled_cents, end_cost_cents, 0)) STORED
);
CREATE UNIQUE INDEX llm_api_calls_by_request ON llm_api_calls (tenant_id, endpoint, request_id);
CREATE INDEX llm_api_calls_by_user ON llm_api_calls (tenant_id, user_id, created_at DESC, id DESC);

CREATE TABLE llm_monthly_costs (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  month date NOT NULL,
  total_cost_cents numeric NOT NULL DEFAULT 0,
  total_calls bigint NOT NULL DEFAULT 0,
  model_breakdown jsonb NOT NULL DEFAULT '{}',
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, user_id, month)
);

-- The sum of two {model: {calls, cost_cents}}.
CREATE FUNCTION add_breakdown(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
  SELECT coalesce(jsonb_object_agg(model, jsonb_build_object('calls', calls, 'cost_cents', cost_cents)), '{}')
  FROM (
    SELECT key AS model, sum((value ->> 'calls')::bigint) AS calls,
           trim_scale(sum((value ->> 'cost_cents')::numeric)) AS cost_cents
    FROM (SELECT * FROM jsonb_each(a) UNION ALL SELECT * FROM jsonb_each(b)) AS both_sides
    GROUP BY key
  ) AS summed
$$;

CREATE TABLE llm_monthly_budget_state (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  month date NOT NULL,
  balance_version bigint,
  cap_cents numeric,                    -- null: nothing bounds this user by themselves
  spent_cents numeric NOT NULL DEFAULT 0,
  reserved_cents numeric NOT NULL DEFAULT 0,
  total_calls bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, user_id, month)
);

-- The same for a tenant as a whole, where it has a limit.
CREATE TABLE tenant_budget_state (
  tenant_id uuid NOT NULL,
  budget_window text NOT NULL CHECK (budget_window IN ('hour', 'month')),
  window_start timestamptz NOT NULL,
  balance_version bigint,
  cap_cents numeric,
  spent_cents numeric NOT NULL DEFAULT 0,
  reserved_cents numeric NOT NULL DEFAULT 0,
  total_calls bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, budget_window, window_start)
);

-- A user's clock hour. Policy writes the balance and the trip, operators the manual shutoff; each has its own columns.
CREATE TABLE llm_hourly_shutoff_state (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  hour_start timestamptz NOT NULL,
  balance_version bigint,
  threshold_cents numeric,
  total_cost_cents numeric NOT NULL DEFAULT 0,
  reserved_cents numeric NOT NULL DEFAULT 0,
  total_calls bigint NOT NULL DEFAULT 0,
  trip_version bigint,
  tripped_until timestamptz,
  manual_stamp uuid,
  manual_engaged boolean NOT NULL DEFAULT false,
  manual_reason text,
  manual_actor text,
  manual_until timestamptz,
  updated_at timestamptz NOT NULL,
  -- A trip holds until a later balance is under its threshold again (an operator has raised it).
  is_tripped boolean NOT NULL GENERATED ALWAYS AS (
    trip_version IS NOT NULL
    AND NOT (coalesce(balance_version > trip_version, false) AND coalesce(total_cost_cents < threshold_cents, true))
  ) STORED,
  is_shutoff boolean NOT NULL GENERATED ALWAYS AS (
    manual_engaged OR trip_version IS NOT NULL
    AND NOT (coalesce(balance_version > trip_version, false) AND coalesce(total_cost_cents < threshold_cents, true))
  ) STORED,
  reason text GENERATED ALWAYS AS (
    CASE WHEN manual_engaged THEN manual_reason WHEN trip_version IS NOT NULL THEN 'hourly_threshold_exceeded' END
  ) STORED,
  disabled_until timestamptz GENERATED ALWAYS AS (
    CASE WHEN manual_engaged THEN greatest(manual_until, tripped_until) ELSE tripped_until END
  ) STORED,
  PRIMARY KEY (tenant_id, user_id, hour_start)
);

CREATE TABLE llm_breaker_state (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  breaker_key text NOT NULL,
  breaker_version bigint,
  state text NOT NULL,
  failure_count integer NOT NULL,
  opened_at timestamptz,
  last_trip_at timestamptz,
  reason text,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, user_id, breaker_key)
);

CREATE TABLE llm_budget_reservations (
  id uuid PRIMARY KEY,                  -- also the id of the decision
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  api_call_id uuid NOT NULL,
  request_id text NOT NULL,
  endpoint text NOT NULL,
  reserved_cents numeric NOT NULL,
  reserved_stamp uuid,
  hour_start timestamptz,
  month date,
  reserved_at timestamptz,
  ended_stamp uuid,
  state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'settled', 'released', 'held')),
  settled_cents numeric,
  overrun_cents numeric,
  ended_at timestamptz
);
CREATE INDEX llm_budget_reservations_by_user ON llm_budget_reservations (tenant_id, user_id, month, state);
CREATE INDEX llm_budget_reservations_by_call ON llm_budget_reservations (tenant_id, api_call_id);

CREATE TABLE investigations (
  id uuid PRIMARY KEY,                  -- the task's id: four deliveries are one row
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  query text NOT NULL,
  status text NOT NULL,
  result jsonb NOT NULL,
  cost_cents numeric NOT NULL,
  created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX investigations_by_query ON investigations (tenant_id, user_id, query);

CREATE TABLE budget_optimization_jobs (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  status text NOT NULL,
  recommendations jsonb NOT NULL,
  cost_cents numeric NOT NULL,
  created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX budget_optimization_jobs_by_request
  ON budget_optimization_jobs (tenant_id, user_id, (recommendations ->> 'request_id'));

-- What operators ordered, folded from the control stream.
CREATE TABLE kill_switches (
  scope_key text PRIMARY KEY,           -- the scope as canonical JSON
  tenant_id uuid,
  user_id uuid,
  provider text,
  model text,
  task_type text,
  switch_stamp uuid,
  engaged boolean NOT NULL,
  reason text NOT NULL,
  actor text NOT NULL,
  until timestamptz,
  changed_at timestamptz NOT NULL
);
CREATE INDEX kill_switches_by_user ON kill_switches (tenant_id, user_id);

CREATE TABLE tenant_limits (
  tenant_id uuid NOT NULL,
  owner text NOT NULL,                  -- the user's id, or `*` for the tenant as a whole
  user_id uuid,
  hourly_stamp uuid,
  hourly_cents numeric,
  monthly_stamp uuid,
  monthly_cents numeric,
  in_flight_stamp uuid,
  max_in_flight integer,
  changed_stamp uuid,
  actor text,
  reason text,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, owner)
);

CREATE TABLE api_keys (
  key_id text PRIMARY KEY,
  created_stamp uuid,
  secret_sha256 text,
  tenant_id uuid,
  user_id uuid,
  role text,
  until timestamptz,
  created_by text,
  created_at timestamptz,
  revoked_stamp uuid,
  revoked_at timestamptz,
  revoked_by text
);
CREATE INDEX api_keys_by_user ON api_keys (tenant_id, user_id);
