-- KEYS[3], KEYS[4]: all records by age, all entries; from KEYS[5] on entries. ARGV[5]: where the next one goes on; then for each entry its id and
-- the age that it must still have. Gives how many were forgotten.
local forgotten = 0
for at = 5, #KEYS do
  local id, recorded = ARGV[2 * at - 4], ARGV[2 * at - 3]
  local stands = redis.call('HMGET', KEYS[at], 'recorded', 'owner', 'staged', 'disposer', 'destination', 'sha256')
  if stands[1] == recorded and not stands[2] and not stands[3] and not stands[4] then
    redis.call('DEL', KEYS[at])
    if stands[6] then redis.call('ZREM', content_of(stands[5]), stands[6] .. ':' .. id) end
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
    forgotten = forgotten + 1
  end
end
redis.call('HSET', ledger, 'retention', ARGV[5])
return forgotten
