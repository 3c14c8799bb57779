-- Attempts whose end nobody knows: their money is held as perhaps spent until a late result or `skeldir reconcile`.
CREATE VIEW dashboard_uncertain_attempts WITH (security_invoker = true) AS
SELECT held.tenant_id, held.user_id, held.request_id, held.endpoint, held.api_call_id AS task_id,
       held.id AS decision_id, call.provider, call.model, call.status, call.failure_reason,
       trim_scale(held.reserved_cents) AS reserved_cents,
       to_char(held.ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS held_since
FROM llm_budget_reservations AS held
LEFT JOIN llm_api_calls AS call ON call.id = held.api_call_id
WHERE held.state = 'held';

GRANT SELECT ON dashboard_uncertain_attempts TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;

-- Few of many: the view reads no others.
CREATE INDEX llm_budget_reservations_held ON llm_budget_reservations (tenant_id, user_id) WHERE state = 'held';
