-- Gives back a page of the deliveries that other consumers have held for too long. After the last page, removes
-- consumers that hold nothing and have been silent for as long.
-- XPENDING rather than XAUTOCLAIM: it names the holder, so that our own deliveries stay, and says which entries are
-- gone on Redis 6.2 too.
-- KEYS: stream, marker. ARGV: group, own consumer, age in ms, page size, begin of the page, header bytes, record bytes,
-- first bytes of a block. Returns the number of references, and the begin of the next page or ''.
local nonce = redis.call('HGET', KEYS[2], 'nonce')
if not nonce then
  return {0, ''}
end
local group, own, age, size = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local header, record, head = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] .. nonce

-- References of a block of this life, nil for anything else.
local function count_of(fields)
  local value = fields[2]
  if #fields ~= 2 or fields[1] ~= 'b' or value:sub(1, header) ~= head then
    return nil
  end
  local count = (#value - header) / record
  return count >= 1 and count == math.floor(count) and count or nil
end

local pending = redis.call('XPENDING', KEYS[1], group, 'IDLE', age, ARGV[5], '+', size)
local references = 0
for _, delivery in ipairs(pending) do
  local id, consumer = delivery[1], delivery[2]
  if consumer ~= own then
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    redis.call('XACK', KEYS[1], group, id)
    if entry then
      redis.call('XDEL', KEYS[1], id)
      local count = count_of(entry[2])
      if count then
        redis.call('XADD', KEYS[1], '*', 'b', entry[2][2])
        references = references + count
      end
    end
  end
end
if #pending == size then
  return {references, '(' .. pending[size][1]}
end

for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local consumer = {}
  for i = 1, #fields, 2 do
    consumer[fields[i]] = fields[i + 1]
  end
  if consumer.name ~= own and consumer.pending == 0 and consumer.idle >= age then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, consumer.name)
  end
end
return {references, ''}
