-- KEYS[3] to KEYS[6]: the entry, the staged and the disposing entries of its destination, all records by age.
-- ARGV[5] to ARGV[13]: id, token, call, remote path, SHA-256, microseconds, 'dispose' or 'leave', the tokens that stay
-- staged, and whether they are 'gone'.
local entry, id, token, call, recorded = KEYS[3], ARGV[5], ARGV[6], ARGV[7], ARGV[10]
local stands = redis.call('HMGET', entry, 'token', 'owner', 'call', 'seq', 'destination', 'sha256', 'content')
if stands[1] ~= token then return 0 end
if stands[2] ~= me then
  if stands[3] ~= call then return 0 end
  -- The reply was lost, not the record.
  redis.call('HSET', entry, 'call', call)
  return 1
end
redis.call('HSET', entry, 'state', 'recorded', 'stands', ARGV[8], 'sha256', ARGV[9], 'recorded', recorded, 'call', call)
redis.call('HDEL', entry, 'owner', 'reason', 'disposer')
leave(entry, KEYS[4], id, stands[4], ARGV[12], ARGV[13])
redis.call('ZADD', KEYS[6], recorded, id)
if redis.call('HEXISTS', ledger, 'contents') == 1 then
  local index = content_of(stands[5])
  for before = 6, 7 do
    if stands[before] then redis.call('ZREM', index, stands[before] .. ':' .. id) end
  end
  redis.call('HDEL', entry, 'content')
  redis.call('ZADD', index, 0, ARGV[9] .. ':' .. id)
end
if ARGV[11] == 'dispose' then
  redis.call('HSET', entry, 'disposer', me)
  redis.call('ZADD', KEYS[5], stands[4], id)
else
  redis.call('ZREM', KEYS[5], id)
end
return 1
