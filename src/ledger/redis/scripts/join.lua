-- ARGV[5] to ARGV[8]: the schema's version, an instance and a first token for a ledger that has none yet, and which
-- server this is ('' where that is not known). Gives the instance.
local version, first_token, server = ARGV[5], ARGV[7], ARGV[8]
local stands = redis.call('HMGET', ledger, 'instance', 'version', 'server')
if not stands[1] then
  instance = ARGV[6]
  redis.call('HSET', ledger, 'instance', instance, 'version', version, 'token', first_token, 'server', server)
else
  instance = stands[1]
  -- Of version 2, records are found by their bytes, too.
  if stands[2] ~= version and stands[2] ~= '2' then
    return redis.error_reply('VERSION ' .. tostring(stands[2]))
  end
  if server == '' or stands[3] ~= server then
    -- Restarted or failed over: what it did last may be lost, and with it tokens that were issued. None of these is
    -- ever issued again.
    redis.call('HINCRBY', ledger, 'token', 16777216)
    redis.call('HSET', ledger, 'server', server)
  end
end
renew()
-- Owners that ended a day ago and never came back.
local all = redis.call('HGETALL', owners)
for at = 1, #all, 2 do
  if tonumber(string.match(all[at + 1], '^%d+')) + 86400000 < now() then redis.call('HDEL', owners, all[at]) end
end
return instance
