redis.call('HDEL', owners, me)
return 1
