-- The keys of prompts and answers, one a tenant and user, wrapped by a master key that is not in here. An erasure
-- destroys the wrapped key and leaves the row: so it is known that, and since when, the texts are gone.
CREATE TABLE data_keys (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  master_key text,                      -- the name of what wraps it
  wrapped bytea,
  created_at timestamptz NOT NULL DEFAULT now(),
  erased_at timestamptz,                -- the order's time: nothing of an event before it is kept either
  CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL) AND (wrapped IS NULL) = (master_key IS NULL))
);
CREATE UNIQUE INDEX data_keys_live ON data_keys (tenant_id, user_id) WHERE wrapped IS NOT NULL;
CREATE INDEX data_keys_by_user ON data_keys (tenant_id, user_id);

ALTER TABLE data_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE data_keys FORCE ROW LEVEL SECURITY;
GRANT SELECT ON data_keys TO app_ro, app_rw, skeldir_auditor, skeldir_operator;
GRANT SELECT, INSERT, UPDATE ON data_keys TO skeldir_ledger;
CREATE POLICY ledger_writes ON data_keys TO skeldir_ledger USING (true) WITH CHECK (true);
CREATE POLICY operator_reads ON data_keys FOR SELECT TO skeldir_operator USING (true);
CREATE POLICY user_reads ON data_keys FOR SELECT TO app_ro, app_rw
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)
    AND user_id = ANY ((SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]));
CREATE POLICY auditor_reads ON data_keys FOR SELECT TO skeldir_auditor
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid));
