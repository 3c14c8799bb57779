DROP TABLE webhook_messages, webhook_gaps, webhook_ends;
