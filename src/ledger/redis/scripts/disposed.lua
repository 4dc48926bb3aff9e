-- For each entry KEYS: itself, the disposing entries of its destination; ARGV from the fifth on: their ids.
local replies, settled = {}, {}
for request = 1, (#KEYS - 2) / 2 do
  redis.call('HDEL', KEYS[2 * request + 1], 'disposer')
  collect(settled, KEYS[2 * request + 2], ARGV[request + 4])
  replies[request] = 1
end
apply('ZREM', settled)
return replies
