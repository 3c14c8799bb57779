#!lua flags=allow-oom
-- End a delivered decision: append its event, store the result, acknowledge, fill the cache. All of it, or nothing.
-- KEYS: task record, outcomes, decisions, cache, flight (these two may be the task record where there is no cache),
--       the tenant's cached answers by time, and their sizes.
-- ARGV: decision id, owner whose attempt ends ('' where none was begun), group, entry id, new state, result,
--       time to live in ms, event type, event, flight's holder ('' for none),
--       watermark ('' for nothing to cache), answer, cache time to live in ms,
--       executor that ends it, '1' if the attempt was lost and the task is to be decided again,
--       bytes that the tenant's cache may hold.
-- Returns `done`; else `ended`, `expired` (both with who ended it) or `superseded` (the delivery is acknowledged), or
-- `attempting` and by whom.

-- The oldest answers leave while the tenant's are too many bytes. Those whose time is over are among the oldest.
local function make_room(index, sizes, most)
  local total = tonumber(redis.call('HGET', sizes, 'total') or 0)
  while total > most do
    local oldest = redis.call('ZPOPMIN', index)[1]
    if not oldest then return end
    redis.call('DEL', oldest)
    total = redis.call('HINCRBY', sizes, 'total', -tonumber(redis.call('HGET', sizes, oldest) or 0))
    redis.call('HDEL', sizes, oldest)
  end
end

local function note(index, sizes, key, bytes, ttl, most)
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local gone = redis.call('ZRANGE', index, '-inf', '(' .. (now - ttl), 'BYSCORE', 'LIMIT', 0, 100)
  for _, old in ipairs(gone) do
    redis.call('ZREM', index, old)
    redis.call('HINCRBY', sizes, 'total', -tonumber(redis.call('HGET', sizes, old) or 0))
    redis.call('HDEL', sizes, old)
  end
  redis.call('HINCRBY', sizes, 'total', bytes - tonumber(redis.call('HGET', sizes, key) or 0))
  redis.call('HSET', sizes, key, bytes)
  redis.call('ZADD', index, now, key)
  redis.call('PEXPIRE', index, ttl)
  redis.call('PEXPIRE', sizes, ttl)
  make_room(index, sizes, most)
end

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
    note(KEYS[6], KEYS[7], KEYS[4], #KEYS[4] + #ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[16]))
  end
end
redis.call('XACK', KEYS[3], ARGV[3], ARGV[4])
return {'done'}
