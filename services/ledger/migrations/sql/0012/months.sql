-- Events by the month of their time, in UTC (see docs/adr on event months). The rows that are there move, in their order; the
-- sequence keeps its name and goes on.
ALTER TABLE events RENAME TO events_whole;
ALTER SEQUENCE events_seq_seq RENAME TO events_whole_seq_seq;
-- So that its owner, who runs this, sees the rows.
ALTER TABLE events_whole NO FORCE ROW LEVEL SECURITY;

CREATE SEQUENCE events_seq_seq;
CREATE TABLE events (
  -- No identity: on partitioned tables PostgreSQL has them from 17 on.
  seq bigint NOT NULL DEFAULT nextval('events_seq_seq'),
  id uuid NOT NULL,
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
  body text NOT NULL,                   -- the JSON exactly as it was written
  chain_no bigint,
  chain_hash bytea
) PARTITION BY RANGE (time);
ALTER SEQUENCE events_seq_seq OWNED BY events.seq;
SELECT setval('events_seq_seq', last_value, is_called) FROM events_whole_seq_seq;

-- Makes the table of a month where there is none. As the owner: the ledger calls it, and owns nothing. It is filled through
-- `events` only, whose policies then count; by itself nobody may touch it, and it shows nobody a row.
CREATE FUNCTION make_event_month(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
DECLARE
  month CONSTANT timestamp := date_trunc('month', day::timestamp);
  name CONSTANT text := 'events_' || to_char(month, 'YYYY_MM');
BEGIN
  -- A bound on how many tables a clock that lies can make.
  IF month < '1970-01-01' OR month >= '2200-01-01' THEN
    RAISE EXCEPTION 'no event is of %', day USING ERRCODE = 'datetime_field_overflow';
  END IF;
  -- One after the other, as the attachment below does it; who comes second looks when the first has committed.
  LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE;
  IF to_regclass(name) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS)', name);
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
  -- Triggers for each row come with the attachment; this one does not.
  EXECUTE format('CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON %I FOR EACH STATEMENT '
                 'EXECUTE FUNCTION refuse_change()', name);
  -- Attached, and not made as a partition: that would wait for whoever reads events, and keep all others waiting.
  EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
                 to_char(month, 'YYYY-MM-DD "00:00+00"'), to_char(month + interval '1 month', 'YYYY-MM-DD "00:00+00"'));
END
$$;
REVOKE ALL ON FUNCTION make_event_month(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_event_month(date) TO skeldir_ledger;

SELECT make_event_month(month) FROM (
  SELECT DISTINCT date_trunc('month', time AT TIME ZONE 'UTC')::date AS month FROM events_whole
  UNION SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date
        FROM generate_series(0, 1) AS ahead
) AS months;
INSERT INTO events (seq, id, partition, stream, entry_id, type, version, time, tenant_id, user_id, subject, correlation_id,
  causation_id, body, chain_no, chain_hash)
SELECT seq, id, partition, stream, entry_id, type, version, time, tenant_id, user_id, subject, correlation_id, causation_id,
  body, chain_no, chain_hash
FROM events_whole ORDER BY seq;
DROP TABLE events_whole;

ALTER TABLE events ADD PRIMARY KEY (id, time);
CREATE INDEX events_by_user ON events (tenant_id, user_id, seq);
CREATE INDEX events_by_subject ON events (tenant_id, subject);
CREATE INDEX events_of_control ON events (tenant_id, entry_id) WHERE partition IS NULL;
CREATE INDEX events_by_seq ON events USING brin (seq) WITH (autosummarize = on);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
GRANT SELECT ON events TO app_ro, app_rw, skeldir_auditor, skeldir_operator;
GRANT SELECT, INSERT ON events TO skeldir_ledger;
GRANT USAGE, SELECT ON SEQUENCE events_seq_seq TO skeldir_ledger;
CREATE POLICY ledger_writes ON events TO skeldir_ledger USING (true) WITH CHECK (true);
CREATE POLICY operator_reads ON events FOR SELECT TO skeldir_operator USING (true);
CREATE POLICY user_reads ON events FOR SELECT TO app_ro, app_rw
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)
    AND user_id = ANY ((SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]));
CREATE POLICY auditor_reads ON events FOR SELECT TO skeldir_auditor
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid));
