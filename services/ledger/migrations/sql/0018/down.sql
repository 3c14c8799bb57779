DROP INDEX events_by_seq;
CREATE INDEX events_by_seq ON events USING brin (seq) WITH (autosummarize = on);
