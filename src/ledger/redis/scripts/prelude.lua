-- Before each script. KEYS[1], KEYS[2]: the ledger's hash and the owners' hash.
-- ARGV[1] to ARGV[4]: the ledger's instance, the caller's owner id, the lease in milliseconds, who that is for people.
local ledger, owners = KEYS[1], KEYS[2]
local instance, me, lease, label = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

-- Numbers are doubles here: exact up to 2^53, but not written out by tostring.
local function whole(number) return string.format('%.0f', number) end

-- Milliseconds since the Unix epoch by the server's clock, the only one that counts.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Microseconds, as times are kept.
local function stamp() return whole(now() * 1000) end

local function lease_until(owner)
  local found = redis.call('HGET', owners, owner)
  return found and tonumber(string.match(found, '^%d+')) or 0
end

-- Ourselves, always; another, while its lease has not run out.
local function alive(owner) return owner == me or lease_until(owner) > now() end

-- What is staged when a claim ends (a list of tokens, or ''), and whether it was seen to be gone.
local function leave(entry, index, id, seq, staged, gone)
  if staged == '' then
    redis.call('HDEL', entry, 'staged', 'gone')
    redis.call('ZREM', index, id)
  else
    redis.call('HSET', entry, 'staged', staged)
    redis.call('ZADD', index, seq, id)
    if gone == 'gone' then redis.call('HSET', entry, 'gone', whole(now())) else redis.call('HDEL', entry, 'gone') end
  end
end

-- What one command changes in an index for many entries: its arguments by the index.
local function collect(changes, index, first, second)
  local list = changes[index] or {}
  changes[index] = list
  list[#list + 1] = first
  list[#list + 1] = second
end
local function apply(command, changes)
  for index, list in pairs(changes) do redis.call(command, index, unpack(list)) end
end

local function renew() redis.call('HSET', owners, me, whole(now() + lease) .. ' ' .. label) end

-- The index of a destination's entries by their bytes: `<sha256>:<id>` of those that are on record, and of the one that
-- is to archive bytes that are not.
local function content_of(destination) return string.sub(ledger, 1, -7) .. 'content:' .. destination end
