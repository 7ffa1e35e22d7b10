-- Replace what was reserved by what was used. KEYS: requests, tokens, leases, budgets of each subject.
-- ARGV: shift, id, at, reserved tokens, reserved nanos, day, month, used requests, used tokens, used nanos, late;
-- then of each subject five flags, 1 where there was a limit, as in reserve.

local id, at, reserved_tokens, reserved = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local of_day, of_month, late = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[11] == '1'
local requests, tokens, used = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local taken_at = math.floor(at / 1e6)

-- Whoever repeats a question that may have been lost does not know what was answered: he has the id alone.
local function find(leases, name)
  if not late then
    return name
  end
  for _, open in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    if string.sub(open, 1, #id + 1) == id .. '|' then
      return open
    end
  end
  return name
end

for index = 0, #KEYS / 4 - 1 do
  local keys, flags = index * 4, 11 + index * 5
  local leases, budgets = KEYS[keys + 3], KEYS[keys + 4]
  local slots, daily, monthly = ARGV[flags + 3] == '1', ARGV[flags + 4] == '1', ARGV[flags + 5] == '1'
  if ARGV[flags + 1] == '1' and requests == 0 and not late then
    window_give_back(KEYS[keys + 1], taken_at, 1)
  end
  if ARGV[flags + 2] == '1' and tokens ~= reserved_tokens and not late then
    local _, newest = window_total(KEYS[keys + 2])
    if tokens > reserved_tokens then
      window_add(KEYS[keys + 2], newest, tokens - reserved_tokens)
    else
      window_give_back(KEYS[keys + 2], taken_at, reserved_tokens - tokens)
    end
  end
  if slots or daily or monthly then
    leases_enter(leases, budgets)
    local name = find(leases, lease_name(id, reserved, daily and of_day or NEVER, monthly and of_month or NEVER))
    if redis.call('ZREM', leases, name) == 1 then
      lease_settle(budgets, name, used)
    elseif not late then
      if daily then
        period_settle_unknown(budgets, 'd', of_day, at, reserved, used)
      end
      if monthly then
        period_settle_unknown(budgets, 'm', of_month, at, reserved, used)
      end
    end
  end
end
return 1
