-- Counts the references, after a look at whether entries or the group are missing.
-- KEYS: stream, marker. ARGV: life, nonce, known, group.
if redis.call('XLEN', KEYS[1]) < tonumber(marker[5]) or redis.call('EXISTS', KEYS[1]) == 0 then
  return {'lost', 0, 0}
end
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  for i = 1, #fields, 2 do
    if fields[i] == 'name' and fields[i + 1] == ARGV[4] then
      return {'ok', math.max(tonumber(marker[4]), 0), marker[2]}
    end
  end
end
return {'lost', 0, 0}
