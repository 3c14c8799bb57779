ALTER TABLE llm_api_calls DROP COLUMN moved_stamp, DROP COLUMN requested_model;
