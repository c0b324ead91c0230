-- Precedes other scripts: is the queue still the one that the dispatcher began, with all that it pushed?
-- KEYS: stream, marker. ARGV: life ('' for a consumer, which takes any), nonce, references known to be pushed, ...
local marker = redis.call('HMGET', KEYS[2], 'life', 'nonce', 'pushed', 'depth', 'entries')
if not (marker[1] and marker[2] and marker[3] and marker[4] and marker[5]) then
  return {'lost', 0, 0}
end
if ARGV[1] ~= '' then
  -- Twenty digits each, so text compares as numbers do, exactly.
  if marker[1] > ARGV[1] then
    return {'superseded', 0, 0}
  end
  if marker[1] ~= ARGV[1] or marker[2] ~= ARGV[2] or tonumber(marker[3]) < tonumber(ARGV[3]) then
    return {'lost', 0, 0}
  end
end
