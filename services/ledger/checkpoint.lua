#!lua flags=allow-oom
-- Say how far the books go. Also when memory is full: what is trimmed behind it makes room again.
-- KEYS: the ledger's position. ARGV: stream, entry id, and so on.
return redis.call('HSET', KEYS[1], unpack(ARGV))
