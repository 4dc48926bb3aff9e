-- For each entry KEYS: itself, the disposing entries of its destination; ARGV from the fifth on: their ids. Where
-- another one is at it by now, it has yet to say so itself.
local replies, settled = {}, {}
for request = 1, (#KEYS - 2) / 2 do
  local entry = KEYS[2 * request + 1]
  if redis.call('HGET', entry, 'disposer') == me then
    redis.call('HDEL', entry, 'disposer')
    collect(settled, KEYS[2 * request + 2], ARGV[request + 4])
  end
  replies[request] = 1
end
apply('ZREM', settled)
return replies
