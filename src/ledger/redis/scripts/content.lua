-- Changes nothing. KEYS[3]: the entry. Gives the bytes that it was to archive.
return redis.call('HGET', KEYS[3], 'content') or ''
