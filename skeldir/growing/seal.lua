#!lua flags=allow-oom
-- Keep a partition as it is for a time, if nobody has changed it since it was copied: its gateways stay closed, and its
-- policy's lease with whoever seals it.
-- KEYS: fence, policy's lease, policy, tasks, outcomes. ARGV: token, owner, for how many ms.
-- Returns `sealed`; else `lease` or the stream that has something new.
local held = redis.call('HMGET', KEYS[2], 'token', 'owner')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 'lease' end
for at, name in ipairs({'tasks', 'outcomes'}) do
  local position = redis.call('HGET', KEYS[3], name) or '0-0'
  if #redis.call('XRANGE', KEYS[3 + at], '(' .. position, '+', 'COUNT', 1) > 0 then return name end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[2], 'expires_ms', string.format('%.0f', now + ARGV[3]))
redis.call('SET', KEYS[1], 'closed', 'PX', ARGV[3])
return 'sealed'
