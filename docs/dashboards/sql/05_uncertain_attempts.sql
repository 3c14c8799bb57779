-- Attempts whose end nobody knows: their money is held as perhaps spent until a late result or `skeldir reconcile`.
-- As app_user. Row-level security needs the two settings:
--   psql -v tenant=<uuid> -v users=<uuid>[,<uuid>...] --csv -f 05_uncertain_attempts.sql "$SKELDIR_DATABASE_URL"
-- Where they are set already (PGOPTIONS, or the session), leave both variables out.
\if :{?tenant}
\o /dev/null
SELECT set_config('app.current_tenant_id', :'tenant', false), set_config('app.current_user_id', :'users', false);
\o
\endif
SELECT tenant_id, user_id, request_id, endpoint, task_id, decision_id, provider, model, status, failure_reason, reserved_cents,
       held_since
FROM dashboard_uncertain_attempts
ORDER BY held_since, decision_id;
