#!lua flags=allow-oom
-- Append a result to a reply stream, bounded in length and time; also when memory is full: who holds back the end of a task
-- would keep the log from being trimmed, and so from making room.
-- KEYS: reply stream. ARGV: length, time to live in ms, type, task id, request id, result.
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'type', ARGV[3], 'task_id', ARGV[4], 'request_id', ARGV[5], 'data', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'OK'
