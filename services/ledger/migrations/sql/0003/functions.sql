-- Which of these tasks the books know, and by what body and user (the fingerprint says it): the log forgets ended tasks
-- after a time, and a request must not be run again then. Whoever asks knows the id already, which is a function of
-- tenant, endpoint and request id; it learns nothing but that it was used. As the owner, whose only policy on the table
-- is this reading: another user's task has to be recognised, too.
CREATE POLICY owner_recognises ON llm_api_calls FOR SELECT TO skeldir_owner USING (true);
CREATE FUNCTION known_tasks(tasks uuid[]) RETURNS TABLE (id uuid, fingerprint text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
    SELECT call.id, call.request_metadata_ref ->> 'fingerprint' FROM public.llm_api_calls AS call
    WHERE call.id = ANY (tasks) AND call.status <> 'pending' AND call.submitted_stamp IS NOT NULL
  $$;
REVOKE ALL ON FUNCTION known_tasks(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION known_tasks(uuid[]) TO app_ro, app_rw;
