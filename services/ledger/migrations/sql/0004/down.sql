DROP INDEX llm_api_calls_by_correlation;
DROP INDEX llm_api_calls_by_request_id;
DROP INDEX llm_api_calls_by_tenant;
DROP INDEX llm_api_calls_by_time;
