-- One table again, with the same rows and numbers.
ALTER TABLE events RENAME TO events_by_month;
ALTER TABLE events_by_month NO FORCE ROW LEVEL SECURITY;
ALTER SEQUENCE events_seq_seq RENAME TO events_by_month_seq_seq;
CREATE TABLE events (
  seq bigint GENERATED ALWAYS AS IDENTITY,
  id uuid,
  partition integer,
  stream text NOT NULL,
  entry_id text NOT NULL,
  type text NOT NULL,
  version integer NOT NULL,
  time timestamptz NOT NULL,
  tenant_id uuid,
  user_id uuid,
  subject text NOT NULL,
  correlation_id text,
  causation_id uuid,
  body text NOT NULL,
  chain_no bigint,
  chain_hash bytea
);
SELECT setval('events_seq_seq', last_value, is_called) FROM events_by_month_seq_seq;
INSERT INTO events (seq, id, partition, stream, entry_id, type, version, time, tenant_id, user_id, subject, correlation_id,
  causation_id, body, chain_no, chain_hash) OVERRIDING SYSTEM VALUE
SELECT seq, id, partition, stream, entry_id, type, version, time, tenant_id, user_id, subject, correlation_id, causation_id,
  body, chain_no, chain_hash
FROM events_by_month ORDER BY seq;
DROP TABLE events_by_month;
DROP FUNCTION make_event_month(date);

ALTER TABLE events ADD PRIMARY KEY (id);
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
CREATE POLICY ledger_writes ON events TO skeldir_ledger USING (true) WITH CHECK (true);
CREATE POLICY operator_reads ON events FOR SELECT TO skeldir_operator USING (true);
CREATE POLICY user_reads ON events FOR SELECT TO app_ro, app_rw
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)
    AND user_id = ANY ((SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]));
CREATE POLICY auditor_reads ON events FOR SELECT TO skeldir_auditor
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid));
