-- What each month cost, and how many calls were answered or attempted.
-- As app_user; the output is 01_monthly_spend.csv of `skeldir dashboards export`. Row-level security needs the two settings:
--   psql -v tenant=<uuid> -v users=<uuid>[,<uuid>...] --csv -f 01_monthly_spend.sql "$SKELDIR_DATABASE_URL"
-- Where they are set already (PGOPTIONS, or the session), leave both variables out.
\if :{?tenant}
\o /dev/null
SELECT set_config('app.current_tenant_id', :'tenant', false), set_config('app.current_user_id', :'users', false);
\o
\endif
SELECT tenant_id, user_id, month, total_cost_cents, total_calls
FROM dashboard_monthly_spend
ORDER BY month, tenant_id, user_id;
