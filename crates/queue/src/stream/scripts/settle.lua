-- Ends deliveries and adds what was given back, in one step. Void when another life has begun.
-- KEYS: stream, marker. ARGV: nonce, group, header bytes, record bytes, entries to end, (id, references)..., blocks...
if redis.call('HGET', KEYS[2], 'nonce') ~= ARGV[1] then
  return 0
end
local header, record, ended = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local depth, entries = 0, 0
for i = 1, ended do
  local id, count = ARGV[4 + 2 * i], tonumber(ARGV[5 + 2 * i])
  redis.call('XACK', KEYS[1], ARGV[2], id)
  -- Only the first to remove an entry takes it off the count: a repeated call changes nothing.
  if redis.call('XDEL', KEYS[1], id) == 1 then
    depth = depth - count
    entries = entries - 1
  end
end
for i = 6 + 2 * ended, #ARGV do
  if redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'b', ARGV[i]) then
    depth = depth + (#ARGV[i] - header) / record
    entries = entries + 1
  end
end
redis.call('HINCRBY', KEYS[2], 'depth', depth)
redis.call('HINCRBY', KEYS[2], 'entries', entries)
return 1
