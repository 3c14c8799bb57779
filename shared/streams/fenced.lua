#!lua flags=allow-oom
-- Run commands if the caller still holds the fencing token; else run none of them.
-- KEYS: lease, then every key that the commands touch. ARGV: token, then for each command its word count and words.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED the lease ' .. KEYS[1] .. ' has another holder')
end
local at = 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 1
