#!lua flags=allow-oom
-- From here on the log has another number of partitions: its record, and the order that says so, in one step.
-- KEYS: record, control stream. ARGV: what the record says, what it is to say, order, the last moment in ms of this server.
-- Returns the order's entry id; else `late`, or `other` where the record says something else.
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[4]) then return 'late' end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'other' end
redis.call('SET', KEYS[1], ARGV[2])
return redis.call('XADD', KEYS[2], '*', 'data', ARGV[3])
