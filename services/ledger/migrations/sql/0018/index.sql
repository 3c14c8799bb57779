-- A short row is put into what is left of an old page. With the least and the highest number alone, a block of pages that has
-- one such row looks as if it had everything between, and reading a span of numbers reads the month: of ten million events
-- 5 s a span in place of 0.1. Several ranges for each block keep such rows apart.
DROP INDEX events_by_seq;
CREATE INDEX events_by_seq ON events USING brin (seq int8_minmax_multi_ops) WITH (autosummarize = on);
