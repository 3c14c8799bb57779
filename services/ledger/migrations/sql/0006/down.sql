ALTER TABLE llm_api_calls RESET (fillfactor);
