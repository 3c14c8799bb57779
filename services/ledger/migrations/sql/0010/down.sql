DROP INDEX events_by_seq;
