-- Tamper evidence (see docs/adr on the chain of events). Rows from before have no place in a chain: they are counted.
ALTER TABLE events ADD COLUMN chain_no bigint, ADD COLUMN chain_hash bytea;

-- The end of each chain: the next row follows on `head`. Locked by whoever appends.
CREATE TABLE event_chains (
  chain integer PRIMARY KEY,            -- the partition; -1: the control stream
  unchained bigint NOT NULL DEFAULT 0,  -- rows from before the chain was begun
  length bigint NOT NULL DEFAULT 0,
  head bytea NOT NULL
);

-- Ends of chains, signed.
CREATE TABLE event_seals (
  chain integer NOT NULL,
  unchained bigint NOT NULL,
  length bigint NOT NULL,
  head bytea NOT NULL,
  sealed_at timestamptz NOT NULL,
  key_id text NOT NULL,
  signature bytea NOT NULL,
  PRIMARY KEY (chain, length, key_id)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event_seals FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON event_seals FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['event_chains', 'event_seals'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT ON %I TO skeldir_ledger', name);
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
  END LOOP;
END
$$;
GRANT UPDATE ON event_chains TO skeldir_ledger;

-- As the one role that sees every event.
SET LOCAL ROLE skeldir_ledger;
INSERT INTO event_chains (chain, unchained, head)
SELECT coalesce(partition, -1), count(*), sha256(convert_to('skeldir chain ' || coalesce(partition, -1), 'UTF8'))
FROM events GROUP BY 1;
RESET ROLE;
