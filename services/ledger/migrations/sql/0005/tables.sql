-- Messages to webhooks: a queue, and no projection. A rebuild does not touch it, and nothing is replayed into it.
-- Only the ledger reads it, and operators; `of_tenant` is whose event it tells of.
CREATE TABLE webhook_messages (
  webhook_id text NOT NULL,
  message_id uuid NOT NULL,
  of_tenant uuid,
  type text NOT NULL,
  body text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  due_at timestamptz NOT NULL DEFAULT now(),
  attempts integer NOT NULL DEFAULT 0,
  last_problem text,
  given_up_at timestamptz,
  PRIMARY KEY (webhook_id, message_id)
);
CREATE INDEX webhook_messages_due ON webhook_messages (webhook_id, due_at) WHERE given_up_at IS NULL;
-- What was not queued, since too much waited.
CREATE TABLE webhook_gaps (
  webhook_id text NOT NULL,
  minute timestamptz NOT NULL,
  skipped bigint NOT NULL,
  PRIMARY KEY (webhook_id, minute)
);
-- Webhooks that answered 410: no more, until they are set again (at another time than `set_ms`).
CREATE TABLE webhook_ends (
  webhook_id text PRIMARY KEY,
  set_ms bigint NOT NULL,
  ended_at timestamptz NOT NULL DEFAULT now()
);
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['webhook_messages', 'webhook_gaps', 'webhook_ends'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO skeldir_ledger', name);
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
  END LOOP;
END
$$;
