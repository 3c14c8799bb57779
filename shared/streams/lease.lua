#!lua flags=allow-oom
-- Take, renew or give back a lease. Returns the fencing token, or 0 where another owner holds it. Who finds it taken may
-- leave word of how many leases it has, for so long as a lease lasts.
-- KEYS: lease. ARGV: owner, time to live in ms (0 gives it back), `take` for a new token or `renew`, and how many the
-- owner has. Or, in the third place, `wanted`: the fewest that one has who found it taken, -1 where nobody has lately.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires_ms', 'token')
local alive = held[2] and tonumber(held[2]) > now
local ttl = tonumber(ARGV[2])
if ARGV[3] == 'wanted' then
  local word = redis.call('HMGET', KEYS[1], 'wanted_by_one_with', 'wanted_until_ms')
  if word[2] and tonumber(word[2]) > now then return tonumber(word[1]) end
  return -1
end
if ttl == 0 then
  if held[1] == ARGV[1] then redis.call('HSET', KEYS[1], 'expires_ms', 0) end
  return 0
end
local expires = string.format('%.0f', now + ttl)
if alive and held[1] ~= ARGV[1] then
  if ARGV[4] then
    local word = redis.call('HMGET', KEYS[1], 'wanted_by_one_with', 'wanted_until_ms')
    local stands = word[2] and tonumber(word[2]) > now and tonumber(word[1]) < tonumber(ARGV[4])
    if not stands then
      redis.call('HSET', KEYS[1], 'wanted_by_one_with', ARGV[4], 'wanted_until_ms', expires)
    end
  end
  return 0
end
if alive and ARGV[3] == 'renew' then
  redis.call('HSET', KEYS[1], 'expires_ms', expires)
  return tonumber(held[3])
end
-- A lease that is not there was lost with its log: to renew it would give out the first token once more, to one who holds
-- just that, and would go on with what it remembers on an empty log.
if ARGV[3] == 'renew' and not held[3] then return 0 end
-- A lease that ran out, or is taken afresh, gets a new token even for the same owner: a commit that is still on its way
-- from before must be refused.
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires_ms', expires, 'wanted_until_ms', 0)
return token
