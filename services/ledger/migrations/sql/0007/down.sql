DROP TABLE event_seals, event_chains;
ALTER TABLE events DROP COLUMN chain_no, DROP COLUMN chain_hash;
