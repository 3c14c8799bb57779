-- Sums of calls over all tenants (docs/adr/0023-sums-of-all.md): what an operator reads, whatever the number of tenants.
-- Each sum is one row, which one writer at a time may change; what another writer has to add meanwhile stands beside it as a
-- row of its own, until a later write adds it. So whoever reads sums up all rows of a key.
CREATE TABLE call_hours_of_all (
  hour timestamptz NOT NULL,
  status text NOT NULL,
  left_by bigint NOT NULL DEFAULT 0,    -- 0: the sum; else the transaction that left this to be added
  calls bigint NOT NULL,
  cached bigint NOT NULL,
  attempted bigint NOT NULL,
  latency_ms bigint NOT NULL,           -- of the attempted ones, together
  cost_cents numeric NOT NULL,
  PRIMARY KEY (hour, status, left_by)
);
CREATE TABLE call_sums_of_all (
  month timestamptz NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  task_type text NOT NULL,
  status text NOT NULL,
  reason text NOT NULL,
  left_by bigint NOT NULL DEFAULT 0,
  calls bigint NOT NULL,
  cached bigint NOT NULL,
  attempted bigint NOT NULL,
  latency_ms bigint NOT NULL,
  cost_cents numeric NOT NULL,
  PRIMARY KEY (month, provider, model, task_type, status, reason, left_by)
);
CREATE TABLE call_latencies_of_all (
  month timestamptz NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  status text NOT NULL,
  latency_from_ms bigint NOT NULL,
  left_by bigint NOT NULL DEFAULT 0,
  calls bigint NOT NULL,
  PRIMARY KEY (month, provider, model, status, latency_from_ms, left_by)
);
CREATE INDEX call_hours_left ON call_hours_of_all (left_by) WHERE left_by <> 0;
CREATE INDEX call_sums_left ON call_sums_of_all (left_by) WHERE left_by <> 0;
CREATE INDEX call_latencies_left ON call_latencies_of_all (left_by) WHERE left_by <> 0;

-- The hours of each tenant by how calls ended: what a chart of a tenant reads, in place of its sums by hour.
CREATE TABLE call_hours_of_tenants (
  tenant_id uuid NOT NULL,
  hour timestamptz NOT NULL,
  status text NOT NULL,
  calls bigint NOT NULL,
  cached bigint NOT NULL,
  attempted bigint NOT NULL,
  latency_ms bigint NOT NULL,
  cost_cents numeric NOT NULL,
  PRIMARY KEY (tenant_id, hour, status)
);
DROP INDEX call_sums_by_time;

-- What each tenant's month came to, a row a tenant: which tenants cost what is asked without their models and types.
CREATE TABLE call_totals_of_tenants (
  tenant_id uuid NOT NULL,
  month timestamptz NOT NULL,
  success bigint NOT NULL,
  blocked bigint NOT NULL,
  failed bigint NOT NULL,
  cost_cents numeric NOT NULL,
  PRIMARY KEY (tenant_id, month)
);
CREATE INDEX call_totals_by_month ON call_totals_of_tenants (month);
