-- KEYS[3]: the entry. ARGV[5]: the token.
local stands = redis.call('HMGET', KEYS[3], 'token', 'owner')
if stands[1] ~= ARGV[5] or stands[2] ~= me then return 0 end
-- The entry is still ours, so nobody minds the extension.
if lease_until(me) - now() < lease / 2 then renew() end
return 1
