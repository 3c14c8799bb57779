-- Which model was asked for, of a call that policy moved to another; provider and model are those that it went to.
ALTER TABLE llm_api_calls ADD COLUMN moved_stamp uuid, ADD COLUMN requested_model text;
