-- The script that writes. ARGV: what is to be done; who writes and the number of the request, by which one that comes twice
-- is done once; the name of the store; now, in nanoseconds; the keys that change, with NULs between them, which all are told
-- of with the name of the store; then what is needed. What may be done twice has no number, and no keys.
-- A script is not undone: each part looks whether all is well before it changes anything.
local CHUNK = 4194304
local REMEMBERED = 3600
-- The commands of this script and of the one that reads, but for those that have no key.
local CALLED = {
  'COPY', 'EXISTS', 'GET', 'GETRANGE', 'HDEL', 'HGET', 'HGETALL', 'HINCRBY', 'HMGET', 'HSET', 'HSETNX', 'HVALS', 'SADD', 'SCARD', 'SET',
  'SMEMBERS', 'SPOP', 'SREM', 'UNLINK', 'ZADD', 'ZCARD', 'ZRANGE', 'ZRANGEBYLEX', 'ZRANGEBYSCORE', 'ZREM', 'ZSCORE',
}
local HELD_UP = 3600
local writer, number, store, now = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local seconds = call('TIME')[1]

-- ---------------------------------------------------------------- blobs

local function remove_blob(blob, count)
  local n = 0
  while call('UNLINK', string.format('%sb:%s:%d', T, blob, n)) == 1 or n < (count or 0) do
    n = n + 1
  end
end

local function drop_blob(blob, size)
  if call('EXISTS', T .. 'h:' .. blob) == 1 then
    call('ZADD', T .. 'trash', seconds, blob)
  else
    remove_blob(blob, math.ceil(tonumber(size) / CHUNK))
  end
end

-- Remove some blobs that are read no more, or whose writer has died.
local function sweep()
  local removed = 0
  for _, blob in ipairs(call('ZRANGE', T .. 'trash', 0, 3)) do
    if call('EXISTS', T .. 'h:' .. blob) == 0 then
      remove_blob(blob)
      call('ZREM', T .. 'trash', blob)
      removed = removed + 1
    else
      call('ZADD', T .. 'trash', seconds, blob)  -- at the end of those that wait
    end
  end
  for _, blob in ipairs(call('ZRANGEBYSCORE', T .. 'uploads', '-inf', seconds - HELD_UP, 'LIMIT', 0, 4)) do
    remove_blob(blob)
    call('ZREM', T .. 'uploads', blob)
    removed = removed + 1
  end
  return removed
end

-- ---------------------------------------------------------------- nodes and entries

local function touch(id)
  call('HSET', T .. 'n:' .. id, 'c', now)
end

local function touch_entries(directory, more)
  call('HSET', T .. 'n:' .. directory, 't', now, 'c', now)
  if more ~= 0 then call('HINCRBY', T .. 'n:' .. directory, 'l', more) end
end

local function as_count(is)
  return is and 1 or 0
end

local function add_name(id, name)
  local node = T .. 'n:' .. id
  local only = call('HGET', node, 'P')
  if only then
    call('HDEL', node, 'P')
    call('SADD', T .. 'l:' .. id, only, name)
  elseif call('EXISTS', T .. 'l:' .. id) == 1 then
    call('SADD', T .. 'l:' .. id, name)
  else
    call('HSET', node, 'P', name)
  end
end

local function take_name(id, name)
  local names = T .. 'l:' .. id
  if call('HDEL', T .. 'n:' .. id, 'P') == 0 then
    call('SREM', names, name)
    if call('SCARD', names) == 1 then call('HSET', T .. 'n:' .. id, 'P', call('SPOP', names)) end
  end
end

local function add_entry(directory, name, id)
  call('ZADD', T .. 'd:' .. directory, 0, name .. '\0' .. id)
  add_name(id, directory .. '/' .. name)
end

local function take_entry(directory, name, id)
  call('ZREM', T .. 'd:' .. directory, name .. '\0' .. id)
  take_name(id, directory .. '/' .. name)
end

local function add_node(mode, uid, gid, rdev, atime, mtime, size)
  local id = tostring(call('HINCRBY', T .. 'store', 'next', 1))
  local links = kind_of(mode) == DIRECTORY and 2 or 1
  call('HSET', T .. 'n:' .. id, 'm', mode, 's', size, 'u', uid, 'g', gid, 'r', rdev, 'a', atime, 't', mtime, 'c', now, 'b', now, 'l', links)
  return id
end

local function forget_metadata(id)
  for _, field in ipairs(call('HVALS', T .. 'm:' .. id)) do
    call('ZREM', T .. 'f:' .. string.sub(field, 1, 32), id)
  end
  call('UNLINK', T .. 'm:' .. id)
end

-- What is in a text between NULs.
local function split(text)
  local parts = {}
  for part in string.gmatch(text, '[^%z]+') do parts[#parts + 1] = part end
  return parts
end

-- Add to the metadata of a node: NAME, DIGEST and JSON, ...
local function add_metadata(id, fields)
  local key = T .. 'm:' .. id
  for n = 1, #fields, 2 do
    local old = call('HGET', key, fields[n])
    if old then call('ZREM', T .. 'f:' .. string.sub(old, 1, 32), id) end
    call('HSET', key, fields[n], fields[n + 1])
    local digest = string.sub(fields[n + 1], 1, 32)
    if string.sub(digest, 1, 1) ~= '-' then call('ZADD', T .. 'f:' .. digest, id, id) end
  end
end

local function drop_data(id)
  local found = call('HMGET', T .. 'n:' .. id, 'B', 's')
  if found[1] then
    drop_blob(found[1], found[2])
    call('HDEL', T .. 'n:' .. id, 'B')
  end
  call('UNLINK', T .. 'v:' .. id)
end

-- Take a name away, and with the last one the node.
local function drop(directory, name, id)
  local mode, links = unpack(call('HMGET', T .. 'n:' .. id, 'm', 'l'))
  local below = kind_of(mode) == DIRECTORY
  take_entry(directory, name, id)
  touch_entries(directory, -as_count(below))
  if not below and tonumber(links) > 1 then
    call('HINCRBY', T .. 'n:' .. id, 'l', -1)
    touch(id)
    return
  end
  drop_data(id)
  forget_metadata(id)
  call('UNLINK', T .. 'n:' .. id, T .. 'x:' .. id)
end

local function has_entries(id)
  return call('EXISTS', T .. 'd:' .. id) == 1
end

-- What hinders something, a directory or not, from being put where go() has led; nil if nothing does.
local function hindrance(id, rest, directory)
  local there = is_directory(id)
  if #rest > 0 then return not there and {'notdir'} or nil end
  if there == directory then return nil end
  return directory and {'notdir'} or {'isdir'}
end

-- Make what is missing on the way; answer the directory and the name that is left.
local function make_way(id, rest, mode, uid, gid)
  for n = 1, #rest - 1 do
    local made = add_node(mode, uid, gid, 0, now, now, 0)
    add_entry(id, rest[n], made)
    touch_entries(id, 1)
    id = made
  end
  return id, rest[#rest]
end

-- ---------------------------------------------------------------- what can be done

local done = {}

local function answer(id)
  return {'ok', attributes(id)}
end

function done.make(path, mode, uid, gid, rdev, target)
  local id, _, _, rest = go(path)
  if #rest == 0 then return {'exists'} end
  if #rest > 1 or not is_directory(id) then return {'missing'} end
  local made = add_node(mode, uid, gid, rdev, now, now, #target)
  if target ~= '' then call('SET', T .. 'v:' .. made, target) end
  add_entry(id, rest[1], made)
  touch_entries(id, as_count(kind_of(mode) == DIRECTORY))
  return answer(made)
end

local function copy_texts(from, to)
  local fields = call('HGETALL', T .. 'm:' .. from)
  add_metadata(to, fields)
  if call('EXISTS', T .. 'x:' .. from) == 1 then call('COPY', T .. 'x:' .. from, T .. 'x:' .. to) end
end

-- Put a node whole. `keep` has an 's' if it is to keep the mode and owner, 'm' the metadata, 'x' the attributes of what is
-- there. The data is a blob that was uploaded, or `data`.
function done.put(path, keep, mode, uid, gid, rdev, atime, mtime, size, blob, data, way_mode, way_uid, way_gid, fields, xattrs)
  local id, directory, name, rest = go(path)
  local wrong = hindrance(id, rest, kind_of(mode) == DIRECTORY)
  if wrong then return wrong end
  if blob ~= '' and not call('ZSCORE', T .. 'uploads', blob) then return {'late'} end
  local old = #rest == 0 and id
  local was = old and call('HMGET', T .. 'n:' .. old, 'm', 'u', 'g', 'a')
  if was and string.find(keep, 's') then
    uid, gid, atime = was[2], was[3], was[4]
    if kind_of(was[1]) == REGULAR then mode = was[1] end
  end
  local kept = old
  if not old or kind_of(was[1]) ~= kind_of(mode) then
    if not old then directory, name = make_way(id, rest, way_mode, way_uid, way_gid) end
    kept = add_node(mode, uid, gid, rdev, atime, mtime, size)
    if old then
      if string.find(keep, '[mx]') then copy_texts(old, kept) end
      drop(directory, name, old)
    end
    add_entry(directory, name, kept)
    touch_entries(directory, as_count(kind_of(mode) == DIRECTORY))
  else
    drop_data(old)
    call('HSET', T .. 'n:' .. old, 'm', mode, 's', size, 'u', uid, 'g', gid, 'r', rdev, 'a', atime, 't', mtime, 'c', now)
  end
  if blob ~= '' then
    call('ZREM', T .. 'uploads', blob)
    call('HSET', T .. 'n:' .. kept, 'B', blob)
  elseif data ~= '' then
    call('SET', T .. 'v:' .. kept, data)
  end
  if not string.find(keep, 'm') then
    forget_metadata(kept)
    add_metadata(kept, split(fields))
  end
  if not string.find(keep, 'x') then
    call('UNLINK', T .. 'x:' .. kept)
    local both = split(xattrs)
    for n = 1, #both, 2 do call('HSET', T .. 'x:' .. kept, both[n], both[n + 1]) end
  end
  return {'ok', attributes(kept), string.find(keep, 'm') and call('HGETALL', T .. 'm:' .. kept) or {}}
end

function done.delete(path, spelled)
  local id, directory, name = find(path, spelled)
  if not id then return {'missing'} end
  if has_entries(id) then return {'notempty'} end
  drop(directory, name, id)
  return {'ok'}
end

function done.set_stat(path, spelled, ...)
  local id = find(path, spelled)
  if not id then return {'missing'} end
  local changes = {...}
  for n = 1, #changes, 2 do
    if changes[n] == 'm' then
      local old = tonumber(call('HGET', T .. 'n:' .. id, 'm'))
      changes[n + 1] = string.format('%d', old - old % 4096 + tonumber(changes[n + 1]) % 4096)
    end
  end
  call('HSET', T .. 'n:' .. id, 'c', now, unpack(changes))
  return answer(id)
end

-- Replace the metadata, or add to it; answer what it is then.
function done.set_metadata(path, spelled, add, fields)
  local id = find(path, spelled)
  if not id then return {'missing'} end
  if add == '' then forget_metadata(id) end
  add_metadata(id, split(fields))
  touch(id)
  return {'ok', call('HGETALL', T .. 'm:' .. id)}
end

function done.set_xattr(path, spelled, name, ...)
  local id = find(path, spelled)
  if not id then return {'missing'} end
  if ... then
    call('HSET', T .. 'x:' .. id, name, ...)
  elseif call('HDEL', T .. 'x:' .. id, name) == 0 then
    return {'noattr'}
  end
  touch(id)
  return {'ok'}
end

-- Move an entry; a whiteout stays in its place if `whiteout` is its mode.
function done.rename(old, new, spelled, way_mode, way_uid, way_gid, whiteout)
  local id, directory, name = find(old, spelled)
  if not id then return {'missing'} end
  local below = spelled == 'd'
  local target, above, last, rest = go(new)
  local wrong = hindrance(target, rest, below)
  if wrong then return wrong end
  if #rest == 0 and target == id then return {'ok'} end
  if #rest == 0 and has_entries(target) then return {'notempty'} end
  if #rest == 0 then
    drop(above, last, target)
  else
    above, last = make_way(target, rest, way_mode, way_uid, way_gid)
  end
  take_entry(directory, name, id)
  add_entry(above, last, id)
  if above == directory then
    touch_entries(directory, 0)
  else
    touch_entries(directory, -as_count(below))
    touch_entries(above, as_count(below))
  end
  touch(id)
  if whiteout ~= '' then
    add_entry(directory, name, add_node(whiteout, way_uid, way_gid, 0, now, now, 0))
  end
  return {'ok'}
end

function done.exchange(first, second, first_spelled, second_spelled)
  local one, one_in, one_name = find(first, first_spelled)
  local other, other_in, other_name = find(second, second_spelled)
  if not one then return {'missing', '1'} end
  if not other then return {'missing', '2'} end
  if one == other then return {'ok'} end
  local more = as_count(second_spelled == 'd') - as_count(first_spelled == 'd')
  take_entry(one_in, one_name, one)
  take_entry(other_in, other_name, other)
  add_entry(one_in, one_name, other)
  add_entry(other_in, other_name, one)
  touch_entries(one_in, more)
  touch_entries(other_in, -more)
  touch(one)
  touch(other)
  return {'ok'}
end

function done.link(old, new, way_mode, way_uid, way_gid)
  local id = find(old, 'f')
  if not id then return {'missing'} end
  local target, _, _, rest = go(new)
  if #rest == 0 then return {'exists'} end
  if not is_directory(target) then return {'notdir'} end
  local directory, name = make_way(target, rest, way_mode, way_uid, way_gid)
  add_entry(directory, name, id)
  touch_entries(directory, 0)
  call('HINCRBY', T .. 'n:' .. id, 'l', 1)
  touch(id)
  return answer(id)
end

-- ---------------------------------------------------------------- without a number: what may be done twice

local always = {}

-- What the user may not do of all that the scripts do; nil if there is no such thing.
local function forbidden()
  for _, command in ipairs(CALLED) do
    if not redis.acl_check_cmd(command, T .. 'store', T .. 'store') then return command end
  end
  for _, key in ipairs({'n:', 'l:', 'v:', 'm:', 'x:', 'd:', 'f:', 'b:', 'h:', 'w:', 'uploads', 'trash', 'store'}) do
    if not redis.acl_check_cmd('COPY', T .. key, T .. key) then return T .. key end
  end
end

-- Make the root, if there is none. Who may not do all, or not tell others of it, is refused here, and not in the middle of a write.
function always.begin(format, mode, uid, gid)
  local lacking = forbidden()
  if lacking then return {'denied', lacking} end
  call('PUBLISH', T .. 'changes', store)
  if call('HSETNX', T .. 'store', 'format', format) == 1 then
    call('HSET', T .. 'store', 'next', ROOT)
    call('HSET', T .. 'n:' .. ROOT, 'm', mode, 's', 0, 'u', uid, 'g', gid, 'r', 0, 'a', now, 't', now, 'c', now, 'b', now, 'l', 2)
  end
  return {'ok', call('HGET', T .. 'store', 'format')}
end

-- Something is heard of an upload: of its beginning, or of what is still to be there.
function always.upload(blob, first)
  if first == '' and not call('ZSCORE', T .. 'uploads', blob) then return {'late'} end
  call('ZADD', T .. 'uploads', seconds, blob)
  return {'ok'}
end

function always.abandon(blob)
  if call('ZREM', T .. 'uploads', blob) == 1 then remove_blob(blob) end
  return {'ok'}
end

-- Hold blobs that are read, for so many seconds.
function always.hold(lasting, ...)
  for _, blob in ipairs({...}) do
    call('SET', T .. 'h:' .. blob, '', 'EX', lasting)
  end
  return {'ok'}
end

-- Hold the blob of a node, and answer which it is.
function always.hold_node(id, lasting)
  local found = call('HMGET', T .. 'n:' .. id, 'B')
  if found[1] then call('SET', T .. 'h:' .. found[1], '', 'EX', lasting) end
  return {'ok', found[1] or ''}
end

function always.sweep()
  return {'ok', sweep()}
end

if always[ARGV[1]] then return always[ARGV[1]](unpack(ARGV, 6)) end

-- ---------------------------------------------------------------- once each

local last = call('GET', T .. 'w:' .. writer)
if last then
  local cut = string.find(last, ' ', 1, true)
  local before = tonumber(string.sub(last, 1, cut - 1))
  if before == number then return cmsgpack.unpack(string.sub(last, cut + 1)) end
  if before > number then return {'late'} end
end
if call('EXISTS', T .. 'n:' .. ROOT) == 0 then return {'rootless'} end
local result = done[ARGV[1]](unpack(ARGV, 7))
if result[1] == 'ok' then
  call('SET', T .. 'w:' .. writer, number .. ' ' .. cmsgpack.pack(result), 'EX', REMEMBERED)
  call('PUBLISH', T .. 'changes', store .. '\0' .. ARGV[6])
  sweep()
end
return result
