-- KEYS[3], KEYS[4]: the entry, the disposing entries of its destination. ARGV[5]: id.
local stands = redis.call('HMGET', KEYS[3], 'recorded', 'owner', 'disposer', 'seq')
local owner, disposer = stands[2], stands[3]
if not stands[1] and not disposer then return 0 end
if disposer == me and not owner then return 1 end
if owner and alive(owner) then return 0 end
if disposer and disposer ~= me and alive(disposer) then return 0 end
redis.call('HSET', KEYS[3], 'disposer', me)
redis.call('ZADD', KEYS[4], stands[4], ARGV[5])
return 1
