#!lua flags=allow-oom
-- Record an attempt before its call is made, if the task is still this executor's to attempt.
-- KEYS: task record, outcomes, decisions.
-- ARGV: decision id, executor, attempt number, group, entry id, event type, event, '1' if this was asked before
--       and the reply got lost, the model where it is another than was asked for ('': it is not).
-- Returns `begun`; else `ended` or `superseded` (the delivery is acknowledged), or `attempting` and by whom.
local record = redis.call('HMGET', KEYS[1], 'decision', 'state', 'owner', 'attempts', 'model')
if record[1] ~= ARGV[1] or record[2] == 'ended' or record[2] == 'expired' then
  redis.call('XACK', KEYS[3], ARGV[4], ARGV[5])
  return {record[1] == ARGV[1] and record[2] or 'superseded'}
end
local mine = record[2] == 'attempting' and record[3] == ARGV[2]
if mine and ARGV[8] == '1' and record[4] == ARGV[3] then return {'begun'} end
local first = record[2] == 'allowed' and ARGV[3] == '1'
local again = mine and tonumber(record[4]) + 1 == tonumber(ARGV[3])
if not first and not again then return {'attempting', record[3] or ''} end
redis.call('HSET', KEYS[1], 'state', 'attempting', 'owner', ARGV[2], 'attempts', ARGV[3])
if ARGV[9] ~= (record[5] or '') then redis.call('HSET', KEYS[1], 'model', ARGV[9]) end
redis.call('XADD', KEYS[2], '*', 'type', ARGV[6], 'data', ARGV[7])
return {'begun'}
