-- KEYS[3]: what each owner takes in. ARGV[5]: what the caller does. Gives the owners that live and take in the same.
redis.call('HSET', KEYS[3], me, ARGV[5])
local all, peers = redis.call('HGETALL', KEYS[3]), {}
for at = 1, #all, 2 do
  if not alive(all[at]) then
    redis.call('HDEL', KEYS[3], all[at])
  elseif all[at + 1] == ARGV[5] then
    peers[#peers + 1] = all[at]
  end
end
return peers
