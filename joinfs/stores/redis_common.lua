-- What all scripts of a RedisStore begin with. The keys, all below the tag in KEYS[1], so that they are in one slot:
--   n:ID        hash: a node. m mode, s size, u uid, g gid, r rdev, a atime, t mtime, c ctime, b birth (nanoseconds), l links;
--               P its name, as 'DIRECTORY/NAME', if it has just one; B its blob, if its data is in chunks.
--   l:ID        set: its names, if it has several.
--   v:ID        string: its data, if that is not in chunks. (None is empty.)
--   m:ID        hash: its metadata. To each name the digest under which it is indexed (32 digits, or 32 dashes), then JSON.
--   x:ID        hash: its other extended attributes.
--   d:ID        sorted set: the entries of a directory, each NAME\0ID, in the order of names.
--   f:DIGEST    sorted set: the nodes whose metadata has one name and value, by their numbers.
--   b:BLOB:N    string: chunk N of a blob; each but the last has 4 MiB.
--   h:BLOB      somebody reads the blob, until this expires.
--   uploads     sorted set: blobs that are being written, by the second in which something was last heard of them.
--   trash       sorted set: blobs that are not a node's any more, and were read then, by the second.
--   w:WRITER    string: the number of the last request of a writer, and what it was answered.
--   store       hash: format; next, the number of the last node that was made.
-- Numbers of nodes are strings here. Answers begin with a word: 'ok', or what is wrong; then nothing was changed.
local call = redis.call
local T = KEYS[1] .. ':'
local ROOT = '1'
local DIRECTORY, REGULAR, SYMLINK = 4, 8, 10

local function kind_of(mode)
  return math.floor(tonumber(mode) / 4096)
end

local function is_directory(id)
  local mode = call('HGET', T .. 'n:' .. id, 'm')
  return mode and kind_of(mode) == DIRECTORY
end

local function child(directory, name)
  local found = call('ZRANGEBYLEX', T .. 'd:' .. directory, '[' .. name .. '\0', '(' .. name .. '\1', 'LIMIT', 0, 1)[1]
  return found and string.sub(found, #name + 2)
end

-- Down a path as far as something is there: that, in which directory and under which name; and the names that are left.
local function go(path)
  local directory, last, id, rest = nil, nil, ROOT, {}
  for name in string.gmatch(path, '[^/]+') do
    local below = #rest == 0 and child(id, name)
    if below then
      directory, last, id = id, name, below
    else
      rest[#rest + 1] = name
    end
  end
  return id, directory, last, rest
end

-- The attributes of a node as one text, its number, and whether it has metadata (1) and other attributes (2); nil if it is damaged or gone.
local function attributes(id)
  local row = call('HMGET', T .. 'n:' .. id, 'm', 's', 'u', 'g', 'r', 'a', 't', 'c', 'b', 'l')
  for n = 1, 10 do
    if not row[n] then return nil end
  end
  local has = call('EXISTS', T .. 'm:' .. id) + 2 * call('EXISTS', T .. 'x:' .. id)
  return table.concat(row, ' ') .. ' ' .. id .. ' ' .. has
end

-- What stands at a path: as `spelled`, which is 'd' for a directory, 'f' for anything else, and 'a' for any.
local function find(path, spelled)
  local id, directory, name, rest = go(path)
  if #rest > 0 then return nil end
  if spelled ~= 'a' and (is_directory(id) or false) ~= (spelled == 'd') then return nil end
  return id, directory, name
end

local function names_of(id)
  local name = call('HGET', T .. 'n:' .. id, 'P')
  return name and {name} or call('SMEMBERS', T .. 'l:' .. id)
end
