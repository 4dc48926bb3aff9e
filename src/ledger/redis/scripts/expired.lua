-- Changes nothing. KEYS[3]: all records by age. ARGV[5] to ARGV[9]: what the entries' keys begin with, the retention
-- in microseconds, the age to begin with ('' for where the last run stopped), how many to leave out, how many to look at.
-- Gives where it began, the age of the last one, how many there were, and those that nobody has to do with.
local found = {}
local from = ARGV[7] ~= '' and ARGV[7] or redis.call('HGET', ledger, 'retention') or '0'
local before = now() * 1000 - ARGV[6]
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], from, '(' .. whole(before), 'WITHSCORES', 'LIMIT', ARGV[8], ARGV[9])
for at = 1, #ids, 2 do
  local stands = redis.call('HMGET', ARGV[5] .. ids[at], 'owner', 'staged', 'disposer', 'local', 'path')
  if stands[4] and not stands[1] and not stands[2] and not stands[3] then
    found[#found + 1] = {ids[at], whole(ids[at + 1]), stands[4], stands[5]}
  end
end
return {from, #ids > 0 and whole(ids[#ids]) or '0', #ids / 2, found}
