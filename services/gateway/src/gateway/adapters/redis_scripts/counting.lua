-- What every operation on limits shares: the time, sliding windows, leases and what periods hold. Put before each script.
-- Times are microseconds of the server's own clock; money is nano-dollars, exact in a double below 2^53.

local KEPT_S, STEP_BACK_S, WINDOW_TTL_S, SUBJECT_TTL_S = 61, 2, 64, 4200
local LONGEST_LEASE_US, CHECK_EVERY_US, SLOT_WAIT_US, NEVER = 3600e6, 300e6, 1e6, -1

local clock = redis.call('TIME')
local shift = tonumber(ARGV[1])
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2]) + shift
local second = math.floor(now / 1e6)
local day = math.floor(second / 86400)

-- Months since 1970 of days since 1970: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
local function month_of(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local shifted = math.floor((5 * doy + 2) / 153)
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return (year - 1970) * 12 + month - 1
end

local month = month_of(day)

-- Windows: a hash with one field per second, the total `t`, the oldest second `o` and the newest `n`.

local function window_total(key)
  local head = redis.call('HMGET', key, 't', 'o', 'n')
  if not head[1] then
    return 0, nil
  end
  local total, oldest, newest, last = tonumber(head[1]), tonumber(head[2]), tonumber(head[3]), second - KEPT_S
  if second < newest - STEP_BACK_S then -- the clock went back: all there is counts as taken now
    redis.call('DEL', key)
    redis.call('HSET', key, 't', total, 'o', second, 'n', second, second, total)
    redis.call('EXPIRE', key, WINDOW_TTL_S)
    return total, second
  end
  if oldest > last then
    return total, newest
  end
  if newest <= last then
    redis.call('DEL', key)
    return 0, nil
  end
  local gone = {}
  for bucket = oldest, last do
    gone[#gone + 1] = bucket
  end
  for _, amount in ipairs(redis.call('HMGET', key, unpack(gone))) do
    total = total - (tonumber(amount) or 0)
  end
  redis.call('HDEL', key, unpack(gone))
  redis.call('HSET', key, 't', total, 'o', last + 1)
  return total, newest
end

local function window_add(key, newest, amount)
  local at = newest and math.max(newest, second) or second
  redis.call('HINCRBY', key, 't', amount)
  redis.call('HINCRBY', key, at, amount)
  if newest ~= at then
    redis.call('HSET', key, 'n', at)
    redis.call('HSETNX', key, 'o', at)
    redis.call('EXPIRE', key, WINDOW_TTL_S)
  end
end

local function window_give_back(key, at, amount)
  local returned = math.min(amount, tonumber(redis.call('HGET', key, at)) or 0)
  if returned > 0 then
    redis.call('HINCRBY', key, at, -returned)
    redis.call('HINCRBY', key, 't', -returned)
  end
end

local function window_wait(key, excess)
  local counts, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    counts[flat[i]] = tonumber(flat[i + 1])
  end
  local left = 0
  for bucket = counts['o'] or second, counts['n'] or second do
    left = left + (counts[tostring(bucket)] or 0)
    if left >= excess then
      return (bucket + KEPT_S) * 1e6 - now
    end
  end
  return KEPT_S * 1e6
end

-- Periods: fields of one hash per subject under the prefix `d` or `m`: the number, `s` spent, `r` reserved, `k` since
-- when the ledger's word is known, `c` when it was asked last.

local function period_enter(key, prefix, number)
  local known = redis.call('HMGET', key, prefix, prefix .. 's', prefix .. 'r', prefix .. 'k', prefix .. 'c')
  if tonumber(known[1]) == number then
    return tonumber(known[2]), tonumber(known[3]), tonumber(known[4]), tonumber(known[5])
  end
  redis.call('HDEL', key, prefix .. 'k', prefix .. 'c')
  redis.call('HSET', key, prefix, number, prefix .. 's', 0, prefix .. 'r', 0)
  redis.call('EXPIRE', key, SUBJECT_TTL_S)
  return 0, 0, nil, nil
end

local function period_settle(key, prefix, number, reserved, used)
  local known = redis.call('HMGET', key, prefix, prefix .. 'r')
  if number ~= NEVER and tonumber(known[1]) == number then
    redis.call('HINCRBY', key, prefix .. 'r', 0 - math.min(reserved, tonumber(known[2]))) -- not `-0`, which is no integer
    redis.call('HINCRBY', key, prefix .. 's', used)
  end
end

-- A reservation that is not open was forgotten with all the rest, or has expired and counts as wholly spent.
local function period_settle_unknown(key, prefix, number, at, reserved, used)
  local known = redis.call('HMGET', key, prefix, prefix .. 'k')
  if tonumber(known[1]) == number and known[2] then
    redis.call('HINCRBY', key, prefix .. 's', at < tonumber(known[2]) and used or used - reserved)
  end
end

-- Leases: a sorted set of `ID|NANOS|DAY|MONTH` by the time they end; -1 is a period without a budget.

local function lease_name(id, nanos, of_day, of_month)
  return string.format('%s|%.0f|%.0f|%.0f', id, nanos, of_day, of_month)
end

local function lease_settle(budgets, name, used)
  local _, nanos, of_day, of_month = string.match(name, '^(.*)|(%d+)|(%-?%d+)|(%-?%d+)$')
  nanos = tonumber(nanos)
  period_settle(budgets, 'd', tonumber(of_day), nanos, used or nanos)
  period_settle(budgets, 'm', tonumber(of_month), nanos, used or nanos)
end

local function leases_enter(leases, budgets)
  repeat
    local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)
    for _, name in ipairs(ended) do
      lease_settle(budgets, name, nil)
      redis.call('ZREM', leases, name)
    end
  until #ended < 100
  local longest = string.format('%.0f', now + LONGEST_LEASE_US) -- later than that only after the clock went back
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. longest, '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', leases, longest, name)
  end
end
