#!lua flags=allow-oom
-- Make a consumer group from the stream's start, where there is none; also when memory is full, to work it off.
-- KEYS: stream. ARGV: group.
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
return 'OK'
