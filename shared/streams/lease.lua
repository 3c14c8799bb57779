#!lua flags=allow-oom
-- Take, renew or give back a lease. Returns the fencing token, or 0 where another owner holds it.
-- KEYS: lease. ARGV: owner, time to live in ms (0 gives it back), `take` for a new token or `renew`.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires_ms', 'token')
local alive = held[2] and tonumber(held[2]) > now
local ttl = tonumber(ARGV[2])
if ttl == 0 then
  if held[1] == ARGV[1] then redis.call('HSET', KEYS[1], 'expires_ms', 0) end
  return 0
end
if alive and held[1] ~= ARGV[1] then return 0 end
local expires = string.format('%.0f', now + ttl)
if alive and ARGV[3] == 'renew' then
  redis.call('HSET', KEYS[1], 'expires_ms', expires)
  return tonumber(held[3])
end
-- A lease that ran out, or is taken afresh, gets a new token even for the same owner: a commit that is still on its way
-- from before must be refused.
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires_ms', expires)
return token
