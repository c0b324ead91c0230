-- Adds blocks while there is room for them; says how many, and how many references were ever pushed.
-- KEYS: stream, marker. ARGV: life, nonce, known, capacity, header bytes, record bytes, blocks...
local capacity, header, record = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local depth, blocks, references = tonumber(marker[4]), 0, 0
for i = 7, #ARGV do
  local count = (#ARGV[i] - header) / record
  -- A block that is larger than the capacity waits for an empty queue.
  if depth + references + count > capacity and depth + references > 0 then
    break
  end
  if not redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'b', ARGV[i]) then
    return {'lost', 0, 0}
  end
  blocks = blocks + 1
  references = references + count
end
if blocks > 0 then
  redis.call('HINCRBY', KEYS[2], 'pushed', references)
  redis.call('HINCRBY', KEYS[2], 'depth', references)
  redis.call('HINCRBY', KEYS[2], 'entries', blocks)
end
return {'ok', blocks, tonumber(marker[3]) + references}
