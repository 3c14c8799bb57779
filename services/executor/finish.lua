#!lua flags=allow-oom
-- End a delivered decision: append its event, store the result, acknowledge, fill the cache. All of it, or nothing.
-- KEYS: task record, outcomes, decisions, cache, flight (the last two may be the task record where there is no cache).
-- ARGV: decision id, owner whose attempt ends ('' where none was begun), group, entry id, new state, result,
--       time to live in ms, event type, event, flight's holder ('' for none),
--       watermark ('' for nothing to cache), answer, cache time to live in ms,
--       executor that ends it, '1' if the attempt was lost and the task is to be decided again.
-- Returns `done`; else `ended`, `expired` (both with who ended it) or `superseded` (the delivery is acknowledged), or
-- `attempting` and by whom.
if ARGV[10] ~= '' and redis.call('GET', KEYS[5]) == ARGV[10] then redis.call('DEL', KEYS[5]) end
local record = redis.call('HMGET', KEYS[1], 'decision', 'state', 'owner', 'ender', 'lost')
if record[1] ~= ARGV[1] or record[2] == 'ended' or record[2] == 'expired' then
  redis.call('XACK', KEYS[3], ARGV[3], ARGV[4])
  return {record[1] == ARGV[1] and record[2] or 'superseded', record[4] or ''}
end
local unattempted = record[2] == 'allowed' and ARGV[2] == ''
local attempted = record[2] == 'attempting' and record[3] == ARGV[2]
if not unattempted and not attempted then return {record[2], record[3] or ''} end
redis.call('XADD', KEYS[2], '*', 'type', ARGV[8], 'data', ARGV[9])
redis.call('HSET', KEYS[1], 'state', ARGV[5], 'result', ARGV[6], 'ender', ARGV[14])
if ARGV[15] == '1' then redis.call('HSET', KEYS[1], 'lost', tonumber(record[5] or 0) + 1) end
if ARGV[5] == 'ended' then redis.call('PEXPIRE', KEYS[1], ARGV[7]) end
if ARGV[11] ~= '' then
  local stored = redis.call('HGET', KEYS[4], 'watermark') or ''
  -- An older watermark must not push out a newer answer. Compared as digits: a Lua number would round the large ones.
  if #stored < #ARGV[11] or (#stored == #ARGV[11] and stored <= ARGV[11]) then
    redis.call('HSET', KEYS[4], 'watermark', ARGV[11], 'answer', ARGV[12])
    redis.call('PEXPIRE', KEYS[4], ARGV[13])
  end
end
redis.call('XACK', KEYS[3], ARGV[3], ARGV[4])
return {'done'}
