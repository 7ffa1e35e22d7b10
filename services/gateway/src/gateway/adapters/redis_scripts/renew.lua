-- Let an open reservation stand longer. KEYS: leases, budgets of each subject with a lease. ARGV: shift, lease, then names.

local lease = tonumber(ARGV[2])
for index = 0, #KEYS / 2 - 1 do
  local leases, budgets = KEYS[index * 2 + 1], KEYS[index * 2 + 2]
  leases_enter(leases, budgets)
  redis.call('ZADD', leases, 'XX', now + lease, ARGV[index + 3])
  redis.call('EXPIRE', leases, SUBJECT_TTL_S)
  redis.call('EXPIRE', budgets, SUBJECT_TTL_S)
end
return 1
