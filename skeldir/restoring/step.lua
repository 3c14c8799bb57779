-- Run commands in one step. KEYS: every key that they touch. ARGV: for each command its word count and words.
local at = 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 1
