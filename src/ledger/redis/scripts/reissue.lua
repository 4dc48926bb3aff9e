-- KEYS[3]: the entry. ARGV[5] to ARGV[7]: the token, call, and the tokens that are staged with it. Gives the later token.
local entry, call = KEYS[3], ARGV[6]
local stands = redis.call('HMGET', entry, 'token', 'owner', 'staged')
if stands[2] ~= me then return '' end
-- Where only the reply was lost, or nobody waited for it, it is told again.
if stands[3] == ARGV[7] .. ',' .. stands[1] then return stands[1] end
if stands[1] ~= ARGV[5] then return '' end
local token = whole(redis.call('HINCRBY', ledger, 'token', 1))
redis.call('HSET', entry, 'token', token, 'staged', ARGV[7] .. ',' .. token, 'call', call)
return token
