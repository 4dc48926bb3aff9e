-- KEYS[3], KEYS[4]: the entry, the index of its destination by bytes. ARGV[5] to ARGV[9]: id, token, SHA-256, what the
-- entries' keys begin with, whether an earlier token of it may have been published ('1').
if redis.call('HGET', ledger, 'contents') ~= 'all' then return {'unindexed'} end
local index, id, sha256, start = KEYS[4], ARGV[5], ARGV[7], ARGV[8]
local ours = redis.call('HMGET', KEYS[3], 'token', 'owner', 'content')
if ours[1] ~= ARGV[6] or ours[2] ~= me then return {'lost'} end
local own = sha256 .. ':' .. id
if ARGV[9] == '1' and ours[3] == sha256 then return {'ours'} end
-- Ids are hexadecimal. One at most is of an entry that is not on record, and one may be our own.
local members = redis.call('ZRANGEBYLEX', index, '[' .. sha256 .. ':', '(' .. sha256 .. ':g', 'LIMIT', 0, 3)
local other, found = nil, nil
for at = 1, #members do
  local found_id = string.sub(members[at], 66)
  local stands = redis.call('HMGET', start .. found_id, 'sha256', 'stands', 'owner', 'staged', 'gone', 'recorded', 'destination',
    'source', 'path', 'version', 'local', 'remote', 'state', 'reason')
  if found_id ~= id then
    if stands[1] == sha256 then return {'stands', stands[2]} end
    other, found = members[at], stands
  end
end
if other then
  if found[3] and not found[6] and alive(found[3]) then return {'held', found[3]} end
  if found[4] and not found[5] and not found[6] then
    local reply = {'left'}
    for field = 7, 12 do reply[field - 5] = found[field] end
    reply[8], reply[9] = found[13], found[14] or ''
    return reply
  end
  redis.call('ZREM', index, other)
  if found[7] then redis.call('HDEL', start .. string.sub(other, 66), 'content') end
end
if ours[3] and ours[3] ~= sha256 then redis.call('ZREM', index, ours[3] .. ':' .. id) end
redis.call('HSET', KEYS[3], 'content', sha256)
redis.call('ZADD', index, 0, own)
return {'ours'}
