-- Adds records to the index by their bytes, and from the first call on every later one is added as it is made. KEYS[3]: all
-- entries by number. ARGV[5] to ARGV[7]: what the entries' keys begin with, the number to go on behind, how many to look
-- at. Gives the number of the last one, and how many there were: fewer once all are done.
if redis.call('HGET', ledger, 'contents') == 'all' then return {ARGV[6], 0} end
-- Who does not know of the index must not record any more.
redis.call('HSET', ledger, 'contents', 'some', 'version', '2')
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[6], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[7])
for at = 1, #ids, 2 do
  local stands = redis.call('HMGET', ARGV[5] .. ids[at], 'destination', 'sha256')
  if stands[2] then redis.call('ZADD', content_of(stands[1]), 0, stands[2] .. ':' .. ids[at]) end
end
if #ids / 2 < tonumber(ARGV[7]) then redis.call('HSET', ledger, 'contents', 'all') end
return {#ids > 0 and whole(ids[#ids]) or ARGV[6], #ids / 2}
