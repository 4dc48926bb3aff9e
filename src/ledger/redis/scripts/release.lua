-- KEYS[3] to KEYS[7]: the entry, the staged and the disposing entries of its destination, all entries, the failed ones.
-- ARGV[5] to ARGV[13]: id, token, call, 'failed', 'unfinished' or 'forget', attempts, reason, 'dispose' or 'leave', the
-- tokens that stay staged, and whether they are 'gone'.
local entry, id, token, call, how, staged = KEYS[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[12]
local stands = redis.call('HMGET', entry, 'token', 'owner', 'call', 'seq', 'recorded', 'disposer', 'destination', 'content')
if stands[1] ~= token then return 0 end
if stands[2] ~= me then
  if stands[3] ~= call then return 0 end
  -- The reply was lost, not the release.
  redis.call('HSET', entry, 'call', call)
  return 1
end
if how == 'forget' and staged == '' and not stands[5] and not stands[6] then
  redis.call('DEL', entry)
  if stands[8] then redis.call('ZREM', content_of(stands[7]), stands[8] .. ':' .. id) end
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
  redis.call('ZREM', KEYS[6], id)
  return 1
end
-- What was recorded before a forced repetition is recorded still.
local state = stands[5] and 'recorded' or (how == 'failed' and 'failed' or 'claimed')
redis.call('HSET', entry, 'state', state, 'call', call, 'since', stamp())
if state == 'failed' then
  redis.call('HSET', entry, 'reason', ARGV[10])
  redis.call('ZADD', KEYS[7], stands[4], id)
else
  redis.call('HDEL', entry, 'reason')
end
if how ~= 'forget' then redis.call('HSET', entry, 'attempts', ARGV[9]) end
if ARGV[11] == 'dispose' then
  redis.call('HSET', entry, 'disposer', me)
  redis.call('ZADD', KEYS[5], stands[4], id)
end
leave(entry, KEYS[4], id, stands[4], staged, ARGV[13])
redis.call('HDEL', entry, 'owner')
return 1
