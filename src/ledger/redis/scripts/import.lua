-- KEYS[3] to KEYS[5]: all entries, the failed ones by number, all records by age. For each entry KEYS: itself, the staged
-- and the disposing entries of its destination; ARGV: id, destination, source, path, version, local path, remote path,
-- token, state, attempts, reason, queued, since, the record's path, SHA-256 and microseconds, staged tokens, since when
-- they are gone, 'pending' or 'settled'; '' for what there is not. ARGV[5]: below no token that is issued from now on.
-- Says of each what became of it.
local count = (#KEYS - 5) / 3
if tonumber(redis.call('HGET', ledger, 'token')) < tonumber(ARGV[5]) then redis.call('HSET', ledger, 'token', ARGV[5]) end
-- Entries are numbered by tokens of ours that no claim has.
local seq = redis.call('HINCRBY', ledger, 'token', count) - count

-- A list of tokens as a sorted table, and as a set.
local function listed(text)
  local tokens, has = {}, {}
  for token in string.gmatch(text, '%d+') do
    tokens[#tokens + 1], has[token] = token, true
  end
  return tokens, has
end

local function add(entry, index, disposing, number, from)
  local function field(at) return ARGV[from + at] end
  redis.call('HSET', entry, 'seq', number, 'destination', field(2), 'source', field(3), 'path', field(4),
    'version', field(5), 'local', field(6), 'remote', field(7), 'token', field(8), 'state', field(9),
    'attempts', field(10))
  for name, at in pairs({queued = 12, since = 13, stands = 14, sha256 = 15, recorded = 16, staged = 17, gone = 18}) do
    if field(at) ~= '' then redis.call('HSET', entry, name, field(at)) end
  end
  redis.call('ZADD', KEYS[3], number, field(1))
  if field(9) == 'failed' then
    redis.call('HSET', entry, 'reason', field(11))
    redis.call('ZADD', KEYS[4], number, field(1))
  end
  if field(16) ~= '' then redis.call('ZADD', KEYS[5], field(16), field(1)) end
  if field(17) ~= '' then redis.call('ZADD', index, number, field(1)) end
  if field(19) == 'pending' then
    redis.call('HSET', entry, 'disposer', '0')
    redis.call('ZADD', disposing, number, field(1))
  end
end

-- Where records are found by their bytes, this one is, too.
local by_bytes = redis.call('HEXISTS', ledger, 'contents') == 1
local function find_by_bytes(destination, sha256, id)
  if by_bytes and sha256 ~= '' then redis.call('ZADD', content_of(destination), 0, sha256 .. ':' .. id) end
end

local replies = {}
for at = 1, count do
  local entry, index, disposing = KEYS[3 * at + 3], KEYS[3 * at + 4], KEYS[3 * at + 5]
  local from = 19 * at - 14
  local id, remote, stands, sha256, recorded = ARGV[from + 1], ARGV[from + 7], ARGV[from + 14], ARGV[from + 15], ARGV[from + 16]
  local staged, gone = ARGV[from + 17], ARGV[from + 18]
  local there = redis.call('HMGET', entry, 'seq', 'owner', 'remote', 'staged', 'gone', 'disposer', 'stands', 'sha256', 'recorded')
  if not there[1] then
    add(entry, index, disposing, whole(seq + at), from)
    find_by_bytes(ARGV[from + 2], sha256, id)
    replies[at] = 'added'
  else
    local held = there[2] and alive(there[2])
    local takes_record = recorded ~= '' and not there[9]
    local tokens, has = listed(there[4] or '')
    local lacks = false
    for _, token in ipairs((listed(staged))) do
      if not has[token] then
        lacks = true
        tokens[#tokens + 1] = token
      end
    end
    local takes_staged = lacks and not held and (not there[4] or there[3] == remote)
    if takes_record then
      redis.call('HSET', entry, 'stands', stands, 'sha256', sha256, 'recorded', recorded)
      redis.call('ZADD', KEYS[5], recorded, id)
      find_by_bytes(ARGV[from + 2], sha256, id)
      if not held then
        redis.call('HSET', entry, 'state', 'recorded')
        redis.call('HDEL', entry, 'reason')
        redis.call('ZREM', KEYS[4], id)
      end
      if ARGV[from + 19] == 'pending' and not there[6] then
        redis.call('HSET', entry, 'disposer', '0')
        redis.call('ZADD', disposing, there[1], id)
      end
    end
    if takes_staged then
      table.sort(tokens, function(one, other) return tonumber(one) < tonumber(other) end)
      redis.call('HSET', entry, 'staged', table.concat(tokens, ','), 'remote', remote)
      redis.call('ZADD', index, there[1], id)
      local since = gone
      if there[4] then since = there[5] and gone ~= '' and whole(math.max(there[5], gone)) or '' end
      if since == '' then redis.call('HDEL', entry, 'gone') else redis.call('HSET', entry, 'gone', since) end
    end
    local same = recorded == '' or there[7] == stands and there[8] == sha256 and there[9] == recorded
    if takes_record or takes_staged then replies[at] = 'completed'
    elseif same and not lacks then replies[at] = 'known'
    else replies[at] = 'kept' end
  end
end
return replies
