-- Changes nothing. Gives the last token ('0' for a ledger that was never made), how often entries were put back, and of
-- each owner its id and what is left of its lease, in milliseconds, with who that is.
local stands, members = redis.call('HMGET', ledger, 'token', 'retries'), {}
local all = redis.call('HGETALL', owners)
for at = 1, #all, 2 do
  local till, who = string.match(all[at + 1], '^(%d+)(.*)$')
  members[#members + 1] = {all[at], whole(tonumber(till) - now()) .. who}
end
return {stands[1] or '0', stands[2] or '0', members}
