-- Take what the ledger says was spent. KEYS: budgets. ARGV: shift, prefix, number of the period, nano-dollars.

local key, prefix, number, spent = KEYS[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('HMGET', key, prefix, prefix .. 's', prefix .. 'r', prefix .. 'k')
if tonumber(known[1]) == number then
  if known[4] then -- corrected upwards only, without what open reservations stand for
    spent = math.max(tonumber(known[2]), spent - tonumber(known[3]))
  else
    redis.call('HSET', key, prefix .. 'k', now)
  end
  redis.call('HSET', key, prefix .. 's', spent, prefix .. 'c', now)
  redis.call('EXPIRE', key, SUBJECT_TTL_S)
end
return 1
