-- Behind the prelude of every script that changes something: not on a ledger that was emptied since.
if redis.call('HGET', ledger, 'instance') ~= instance then
  return redis.error_reply('EMPTIED it was emptied, or is another one')
end
