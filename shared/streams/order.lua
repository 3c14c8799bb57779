#!lua flags=allow-oom
-- Append an order, also when the server's memory is full: a stop must get through then, too.
-- KEYS: control stream. ARGV: data.
return redis.call('XADD', KEYS[1], '*', 'data', ARGV[1])
