-- Rollups of llm_api_calls (see docs/adr on rollups): what dashboards read, so that none of them scans the calls.
-- `span` is 'hour' or 'month', of the time at which a call was accepted, in UTC. Whoever sees all users of a tenant reads
-- the sums of tenants; row-level security shows those to nobody else.

CREATE TABLE call_sums_of_users (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  span text NOT NULL CHECK (span IN ('hour', 'month')),
  span_start timestamptz NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  task_type text NOT NULL,
  status text NOT NULL,
  reason text NOT NULL,                 -- why it was blocked or failed; '': it was not
  calls bigint NOT NULL,
  cached bigint NOT NULL,
  attempted bigint NOT NULL,
  latency_ms bigint NOT NULL,           -- of the attempted ones, together
  cost_cents numeric NOT NULL,
  PRIMARY KEY (tenant_id, user_id, span, span_start, provider, model, task_type, status, reason)
);
CREATE TABLE call_sums_of_tenants (LIKE call_sums_of_users INCLUDING CONSTRAINTS);
ALTER TABLE call_sums_of_tenants DROP COLUMN user_id,
  ADD PRIMARY KEY (tenant_id, span, span_start, provider, model, task_type, status, reason);

-- Histograms of the latency of attempted calls, by month: how many were in the bucket that begins here (latency_floor).
CREATE TABLE call_latencies_of_users (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  month timestamptz NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  status text NOT NULL,
  latency_from_ms bigint NOT NULL,
  calls bigint NOT NULL,
  PRIMARY KEY (tenant_id, user_id, month, provider, model, status, latency_from_ms)
);
CREATE TABLE call_latencies_of_tenants (LIKE call_latencies_of_users);
ALTER TABLE call_latencies_of_tenants DROP COLUMN user_id,
  ADD PRIMARY KEY (tenant_id, month, provider, model, status, latency_from_ms);

-- For operators, who look at every tenant.
CREATE INDEX call_sums_by_time ON call_sums_of_tenants (span, span_start);

-- Calls that have not ended: few rows, that go again.
CREATE TABLE calls_under_way (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  hour timestamptz NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  task_type text NOT NULL,
  calls bigint NOT NULL,
  cost_cents numeric NOT NULL,
  PRIMARY KEY (tenant_id, user_id, hour, provider, model, task_type)
);
