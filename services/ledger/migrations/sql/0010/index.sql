-- A rebuild reads events by their number, page after page. Rows lie in that order, nearly; so this costs a write next to nothing.
CREATE INDEX events_by_seq ON events USING brin (seq) WITH (autosummarize = on);
