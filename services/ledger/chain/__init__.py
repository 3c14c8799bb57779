"""Tamper evidence: each row of `events` carries the hash of the row before it in its partition, and its own; now and
then the end of a chain is sealed (signed). See docs/adr/0014-chain-of-events.md."""
