#!lua flags=allow-oom
-- Run commands if the caller still holds the fencing token; else run none of them.
-- KEYS: lease, then every key that the commands touch. ARGV: token, owner, then for each command its word count and words.
-- The owner too: where a failover forgot that a token was taken, another one may have got the same.
local held = redis.call('HMGET', KEYS[1], 'token', 'owner')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return redis.error_reply('FENCED the lease ' .. KEYS[1] .. ' has another holder')
end
local at = 3
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 1
