-- KEYS from the third on: entries. ARGV from the fifth on: the token of each. Says of each whether it is still ours.
local replies, any = {}, false
for at = 3, #KEYS do
  local stands = redis.call('HMGET', KEYS[at], 'token', 'owner')
  local ours = stands[1] == ARGV[at + 2] and stands[2] == me
  any = any or ours
  replies[at - 2] = ours and 1 or 0
end
-- What is still ours nobody has taken over, so nobody minds the extension.
if any and lease_until(me) - now() < lease / 2 then renew() end
return replies
