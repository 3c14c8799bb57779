-- How many of the answered calls came from the cache, by endpoint.
-- As app_user; the output is 02_cache_hit_rate.csv of `skeldir dashboards export`. Row-level security needs the two settings:
--   psql -v tenant=<uuid> -v users=<uuid>[,<uuid>...] --csv -f 02_cache_hit_rate.sql "$SKELDIR_DATABASE_URL"
-- Where they are set already (PGOPTIONS, or the session), leave both variables out.
\if :{?tenant}
\o /dev/null
SELECT set_config('app.current_tenant_id', :'tenant', false), set_config('app.current_user_id', :'users', false);
\o
\endif
SELECT endpoint, total_calls, cache_hits, cache_hit_rate_pct
FROM dashboard_cache_hit_rate
ORDER BY endpoint;
