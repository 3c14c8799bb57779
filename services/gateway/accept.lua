#!lua flags=allow-oom
-- Accept a task once: claim its record and append it, in one step. Also when memory is full: what comes from the inbox
-- leaves it for this, and makes room. (Who comes over HTTP is refused before that.)
-- KEYS: task record, tasks, decisions. ARGV: fingerprint, tenant, user, request id, task type, correlation id, now in ms, backlog bound,
--       event type, event, `known` where the books say that the task has ended.
-- Returns `accepted`; else `duplicate` with its state and result, `conflict`, `forgotten`, or `full`.
local record = redis.call('HMGET', KEYS[1], 'fingerprint', 'state', 'result')
if record[1] then
  if record[1] ~= ARGV[1] then return {'conflict'} end
  return {'duplicate', record[2] or '', record[3] or ''}
end
if ARGV[11] == 'known' then return {'forgotten'} end
local most = tonumber(ARGV[8])
if redis.call('XLEN', KEYS[2]) >= most or redis.call('XLEN', KEYS[3]) >= most then return {'full'} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'tenant', ARGV[2], 'user', ARGV[3], 'request_id', ARGV[4],
  'task_type', ARGV[5], 'correlation_id', ARGV[6], 'submitted_ms', ARGV[7], 'state', 'submitted')
redis.call('XADD', KEYS[2], '*', 'type', ARGV[9], 'data', ARGV[10])
return {'accepted'}
