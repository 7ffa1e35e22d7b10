-- Reserve of every subject or of none. KEYS: requests, tokens, leases, budgets of each subject.
-- ARGV: shift, id, lease, tokens, nanos, verified after; then five limits of each subject, -1 for none.
-- Returns 1 and the grant, 2 and the refusal, 3 and the budgets to seed, or 4 for an id that is open.

local id, lease, tokens, nanos = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local verified_after = tonumber(ARGV[6])
local subjects, unseeded, refused = {}, {}, nil

local function refuse(index, measure, wait, left, limit)
  if not refused or wait > refused[4] then
    refused = { 2, index, measure, wait, math.max(left, 0), limit }
  end
end

local function check_window(index, measure, key, limit, amount)
  local total, newest = window_total(key)
  if amount > 0 and total + amount > limit then
    local wait = amount > limit and 1e18 or window_wait(key, total + amount - limit)
    refuse(index, measure, wait, limit - total, limit)
  end
  return total, newest
end

local function check_budget(index, measure, key, prefix, number, budget)
  local spent, reserved, seeded, checked = period_enter(key, prefix, number)
  if not seeded or (checked < verified_after and verified_after <= now) then
    unseeded[#unseeded + 1] = index * 2 + measure - 3
  elseif nanos > 0 and spent + reserved + nanos > budget then
    refuse(index, measure, nanos > budget and 1e18 or 1e15 * measure, budget - spent - reserved, budget)
  end
  return checked
end

for index = 0, #KEYS / 4 - 1 do
  local keys, limits = index * 4, 6 + index * 5
  local s = {
    requests = KEYS[keys + 1], tokens = KEYS[keys + 2], leases = KEYS[keys + 3], budgets = KEYS[keys + 4],
    rpm = tonumber(ARGV[limits + 1]), tpm = tonumber(ARGV[limits + 2]), slots = tonumber(ARGV[limits + 3]),
    daily = tonumber(ARGV[limits + 4]), monthly = tonumber(ARGV[limits + 5]),
  }
  subjects[index + 1] = s
  if s.rpm >= 0 then
    s.requested, s.requests_newest = check_window(index, 0, s.requests, s.rpm, 1)
  end
  if s.tpm >= 0 then
    s.taken, s.tokens_newest = check_window(index, 1, s.tokens, s.tpm, tokens)
  end
  if s.slots >= 0 or s.daily >= 0 or s.monthly >= 0 then
    leases_enter(s.leases, s.budgets)
    s.lease = lease_name(id, nanos, s.daily >= 0 and day or NEVER, s.monthly >= 0 and month or NEVER)
    if redis.call('ZSCORE', s.leases, s.lease) then
      return { 4 }
    end
    if s.slots >= 0 and redis.call('ZCARD', s.leases) >= s.slots then
      refuse(index, 2, s.slots == 0 and 1e18 or SLOT_WAIT_US, 0, s.slots)
    end
    if s.daily >= 0 then
      s.day_checked = check_budget(index, 3, s.budgets, 'd', day, s.daily)
    end
    if s.monthly >= 0 then
      s.month_checked = check_budget(index, 4, s.budgets, 'm', month, s.monthly)
    end
  end
end

if #unseeded > 0 then
  return { 3, day, month, unpack(unseeded) }
end
if refused then
  refused[4] = refused[4] >= 1e18 and -1 or refused[4]
  return { 2, now, day, month, refused[2], refused[3], refused[4], refused[5] }
end

local unchecked, tightest = {}, { -1, 0, -1, 0 }

local function take(key, newest, total, amount, limit, index, place)
  if amount > 0 then
    window_add(key, newest, amount)
  end
  local left = math.max(limit - total - amount, 0)
  if tightest[place] < 0 or left < tightest[place + 1] then
    tightest[place], tightest[place + 1] = index, left
  end
end

local function hold(key, prefix, checked, code)
  redis.call('HINCRBY', key, prefix .. 'r', nanos)
  if now - checked >= CHECK_EVERY_US or checked > now then
    redis.call('HSET', key, prefix .. 'c', now)
    unchecked[#unchecked + 1] = code
  end
end

for position, s in ipairs(subjects) do
  local index = position - 1
  if s.rpm >= 0 then
    take(s.requests, s.requests_newest, s.requested, 1, s.rpm, index, 1)
  end
  if s.tpm >= 0 then
    take(s.tokens, s.tokens_newest, s.taken, tokens, s.tpm, index, 3)
  end
  if s.lease then
    redis.call('ZADD', s.leases, now + lease, s.lease)
    redis.call('EXPIRE', s.leases, SUBJECT_TTL_S)
    if s.daily >= 0 then
      hold(s.budgets, 'd', s.day_checked, index * 2)
    end
    if s.monthly >= 0 then
      hold(s.budgets, 'm', s.month_checked, index * 2 + 1)
    end
    if s.daily >= 0 or s.monthly >= 0 then
      redis.call('EXPIRE', s.budgets, SUBJECT_TTL_S)
    end
  end
end
return { 1, now, day, month, tightest[1], tightest[2], tightest[3], tightest[4], unpack(unchecked) }
