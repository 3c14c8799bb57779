-- The files that events have left the database for (docs/adr/0021): a row for each. Whoever reads all events reads these, too.
CREATE TABLE event_archives (
  file text PRIMARY KEY,                -- its name in the archive's folder
  month date NOT NULL,
  chain integer NOT NULL,               -- the partition
  rows bigint NOT NULL,
  first_seq bigint NOT NULL,            -- its rows are ordered by `seq`
  last_seq bigint NOT NULL,
  first_entry text NOT NULL,            -- the lowest and the highest entry id, in the order of the log
  last_entry text NOT NULL,
  unencrypted bigint NOT NULL,          -- tasks whose texts stand in it as they were: no erasure reaches them
  size bigint NOT NULL,                 -- bytes
  sha256 bytea NOT NULL,
  archived_at timestamptz NOT NULL,
  key_id text,                          -- the key that sealed it, where there was one
  signature bytea
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event_archives FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON event_archives FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Only the owner archives: no service may write here.
ALTER TABLE event_archives ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_archives FORCE ROW LEVEL SECURITY;
GRANT SELECT ON event_archives TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;
CREATE POLICY owner_archives ON event_archives TO skeldir_owner USING (true) WITH CHECK (true);
CREATE POLICY services_read ON event_archives FOR SELECT TO skeldir_ledger, skeldir_operator USING (true);

-- Of the months from one moment to another those of which events were archived; as the owner: a reader who is not shown
-- a task's events is told why, and learns nothing of anybody's.
CREATE FUNCTION archived_months(since timestamptz, until timestamptz) RETURNS date[]
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
    SELECT coalesce(array_agg(DISTINCT month ORDER BY month), '{}') FROM public.event_archives
    WHERE month >= date_trunc('month', since AT TIME ZONE 'UTC') AND month <= until AT TIME ZONE 'UTC'
  $$;
REVOKE ALL ON FUNCTION archived_months(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION archived_months(timestamptz, timestamptz)
  TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;
