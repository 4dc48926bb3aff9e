-- KEYS[3]: the entry. What nobody is at, anybody may take up.
if redis.call('HGET', KEYS[3], 'disposer') == me then redis.call('HSET', KEYS[3], 'disposer', '0') end
return 1
