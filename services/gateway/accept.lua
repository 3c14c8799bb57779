#!lua flags=allow-oom
-- Accept a task once: claim its record and append it, in one step. Also when memory is full: what comes from the inbox
-- leaves it for this, and makes room. (Who comes over HTTP is refused before that.)
-- KEYS: task record, tasks, decisions, replies, fence. ARGV: fingerprint, tenant, user, request id, task type, correlation id, now in ms, backlog bound,
--       event type, event, `known` where the books say that the task has ended, reply stream ('' for none),
--       how many partitions the caller knows of.
-- Returns `accepted`; else `duplicate` with its state and result, `conflict`, `forgotten`, `full`, `closed`; or `elsewhere`
-- with what the fence says ('' for nothing): with another number of partitions the tenant is in another one.
-- From the first reply that is asked for, the partition's ends are followed: from here on they are not trimmed unseen.
local function follow()
  redis.call('HSETNX', KEYS[4], 'decisions', '0-0')
  redis.call('HSETNX', KEYS[4], 'outcomes', '0-0')
end
local fence = redis.call('GET', KEYS[5]) or ''
if fence ~= ARGV[13] and fence ~= 'closed' then return {'elsewhere', fence} end
local record = redis.call('HMGET', KEYS[1], 'fingerprint', 'state', 'result')
if record[1] then
  if record[1] ~= ARGV[1] then return {'conflict'} end
  if ARGV[12] ~= '' and (record[3] or '') == '' then
    redis.call('HSET', KEYS[1], 'reply_to', ARGV[12])
    follow()
  end
  return {'duplicate', record[2] or '', record[3] or ''}
end
if ARGV[11] == 'known' then return {'forgotten'} end
if fence == 'closed' then return {'closed'} end
local most = tonumber(ARGV[8])
if redis.call('XLEN', KEYS[2]) >= most or redis.call('XLEN', KEYS[3]) >= most then return {'full'} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'tenant', ARGV[2], 'user', ARGV[3], 'request_id', ARGV[4],
  'task_type', ARGV[5], 'correlation_id', ARGV[6], 'submitted_ms', ARGV[7], 'state', 'submitted')
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], 'reply_to', ARGV[12])
  follow()
end
redis.call('XADD', KEYS[2], '*', 'type', ARGV[9], 'data', ARGV[10])
return {'accepted'}
