-- Begins a life: forgets everything, unless a newer dispatcher has begun one.
-- KEYS: stream, marker. ARGV: life, nonce, group.
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  local life = redis.call('HGET', KEYS[2], 'life')
  if life and life > ARGV[1] then
    return {'superseded', 0, 0}
  end
end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[3], '0', 'MKSTREAM')
redis.call('HSET', KEYS[2], 'life', ARGV[1], 'nonce', ARGV[2], 'pushed', 0, 'depth', 0, 'entries', 0)
return {'ok', 0, 0}
