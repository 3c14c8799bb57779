-- For the read API: newest first of a tenant or of all, and what a person has in hand when they search.
CREATE INDEX llm_api_calls_by_time ON llm_api_calls (created_at DESC, id DESC);
CREATE INDEX llm_api_calls_by_tenant ON llm_api_calls (tenant_id, created_at DESC, id DESC);
CREATE INDEX llm_api_calls_by_request_id ON llm_api_calls (request_id);
CREATE INDEX llm_api_calls_by_correlation ON llm_api_calls (correlation_id) WHERE correlation_id IS NOT NULL;
