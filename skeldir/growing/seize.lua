#!lua flags=allow-oom
-- Take a lease from whoever holds it, with a new fencing token: what the holder still sends is refused. Returns the token.
-- KEYS: lease. ARGV: owner, time to live in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires_ms', string.format('%.0f', now + ARGV[2]))
return token
