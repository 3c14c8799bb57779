DROP FUNCTION known_tasks(uuid[]);
DROP POLICY owner_recognises ON llm_api_calls;
