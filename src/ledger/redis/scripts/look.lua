-- Changes nothing. KEYS from the third: entries. For each: its live owner, the record, and the pinned path.
local replies = {}
for at = 3, #KEYS do
  local stands = redis.call('HMGET', KEYS[at], 'owner', 'stands', 'sha256', 'recorded', 'remote')
  local owner = stands[1]
  if not (owner and alive(owner)) then owner = '' end
  replies[at - 2] = {owner, stands[2] or '', stands[3] or '', stands[4] or '', stands[5] or ''}
end
return replies
