-- Changes nothing.
return tonumber(redis.call('HGET', ledger, 'retries') or '0')
