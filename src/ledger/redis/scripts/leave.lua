-- KEYS[3]: what each owner takes in.
redis.call('HDEL', owners, me)
redis.call('HDEL', KEYS[3], me)
return 1
