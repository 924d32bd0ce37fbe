-- The script that reads. ARGV: what is asked for, then what that needs.
local MOST = 4194304
local CHUNK = 4194304

-- Up to `size` bytes of a blob, and of a value, from an offset; nil if some are missing.
local function piece(id, blob, offset, stop)
  if stop <= offset then return '' end
  local data
  if not blob then
    data = call('GETRANGE', T .. 'v:' .. id, offset, stop - 1)
  else
    local pieces = {}
    for n = math.floor(offset / CHUNK), math.floor((stop - 1) / CHUNK) do
      local from = math.max(offset - n * CHUNK, 0)
      pieces[#pieces + 1] = call('GETRANGE', string.format('%sb:%s:%d', T, blob, n), from, math.min(stop - n * CHUNK, CHUNK) - 1)
    end
    data = table.concat(pieces)
  end
  return #data == stop - offset and data or nil
end

local asked = {}

function asked.stat(path, spelled)
  local id = find(path, spelled)
  if not id then return {'missing'} end
  local row = attributes(id)
  return row and {'ok', row} or {'damaged', id}
end

function asked.read(path, offset, size)
  local id = find(path, 'f')
  if not id then return {'missing'} end
  local found = call('HMGET', T .. 'n:' .. id, 's', 'B')
  if not found[1] then return {'damaged', id} end
  offset = tonumber(offset)
  local stop = math.min(offset + tonumber(size), tonumber(found[1]))
  local data = piece(id, found[2], offset, math.min(stop, offset + MOST))
  return data and {'ok', data, found[2] or '', found[1]} or {'damaged', id}
end

-- All that there is to know of a value: its attributes, metadata, blob, and its data if that is in no blob.
local function whole(id)
  local row = attributes(id)
  if not row then return {'damaged', id} end
  local found = call('HMGET', T .. 'n:' .. id, 's', 'B')
  local data = found[2] and '' or piece(id, nil, 0, tonumber(found[1]))
  if is_directory(id) then data = '' end
  return data and {'ok', row, call('HGETALL', T .. 'm:' .. id), found[2] or '', data} or {'damaged', id}
end

function asked.get(path, spelled)
  local id = find(path, spelled)
  return id and whole(id) or {'missing'}
end

function asked.node(id)
  return call('EXISTS', T .. 'n:' .. id) == 1 and whole(id) or {'missing'}
end

-- The metadata (m) or the other attributes (x).
function asked.hash(path, spelled, which)
  local id = find(path, spelled)
  return id and {'ok', call('HGETALL', T .. which .. ':' .. id)} or {'missing'}
end

-- The next entries of a directory, given by its path or its number, with their attributes: NAME/ATTRIBUTES/NAME/...
function asked.list(path, id, after, limit)
  if id == '' then
    id = find(path, 'd')
    if not id then return {'missing'} end
  end
  local from = after == '' and '-' or '(' .. after .. '\1'
  local entries = {}
  for _, entry in ipairs(call('ZRANGEBYLEX', T .. 'd:' .. id, from, '+', 'LIMIT', 0, limit)) do
    local cut = string.find(entry, '%z')
    local row = attributes(string.sub(entry, cut + 1))
    if not row then return {'damaged', string.sub(entry, cut + 1)} end
    entries[#entries + 1] = string.sub(entry, 1, cut - 1)
    entries[#entries + 1] = row
  end
  return {'ok', id, table.concat(entries, '/')}
end

-- The path of a directory with a '/' at its end; nil if it is not below the root.
local function path_of(id, known)
  local steps = {}
  while not known[id] do
    local name = call('HGET', T .. 'n:' .. id, 'P')
    if not name or #steps > 4096 then return nil end
    local cut = string.find(name, '/', 1, true)
    steps[#steps + 1] = {id, string.sub(name, cut + 1)}
    id = string.sub(name, 1, cut - 1)
  end
  local path = known[id]
  for n = #steps, 1, -1 do
    path = path .. steps[n][2] .. '/'
    known[steps[n][1]] = path
  end
  return path
end

-- The next values whose metadata is indexed under all digests: their keys with their metadata; and the last node looked at.
function asked.query(_, after, limit, ...)
  local digests = {...}
  local count = {}
  for _, digest in ipairs(digests) do count[digest] = call('ZCARD', T .. 'f:' .. digest) end
  table.sort(digests, function(one, other) return count[one] < count[other] end)
  local nodes = call('ZRANGEBYSCORE', T .. 'f:' .. digests[1], '(' .. after, '+inf', 'LIMIT', 0, limit)
  local answer, known = {'ok', #nodes == tonumber(limit) and nodes[#nodes] or ''}, {[ROOT] = ''}
  for _, id in ipairs(nodes) do
    local kind = kind_of(call('HGET', T .. 'n:' .. id, 'm') or 0)
    local has = kind == REGULAR or kind == SYMLINK
    for n = 2, #digests do has = has and call('ZSCORE', T .. 'f:' .. digests[n], id) end
    for _, name in ipairs(has and names_of(id) or {}) do
      local cut = string.find(name, '/', 1, true)
      local directory = path_of(string.sub(name, 1, cut - 1), known)
      if directory then
        answer[#answer + 1] = directory .. string.sub(name, cut + 1)
        answer[#answer + 1] = call('HGETALL', T .. 'm:' .. id)
      end
    end
  end
  return answer
end

-- The next values in a directory with their metadata, and the directories in it: NAME, KIND, METADATA.
function asked.values(path, after, limit)
  local id = find(path, 'd')
  if not id then return {'missing'} end
  local answer = {'ok'}
  for _, entry in ipairs(call('ZRANGEBYLEX', T .. 'd:' .. id, after == '' and '-' or '(' .. after .. '\1', '+', 'LIMIT', 0, limit)) do
    local cut = string.find(entry, '%z')
    local node = string.sub(entry, cut + 1)
    answer[#answer + 1] = string.sub(entry, 1, cut - 1)
    answer[#answer + 1] = kind_of(call('HGET', T .. 'n:' .. node, 'm') or 0)
    answer[#answer + 1] = call('HGETALL', T .. 'm:' .. node)
  end
  return answer
end

return asked[ARGV[1]](unpack(ARGV, 2))
