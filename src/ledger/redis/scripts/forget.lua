-- KEYS[3]: all records by age, from KEYS[4] entries. ARGV[5]: where the next one goes on; then for each entry its id and
-- the age that it must still have. Gives how many were forgotten.
local forgotten = 0
for at = 4, #KEYS do
  local id, recorded = ARGV[2 * at - 2], ARGV[2 * at - 1]
  local stands = redis.call('HMGET', KEYS[at], 'recorded', 'owner', 'staged', 'disposer')
  if stands[1] == recorded and not stands[2] and not stands[3] and not stands[4] then
    redis.call('DEL', KEYS[at])
    redis.call('ZREM', KEYS[3], id)
    forgotten = forgotten + 1
  end
end
redis.call('HSET', ledger, 'retention', ARGV[5])
return forgotten
