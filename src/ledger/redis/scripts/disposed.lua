-- KEYS[3], KEYS[4]: the entry, the disposing entries of its destination. ARGV[5]: id.
redis.call('HDEL', KEYS[3], 'disposer')
redis.call('ZREM', KEYS[4], ARGV[5])
return 1
