"""What is written to the tables of ``PostgresStore``, as functions of the server: each write is one request.

All functions work in the isolation READ COMMITTED, where each statement sees what was committed before it.

Order of locks, which all keep to, so that nobody waits for each other in a circle:

1. the advisory lock of the store: shared by single writes, and had alone by transactions of several and by what moves directories;
2. rows of directories, by their ids. Whoever changes the entries of a directory has its row;
3. rows of other nodes, by their ids.

What was found before it was locked is looked at again after that. If it is another then, ``serialization_failure`` is
raised: nothing was done, and who called does it again. What is refused is answered as ``problem``, and before anything is changed:
a transaction goes on after that.
"""

# Part of what is stored: chunk n of a value begins at n * CHUNK. Measured with 256 MiB on 2 busy cores: 64 KiB, 256 KiB and 1 MiB
# differ by less than the runs of one do (writing 80 to 135 MiB/s, reading 140 to 370); rows of 8000 bytes within the table
# itself are written a third faster, and read a third slower.
CHUNK = 256 << 10

FUNCTIONS = """
-- What a write answers: why it was refused, or NULL and the node's attributes.
CREATE TYPE {s}.outcome AS (
    problem text, mode integer, size bigint, uid bigint, gid bigint, rdev bigint,
    atime bigint, mtime bigint, ctime bigint, birth bigint, nlink bigint, id bigint, directory boolean, metadata text
);

CREATE FUNCTION {s}.refused(problem text) RETURNS {s}.outcome LANGUAGE sql IMMUTABLE AS $$
    SELECT ROW(problem, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::{s}.outcome
$$;

CREATE FUNCTION {s}.answered(n {s}.node) RETURNS {s}.outcome LANGUAGE sql IMMUTABLE AS $$
    SELECT ROW(NULL, n.mode, n.size, n.uid, n.gid, n.rdev, n.atime, n.mtime, n.ctime, n.birth, n.nlink, n.id,
        n.mode & 61440 = 16384, n.metadata)::{s}.outcome
$$;

CREATE FUNCTION {s}.moment() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000
$$;

CREATE FUNCTION {s}.changed() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE serialization_failure USING MESSAGE = 'joinfs: changed by others meanwhile';
END $$;

-- Begin a write: wait for those who have the store alone.
CREATE FUNCTION {s}.enter(alone boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock({lock});
    ELSE
        PERFORM pg_advisory_xact_lock_shared({lock});
    END IF;
END $$;

-- End a write that was not refused: tell of it, and note that it was done (session and number; NULL within a transaction).
CREATE FUNCTION {s}.finish(told text, write bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF write IS NOT NULL THEN
        UPDATE {s}.session SET number = write[2] WHERE id = write[1];
    END IF;
    PERFORM pg_notify('{channel}', told);
END $$;

-- The node that is so many names below another one; NULL if there is none.
CREATE FUNCTION {s}.inside(start bigint, names bytea[]) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    here bigint := start;
    part bytea;
BEGIN
    FOREACH part IN ARRAY names LOOP
        SELECT e.node INTO here FROM {s}.entry e WHERE e.parent = here AND e.name = part;
        EXIT WHEN here IS NULL;
    END LOOP;
    RETURN here;
END $$;

-- The directory of a key, given all its names; NULL if there is none.
CREATE FUNCTION {s}.directory(names bytea[]) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    depth integer := cardinality(names);
    found bigint;
BEGIN
    IF depth = 0 THEN
        RETURN 1;
    END IF;
    SELECT e.node INTO found FROM {s}.entry e
        WHERE e.parent = {s}.inside(1, names[1:depth - 1]) AND e.name = names[depth] AND e.directory;
    RETURN found;
END $$;

-- The bytes of a node's data from first up to, not including, last: of its chunks only those that have some of them.
CREATE FUNCTION {s}.part(data_ bytea, content_ bigint, first bigint, last bigint) RETURNS bytea LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF content_ IS NULL THEN
        RETURN substring(data_ FROM least(first, {chunk})::integer + 1 FOR least(last - first, {chunk})::integer);
    END IF;
    RETURN (
        SELECT string_agg(piece, ''::bytea) FROM (
            SELECT CASE WHEN c.n * {chunk}::bigint >= first AND (c.n + 1) * {chunk}::bigint <= last THEN c.data
                ELSE substring(c.data FROM greatest(first - c.n * {chunk}::bigint, 0)::integer + 1
                    FOR (least(last - c.n * {chunk}::bigint, {chunk}) - greatest(first - c.n * {chunk}::bigint, 0))::integer) END AS piece
            FROM {s}.chunk c WHERE c.content = content_ AND c.n BETWEEN first / {chunk} AND (last - 1) / {chunk} ORDER BY c.n
        ) pieces
    );
END $$;

-- Have the rows of directories, which must still be there.
CREATE FUNCTION {s}.lock_directories(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
BEGIN
    FOR wanted IN SELECT DISTINCT i FROM unnest(ids) i ORDER BY i LOOP
        PERFORM FROM {s}.node n WHERE n.id = wanted FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            PERFORM {s}.changed();
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION {s}.touch_entries(directory bigint, more integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    time_ns bigint := {s}.moment();
BEGIN
    UPDATE {s}.node n SET mtime = time_ns, ctime = time_ns, nlink = n.nlink + more WHERE n.id = directory;
END $$;

-- Make a node with a name that is free, in a directory whose row the caller has.
CREATE FUNCTION {s}.add(parent_ bigint, name_ bytea, new {s}.node) RETURNS {s}.node LANGUAGE plpgsql AS $$
DECLARE
    is_directory boolean := new.mode & 61440 = 16384;
BEGIN
    new.id := nextval('{s}.node_id');
    new.nlink := 1 + is_directory::integer;
    INSERT INTO {s}.node SELECT new.*;
    INSERT INTO {s}.entry (parent, name, node, directory) VALUES (parent_, name_, new.id, is_directory);
    PERFORM {s}.touch_entries(parent_, is_directory::integer);
    RETURN new;
END $$;

-- The directory of these names, made with those above it where it is not there, and the caller has its row.
-- 0: it is not there, and owner is NULL; -1: something else stands on the way.
CREATE FUNCTION {s}.have_directory(names bytea[], owner bigint[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    here bigint := 1;
    depth integer := 0;
    next bigint;
    is_directory boolean;
    new {s}.node;
BEGIN
    WHILE depth < cardinality(names) LOOP
        SELECT e.node, e.directory INTO next, is_directory FROM {s}.entry e WHERE e.parent = here AND e.name = names[depth + 1];
        EXIT WHEN next IS NULL;
        IF NOT is_directory THEN
            RETURN -1;
        END IF;
        here := next;
        depth := depth + 1;
    END LOOP;
    IF depth < cardinality(names) AND owner IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM {s}.lock_directories(ARRAY[here]);
    IF depth < cardinality(names) THEN
        PERFORM FROM {s}.entry e WHERE e.parent = here AND e.name = names[depth + 1];
        IF FOUND THEN
            PERFORM {s}.changed();
        END IF;
        new.mode := 16877;  -- S_IFDIR | 0755
        new.size := 0; new.uid := owner[1]; new.gid := owner[2]; new.rdev := 0;
        new.atime := {s}.moment(); new.mtime := new.atime; new.ctime := new.atime; new.birth := new.atime;
    END IF;
    WHILE depth < cardinality(names) LOOP
        depth := depth + 1;
        here := ({s}.add(here, names[depth], new)).id;
    END LOOP;
    RETURN here;
END $$;

-- Take a name away, and with the last one the node. The caller has the rows of the directories.
CREATE FUNCTION {s}.drop_entry(parent_ bigint, name_ bytea, node_ bigint, is_directory boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    old {s}.node;
BEGIN
    DELETE FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_;
    PERFORM {s}.touch_entries(parent_, -is_directory::integer);
    IF NOT is_directory THEN
        UPDATE {s}.node n SET nlink = n.nlink - 1, ctime = {s}.moment() WHERE n.id = node_ RETURNING * INTO old;
        IF old.nlink > 0 THEN
            RETURN;
        END IF;
    END IF;
    DELETE FROM {s}.node n WHERE n.id = node_;
    IF old.content IS NOT NULL THEN
        DELETE FROM {s}.chunk c WHERE c.content = old.content;
    END IF;
END $$;

-- Make or replace what is at a name, whole. keep: of what is there, mode, owner, atime and xattrs stay, as when a value
-- is written anew; keep_metadata: its metadata too. name_ is NULL for the root.
CREATE FUNCTION {s}.put(told text, write bigint[], above bytea[], name_ bytea, new {s}.node, keep boolean, keep_metadata boolean, owner bigint[])
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    parent_ bigint;
    old {s}.node;
    is_directory boolean := new.mode & 61440 = 16384;
BEGIN
    PERFORM {s}.enter(false);
    IF name_ IS NULL THEN
        SELECT * INTO old FROM {s}.node n WHERE n.id = 1 FOR NO KEY UPDATE;
    ELSE
        parent_ := {s}.have_directory(above, owner);
        IF parent_ < 0 THEN
            RETURN {s}.refused('no directory');
        END IF;
        SELECT n.* INTO old FROM {s}.entry e JOIN {s}.node n ON n.id = e.node
            WHERE e.parent = parent_ AND e.name = name_ FOR NO KEY UPDATE OF n;
    END IF;
    new.ctime := {s}.moment();
    new.birth := coalesce(old.birth, new.ctime);
    IF old.id IS NOT NULL THEN
        IF (old.mode & 61440 = 16384) <> is_directory THEN
            RETURN {s}.refused(CASE WHEN is_directory THEN 'no directory' ELSE 'directory' END);
        END IF;
        IF keep THEN
            new.mode := CASE WHEN old.mode & 61440 = 32768 THEN old.mode ELSE new.mode END;
            new.uid := old.uid; new.gid := old.gid; new.atime := old.atime; new.mtime := new.ctime; new.xattrs := old.xattrs;
        END IF;
        IF keep_metadata THEN
            new.metadata := old.metadata; new.fields := old.fields;
        END IF;
        IF old.mode & 61440 = new.mode & 61440 THEN
            new.id := old.id;
            new.nlink := old.nlink;
            UPDATE {s}.node n SET mode = new.mode, size = new.size, uid = new.uid, gid = new.gid, rdev = new.rdev,
                atime = new.atime, mtime = new.mtime, ctime = new.ctime, birth = new.birth, metadata = new.metadata,
                fields = new.fields, xattrs = new.xattrs, data = new.data, content = new.content WHERE n.id = old.id;
            IF old.content IS NOT NULL THEN
                DELETE FROM {s}.chunk c WHERE c.content = old.content;
            END IF;
            PERFORM {s}.finish(told, write);
            RETURN {s}.answered(new);
        END IF;
        PERFORM {s}.drop_entry(parent_, name_, old.id, false);
        new.birth := new.ctime;
    END IF;
    new := {s}.add(parent_, name_, new);
    PERFORM {s}.finish(told, write);
    RETURN {s}.answered(new);
END $$;

-- Make what is new, empty but for a symlink's target, at a name that must be free.
CREATE FUNCTION {s}.make(told text, write bigint[], above bytea[], name_ bytea, new {s}.node) RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    parent_ bigint;
BEGIN
    PERFORM {s}.enter(false);
    parent_ := {s}.have_directory(above, NULL);
    IF parent_ <= 0 THEN
        RETURN {s}.refused('absent');
    END IF;
    PERFORM FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_;
    IF FOUND THEN
        RETURN {s}.refused('there');
    END IF;
    new.atime := {s}.moment(); new.mtime := new.atime; new.ctime := new.atime; new.birth := new.atime;
    new := {s}.add(parent_, name_, new);
    PERFORM {s}.finish(told, write);
    RETURN {s}.answered(new);
END $$;

CREATE FUNCTION {s}.delete(told text, write bigint[], above bytea[], name_ bytea, directory_ boolean) RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    parent_ bigint;
    node_ bigint;
BEGIN
    PERFORM {s}.enter(false);
    parent_ := {s}.inside(1, above);
    SELECT e.node INTO node_ FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_ AND e.directory = directory_;
    IF node_ IS NULL THEN
        RETURN {s}.refused('absent');
    END IF;
    PERFORM {s}.lock_directories(CASE WHEN directory_ THEN ARRAY[parent_, node_] ELSE ARRAY[parent_] END);
    PERFORM FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_ AND e.node = node_;
    IF NOT FOUND THEN
        PERFORM {s}.changed();
    END IF;
    IF directory_ AND EXISTS (SELECT FROM {s}.entry e WHERE e.parent = node_) THEN
        RETURN {s}.refused('full');
    END IF;
    PERFORM {s}.drop_entry(parent_, name_, node_, directory_);
    PERFORM {s}.finish(told, write);
    RETURN {s}.refused(NULL);
END $$;

-- Change attributes: those that are not NULL.
CREATE FUNCTION {s}.set_stat(told text, write bigint[], names bytea[], directory_ boolean, mode_ integer, uid_ bigint, gid_ bigint, atime_ bigint, mtime_ bigint)
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    node_ bigint;
    new {s}.node;
BEGIN
    PERFORM {s}.enter(false);
    node_ := {s}.inside(1, names);
    UPDATE {s}.node n SET mode = (n.mode & 61440) | (coalesce(mode_, n.mode) & 4095), uid = coalesce(uid_, n.uid), gid = coalesce(gid_, n.gid),
        atime = coalesce(atime_, n.atime), mtime = coalesce(mtime_, n.mtime), ctime = {s}.moment()
        WHERE n.id = node_ AND (n.mode & 61440 = 16384) = directory_ RETURNING * INTO new;
    IF new.id IS NULL THEN
        RETURN {s}.refused('absent');
    END IF;
    PERFORM {s}.finish(told, write);
    RETURN {s}.answered(new);
END $$;

-- Replace the metadata, or (with fields_ NULL and is_xattrs) the xattrs; only if they are the old ones, where these are given.
CREATE FUNCTION {s}.set_text(told text, write bigint[], names bytea[], directory_ boolean, is_xattrs boolean, text_ text, fields_ bigint[], checks boolean, old_ text)
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    new {s}.node;
BEGIN
    PERFORM {s}.enter(false);
    SELECT * INTO new FROM {s}.node n WHERE n.id = {s}.inside(1, names) AND (n.mode & 61440 = 16384) = directory_ FOR NO KEY UPDATE;
    IF new.id IS NULL THEN
        RETURN {s}.refused('absent');
    END IF;
    IF checks AND (CASE WHEN is_xattrs THEN new.xattrs ELSE new.metadata END) IS DISTINCT FROM old_ THEN
        RETURN {s}.refused('changed');
    END IF;
    new.ctime := {s}.moment();
    IF is_xattrs THEN
        UPDATE {s}.node n SET xattrs = text_, ctime = new.ctime WHERE n.id = new.id;
    ELSE
        UPDATE {s}.node n SET metadata = text_, fields = fields_, ctime = new.ctime WHERE n.id = new.id;
        new.metadata := text_;
    END IF;
    PERFORM {s}.finish(told, write);
    RETURN {s}.answered(new);
END $$;

CREATE FUNCTION {s}.rename(told text, write bigint[], above bytea[], name_ bytea, above_new bytea[], name_new bytea, directory_ boolean, owner bigint[])
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    parent_ bigint;
    node_ bigint;
    parent_new bigint;
    target {s}.entry;
BEGIN
    -- Alone, so that of two directories each is not moved into the other.
    IF directory_ THEN
        PERFORM {s}.enter(true);
    ELSE
        PERFORM {s}.enter(false);
    END IF;
    parent_ := {s}.inside(1, above);
    SELECT e.node INTO node_ FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_ AND e.directory = directory_;
    IF node_ IS NULL THEN
        RETURN {s}.refused('absent');
    END IF;
    parent_new := {s}.directory(above_new);
    IF parent_new IS NULL THEN
        parent_new := {s}.have_directory(above_new, owner);
        IF parent_new < 0 THEN
            RETURN {s}.refused('no directory');
        END IF;
    END IF;
    PERFORM {s}.lock_directories(ARRAY[parent_, parent_new]);
    PERFORM FROM {s}.entry e WHERE e.parent = parent_ AND e.name = name_ AND e.node = node_;
    IF NOT FOUND THEN
        PERFORM {s}.changed();
    END IF;
    SELECT * INTO target FROM {s}.entry e WHERE e.parent = parent_new AND e.name = name_new;
    IF target.node = node_ THEN
        RETURN {s}.refused(NULL);
    END IF;
    PERFORM FROM {s}.node n WHERE n.id IN (node_, target.node) ORDER BY n.id FOR NO KEY UPDATE;
    IF target.node IS NOT NULL THEN
        IF target.directory <> directory_ THEN
            RETURN {s}.refused(CASE WHEN directory_ THEN 'no directory' ELSE 'directory' END);
        END IF;
        IF directory_ AND EXISTS (SELECT FROM {s}.entry e WHERE e.parent = target.node) THEN
            RETURN {s}.refused('full');
        END IF;
        PERFORM {s}.drop_entry(parent_new, name_new, target.node, directory_);
    END IF;
    UPDATE {s}.entry e SET parent = parent_new, name = name_new WHERE e.parent = parent_ AND e.name = name_;
    PERFORM {s}.touch_entries(parent_, CASE WHEN parent_ = parent_new THEN 0 ELSE -directory_::integer END);
    IF parent_ <> parent_new THEN
        PERFORM {s}.touch_entries(parent_new, directory_::integer);
    END IF;
    UPDATE {s}.node n SET ctime = {s}.moment() WHERE n.id = node_;
    PERFORM {s}.finish(told, write);
    RETURN {s}.refused(NULL);
END $$;

CREATE FUNCTION {s}.exchange(told text, write bigint[], above bytea[], name_ bytea, directory_ boolean, above_other bytea[], name_other bytea, directory_other boolean)
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    one {s}.entry;
    other {s}.entry;
    more integer := directory_other::integer - directory_::integer;
BEGIN
    IF directory_ OR directory_other THEN
        PERFORM {s}.enter(true);
    ELSE
        PERFORM {s}.enter(false);
    END IF;
    SELECT * INTO one FROM {s}.entry e WHERE e.parent = {s}.inside(1, above) AND e.name = name_ AND e.directory = directory_;
    SELECT * INTO other FROM {s}.entry e WHERE e.parent = {s}.inside(1, above_other) AND e.name = name_other AND e.directory = directory_other;
    IF one.node IS NULL OR other.node IS NULL THEN
        RETURN {s}.refused(CASE WHEN one.node IS NULL THEN 'absent' ELSE 'other absent' END);
    END IF;
    IF one.node = other.node THEN
        RETURN {s}.refused(NULL);
    END IF;
    PERFORM {s}.lock_directories(ARRAY[one.parent, other.parent]);
    PERFORM FROM {s}.node n WHERE n.id IN (one.node, other.node) ORDER BY n.id FOR NO KEY UPDATE;
    -- Both go before either comes: a directory has one name, at every moment.
    DELETE FROM {s}.entry e WHERE e.parent = one.parent AND e.name = name_ AND e.node = one.node;
    IF NOT FOUND THEN
        PERFORM {s}.changed();
    END IF;
    DELETE FROM {s}.entry e WHERE e.parent = other.parent AND e.name = name_other AND e.node = other.node;
    IF NOT FOUND THEN
        PERFORM {s}.changed();
    END IF;
    INSERT INTO {s}.entry (parent, name, node, directory)
        VALUES (one.parent, name_, other.node, other.directory), (other.parent, name_other, one.node, one.directory);
    PERFORM {s}.touch_entries(one.parent, CASE WHEN one.parent = other.parent THEN 0 ELSE more END);
    IF one.parent <> other.parent THEN
        PERFORM {s}.touch_entries(other.parent, -more);
    END IF;
    UPDATE {s}.node n SET ctime = {s}.moment() WHERE n.id IN (one.node, other.node);
    PERFORM {s}.finish(told, write);
    RETURN {s}.refused(NULL);
END $$;

CREATE FUNCTION {s}.link(told text, write bigint[], names bytea[], above_new bytea[], name_new bytea, owner bigint[])
RETURNS {s}.outcome LANGUAGE plpgsql AS $$
DECLARE
    node_ bigint;
    parent_new bigint;
    new {s}.node;
BEGIN
    PERFORM {s}.enter(false);
    node_ := {s}.inside(1, names);
    PERFORM FROM {s}.node n WHERE n.id = node_ AND n.mode & 61440 <> 16384;
    IF NOT FOUND THEN
        RETURN {s}.refused('absent');
    END IF;
    parent_new := {s}.have_directory(above_new, owner);
    IF parent_new < 0 THEN
        RETURN {s}.refused('no directory');
    END IF;
    PERFORM FROM {s}.entry e WHERE e.parent = parent_new AND e.name = name_new;
    IF FOUND THEN
        RETURN {s}.refused('there');
    END IF;
    UPDATE {s}.node n SET nlink = n.nlink + 1, ctime = {s}.moment() WHERE n.id = node_ RETURNING * INTO new;
    IF new.id IS NULL THEN
        PERFORM {s}.changed();
    END IF;
    INSERT INTO {s}.entry (parent, name, node, directory) VALUES (parent_new, name_new, node_, false);
    PERFORM {s}.touch_entries(parent_new, 0);
    PERFORM {s}.finish(told, write);
    RETURN {s}.answered(new);
END $$;
"""
