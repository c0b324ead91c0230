-- Ends a life for good: nothing of it stays.
-- KEYS: stream, marker. ARGV: life, nonce, known.
redis.call('UNLINK', KEYS[1], KEYS[2])
return {'ok', 0, 0}
