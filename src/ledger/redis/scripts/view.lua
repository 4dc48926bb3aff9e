-- Changes nothing. KEYS[3]: an index of entries by number. ARGV[5] to ARGV[7]: what the entries' keys begin with, the
-- number to go on behind, how many to look at. Gives the number of the last one, how many there were, and the entries.
local found = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[6], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[7])
for at = 1, #ids, 2 do
  local stands = redis.call('HMGET', ARGV[5] .. ids[at], 'destination', 'source', 'path', 'version', 'local', 'remote',
    'stands', 'sha256', 'recorded', 'token', 'state', 'attempts', 'reason', 'queued', 'since', 'disposer', 'owner',
    'staged', 'gone')
  if stands[1] then
    local info = {whole(ids[at + 1])}
    -- A list ends at the first that is false.
    for field = 1, 17 do info[field + 1] = stands[field] or '' end
    local holder = stands[17] and redis.call('HGET', owners, stands[17])
    local left = holder and tonumber(string.match(holder, '^%d+')) - now() or 0
    info[19] = left > 0 and whole(left) .. string.match(holder, '^%d+(.*)$') or ''
    info[20], info[21] = stands[18] or '', stands[19] or ''
    found[#found + 1] = info
  end
end
return {#ids > 0 and whole(ids[#ids]) or ARGV[6], #ids / 2, found}
