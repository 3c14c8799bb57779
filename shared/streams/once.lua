#!lua flags=allow-oom
-- Set a string that is not there; also when memory is full: what waits for it makes room.
-- KEYS: the string. ARGV: its value.
return redis.call('SETNX', KEYS[1], ARGV[1])
