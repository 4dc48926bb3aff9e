-- Changes nothing. KEYS[3]: an index of entries by sequence number. ARGV[5] to ARGV[8]: what the entries' keys begin
-- with, the number to go on behind, how many to look at, and 'staged' or 'disposer', without which an entry is none.
-- Gives the number of the last one, how many there were, and those whose owners do not live. What was staged and is gone
-- is left out for a lease, and so is what is staged as long as a disposal is pending.
local found = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[6], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[7])
for at = 1, #ids, 2 do
  local stands = redis.call('HMGET', ARGV[5] .. ids[at], 'owner', 'disposer', ARGV[8], 'destination', 'source', 'path',
    'version', 'local', 'remote', 'stands', 'sha256', 'recorded', 'gone', 'staged', 'state')
  local disposer = ARGV[8] == 'disposer' and stands[2]
  local waits = ARGV[8] == 'staged' and (stands[2] or stands[13] and now() - stands[13] < lease)
  if stands[3] and not waits and not (stands[1] and alive(stands[1])) and not (disposer and alive(disposer)) then
    -- A list ends at the first that is false.
    found[#found + 1] = {whole(ids[at + 1]), stands[4], stands[5], stands[6], stands[7], stands[8], stands[9],
      stands[10] or '', stands[11] or '', stands[12] or '',
      stands[13] and stands[14] or '', stands[15]}
  end
end
return {#ids > 0 and whole(ids[#ids]) or ARGV[6], #ids / 2, found}
