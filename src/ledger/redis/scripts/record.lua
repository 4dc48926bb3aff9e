-- KEYS[3]: all records by age. For each record KEYS: its entry, the staged and the disposing entries of its destination;
-- ARGV: id, token, call, remote path, SHA-256, microseconds, 'dispose' or 'leave', the tokens that stay staged, and
-- whether they are 'gone'. Says of each whether it counts.
local replies, by_age, disposals, left_of = {}, {}, {}, {}
local by_bytes = redis.call('HEXISTS', ledger, 'contents') == 1
for request = 1, (#KEYS - 3) / 3 do
  local entry, index, disposing = KEYS[3 * request + 1], KEYS[3 * request + 2], KEYS[3 * request + 3]
  local at = 9 * request - 5
  local id, token, call, recorded, staged = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 6], ARGV[at + 8]
  local stands = redis.call('HMGET', entry, 'seq', 'token', 'owner', 'disposer')
  if stands[2] ~= token then
    replies[request] = 0
  elseif stands[3] ~= me then
    -- Where it is the same call, the reply was lost, not the record.
    local same = redis.call('HGET', entry, 'call') == call
    replies[request] = same and 1 or 0
    if same then redis.call('HSET', entry, 'call', call) end
  else
    replies[request] = 1
    local bytes = by_bytes and redis.call('HMGET', entry, 'destination', 'sha256', 'content')
    -- Whoever claimed it took away why it had failed.
    redis.call('HSET', entry, 'state', 'recorded', 'stands', ARGV[at + 4], 'sha256', ARGV[at + 5], 'recorded', recorded,
      'call', call)
    if staged == '' then
      redis.call('HDEL', entry, 'owner', 'staged', 'gone')
      collect(left_of, index, id)
    else
      redis.call('HDEL', entry, 'owner')
      leave(entry, index, id, stands[1], staged, ARGV[at + 9])
    end
    collect(by_age, KEYS[3], recorded, id)
    if bytes then
      local content = content_of(bytes[1])
      for before = 2, 3 do
        if bytes[before] then redis.call('ZREM', content, bytes[before] .. ':' .. id) end
      end
      redis.call('HDEL', entry, 'content')
      redis.call('ZADD', content, 0, ARGV[at + 5] .. ':' .. id)
    end
    if ARGV[at + 7] == 'dispose' then
      redis.call('HSET', entry, 'disposer', me)
      collect(disposals, disposing, stands[1], id)
    elseif stands[4] then
      redis.call('HDEL', entry, 'disposer')
      redis.call('ZREM', disposing, id)
    end
  end
end
apply('ZADD', by_age)
apply('ZREM', left_of)
apply('ZADD', disposals)
return replies
