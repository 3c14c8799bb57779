#!lua flags=allow-oom
-- Remove consumers of a group that have nothing pending. Atomic: a consumer that is given an entry meanwhile keeps it.
-- KEYS: stream. ARGV: group, consumer ('' for all), silence in ms after which a consumer counts as gone.
-- Returns how many were removed.
local removed = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local seen = {}
  for at = 1, #row, 2 do seen[row[at]] = row[at + 1] end
  local meant = ARGV[2] == '' or seen['name'] == ARGV[2]
  if meant and seen['pending'] == 0 and seen['idle'] >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], seen['name'])
    removed = removed + 1
  end
end
return removed
