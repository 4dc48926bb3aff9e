-- KEYS[3], KEYS[4]: all entries and the failed ones by number. For each request KEYS: its entry, the staged entries of
-- its destination; ARGV: id, destination, source, path, version, local path, remote path, 'skip' or 'force', and a number
-- that a repetition of this very call has again. A 'new' entry has what the request says.
local reserved, left = nil, 0
local function next_token(count)
  if left == 0 then
    reserved = redis.call('HINCRBY', ledger, 'token', count) - count
    left = count
  end
  reserved, left = reserved + 1, left - 1
  return whole(reserved)
end

-- One moment for all.
local at_once = stamp()
local replies, entries, staged_by = {}, {}, {}
local count = (#KEYS - 4) / 2
for request = 1, count do
  local entry, staged_index = KEYS[2 * request + 3], KEYS[2 * request + 4]
  local at = 9 * request - 5
  local id, destination, source, path, version, local_path, remote, how, call =
    ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8], ARGV[at + 9]
  local stands = redis.call('HMGET', entry, 'seq', 'owner', 'staged', 'attempts', 'remote', 'sha256', 'recorded', 'stands', 'token',
    'call', 'queued')
  local seq, owner, staged, attempts = stands[1], stands[2], stands[3] or '', stands[4] or '0'
  if not seq then
    local token = next_token(count - request + 1)
    redis.call('HSET', entry, 'seq', token, 'state', 'claimed', 'destination', destination, 'source', source,
      'path', path, 'version', version, 'local', local_path, 'remote', remote, 'token', token, 'owner', me,
      'staged', token, 'attempts', '0', 'call', call, 'queued', at_once, 'since', at_once)
    collect(entries, KEYS[3], token, id)
    collect(staged_by, staged_index, token, id)
    replies[request] = {'new', token}
  elseif owner == me and stands[10] == call then
    -- The reply was lost, not the claim.
    redis.call('HSET', entry, 'call', call)
    replies[request] = {'claimed', stands[9], stands[5], attempts, string.match(staged, '^(.*),%d+$') or ''}
  elseif owner and alive(owner) then
    replies[request] = {'held', owner}
  elseif stands[7] and how == 'skip' then
    replies[request] = {'recorded', stands[8], stands[6], stands[7]}
  else
    local pinned = stands[5]
    -- What stands staged was derived from the pinned path, and is found again only by it.
    if stands[7] and staged == '' then pinned, attempts = remote, '0' end
    local token = next_token(count - request + 1)
    redis.call('HSET', entry, 'state', 'claimed', 'local', local_path, 'remote', pinned, 'token', token, 'owner', me,
      'staged', staged == '' and token or staged .. ',' .. token, 'attempts', attempts, 'call', call,
      'queued', not stands[7] and stands[11] or at_once, 'since', at_once)
    redis.call('HDEL', entry, 'reason', 'gone')
    redis.call('ZREM', KEYS[4], id)
    collect(staged_by, staged_index, seq, id)
    replies[request] = {'claimed', token, pinned, attempts, staged}
  end
end
apply('ZADD', entries)
apply('ZADD', staged_by)
return replies
