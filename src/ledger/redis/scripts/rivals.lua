-- Changes nothing. KEYS[3]: the staged entries of a destination. ARGV[5] to ARGV[10]: what the entries' keys begin with,
-- the number to go on behind, how many to look at, id, remote path and local path of the one whose rivals are asked for.
-- Gives the number of the last one, how many there were, and ids and staged tokens of those with the same paths.
local found = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[6], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[7])
for at = 1, #ids, 2 do
  local stands = redis.call('HMGET', ARGV[5] .. ids[at], 'staged', 'gone', 'remote', 'local')
  if stands[1] and not stands[2] and ids[at] ~= ARGV[8] and stands[3] == ARGV[9] and stands[4] == ARGV[10] then
    found[#found + 1] = {ids[at], stands[1]}
  end
end
return {#ids > 0 and whole(ids[#ids]) or ARGV[6], #ids / 2, found}
