-- KEYS[3]: the failed entries by number, from KEYS[4] on entries. ARGV from the fifth: their ids. Says of each whether it
-- was failed.
local put_back, any = {}, false
for at = 4, #KEYS do
  local was_failed = redis.call('HGET', KEYS[at], 'state') == 'failed'
  if was_failed then
    any = true
    redis.call('HSET', KEYS[at], 'state', 'claimed', 'attempts', '0', 'since', stamp())
    redis.call('HDEL', KEYS[at], 'reason')
    redis.call('ZREM', KEYS[3], ARGV[at + 1])
  end
  put_back[at - 3] = was_failed and 1 or 0
end
if any then redis.call('HINCRBY', ledger, 'retries', 1) end
return put_back
