"""The kernel's protocol as bytes, packed and unpacked here by the structs of include/uapi/linux/fuse.h themselves.

SEMANTICS.md, Keys and paths; Times; Inode numbers.
"""

import os
import stat
import struct
from struct import pack, unpack_from

import pytest

from joinfs.drivers import wire
from joinfs.drivers.wire import Init, Malformed, Ttl
from joinfs.filesystem.attributes import Attributes
from joinfs.filesystem.operations import NOW, ListedNode
from joinfs.stores import Stat, Usage

SECOND = 1_000_000_000
# struct fuse_entry_out up to its attributes; fuse_attr; fuse_dirent up to its name.
ENTRY, ATTR, DIRENT = "=QQQQII", "=QQQqqqIIIIIIIIII", "=QQII"
ODD = b"\xff\xfe\xe2"
ODD_TEXT = ODD.decode("utf-8", "surrogateescape")
ATTRIBUTES = Attributes(
    ino=1 << 63, mode=stat.S_IFBLK | 0o640, nlink=3, uid=1000, gid=1 << 31, rdev=os.makedev(259, 70_000), size=1 << 40, blocks=1 << 31,
    atime=-1, mtime=-3 * SECOND // 2, ctime=1_700_000_000 * SECOND + 5, birth=-SECOND, blksize=4096,
)  # fmt: skip


def parsed(opcode, body, agreed=Init(0)):
    request = wire.requests(agreed)[opcode]
    return request.verb, *wire.arguments(request, memoryview(body))


# What linux/fuse.h says that follows the header of each opcode, and what is to be made of it.
REQUESTS = {
    "LOOKUP": (1, b"name\0", ("lookup", "name")),
    "FORGET": (2, pack("=Q", 1 << 40), ("forget", 1 << 40)),
    "GETATTR": (3, pack("=IIQ", 1, 0, 77), ("getattr", 1, 77)),
    "READLINK": (5, b"", ("readlink",)),
    "SYMLINK": (6, b"name\0../target \xff\0", ("symlink", "name", b"../target \xff")),
    "MKNOD": (
        8,
        pack("=IIII", stat.S_IFCHR | 0o600, 0x1234_5678, 0o22, 0) + b"dev\0",
        ("mknod", stat.S_IFCHR | 0o600, 0x1234_5678, 0o22, "dev"),
    ),
    "MKDIR": (9, pack("=II", 0o777, 0o27) + b"dir\0", ("mkdir", 0o777, 0o27, "dir")),
    "UNLINK": (10, b"name\0", ("unlink", "name")),
    "RMDIR": (11, b"name\0", ("rmdir", "name")),
    "RENAME": (12, pack("=Q", 9) + b"old\0new\0", ("rename", 9, "old", "new")),
    "LINK": (13, pack("=Q", 9) + b"new\0", ("link", 9, "new")),
    "OPEN": (14, pack("=II", os.O_RDWR, 1), ("open", os.O_RDWR, 1)),
    "READ": (15, pack("=QQIIQII", 5, 1 << 40, 131_072, 2, 99, 3, 0), ("read", 5, 1 << 40, 131_072)),
    "STATFS": (17, b"", ("statfs",)),
    "RELEASE": (18, pack("=QIIQ", 5, 1, 2, 99), ("release", 5)),
    "FSYNC": (20, pack("=QII", 5, 1, 0), ("fsync", 5, 1)),
    "GETXATTR": (22, pack("=II", 255, 0) + b"user.a\0", ("getxattr", 255, "user.a")),
    "LISTXATTR": (23, pack("=II", 255, 0), ("listxattr", 255)),
    "REMOVEXATTR": (24, b"user.a\0", ("removexattr", "user.a")),
    "FLUSH": (25, pack("=QIIQ", 5, 0, 0, 99), ("flush", 5)),
    "READDIR": (28, pack("=QQIIQII", 0, 7, 4096, 0, 0, 0, 0), ("readdir", 0, 7, 4096)),
    "FSYNCDIR": (30, pack("=QII", 5, 1, 0), ("fsyncdir", 1)),
    "ACCESS": (34, pack("=II", os.R_OK, 0), ("access", os.R_OK)),
    "CREATE": (
        35,
        pack("=IIII", os.O_RDWR | os.O_EXCL, stat.S_IFREG | 0o644, 0o22, 1) + b"name\0",
        ("create", os.O_RDWR | os.O_EXCL, stat.S_IFREG | 0o644, 0o22, 1, "name"),
    ),
    "INTERRUPT": (36, pack("=Q", 1 << 50), ("interrupt", 1 << 50)),
    "DESTROY": (38, b"", ("destroy",)),
    "BATCH_FORGET": (42, pack("=IIQQQQ", 2, 0, 5, 1, 6, 10), ("batch_forget", [(5, 1), (6, 10)])),
    "FALLOCATE": (43, pack("=QQQII", 5, 10, 20, 3, 0), ("fallocate", 5, 10, 20, 3)),
    "READDIRPLUS": (44, pack("=QQIIQII", 0, 7, 4096, 0, 0, 0, 0), ("readdirplus", 0, 7, 4096)),
    "RENAME2": (45, pack("=QII", 9, 2, 0) + b"old\0new\0", ("rename2", 9, 2, "old", "new")),
    "LSEEK": (46, pack("=QQII", 5, 10, os.SEEK_HOLE, 0), ("lseek", 5, 10, os.SEEK_HOLE)),
    "COPY_FILE_RANGE": (47, pack("=QQQQQQQ", 5, 10, 3, 6, 20, 30, 0), ("copy_file_range", 5, 10, 3, 6, 20, 30)),
    "SYNCFS": (50, pack("=Q", 0), ("syncfs",)),
    "TMPFILE": (
        51,
        pack("=IIII", os.O_RDWR, stat.S_IFREG | 0o600, 0o22, 0) + b"#1\0",
        ("tmpfile", os.O_RDWR, stat.S_IFREG | 0o600, 0o22, 0, "#1"),
    ),
    "STATX": (52, pack("=IIQII", 1, 0, 77, 0, 0xFFF), ("statx", 1, 77)),
    "COPY_FILE_RANGE_64": (53, pack("=QQQQQQQ", 5, 10, 3, 6, 20, 30, 0), ("copy_file_range_64", 5, 10, 3, 6, 20, 30)),
}
IN_OTHER_TESTS = {"setattr", "write", "setxattr", "init", "opendir", "releasedir"}
WITHOUT_ANSWER = {"forget", "batch_forget", "interrupt"}
NAMED = ["LOOKUP", "SYMLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "RENAME", "LINK", "GETXATTR", "REMOVEXATTR", "CREATE", "RENAME2", "TMPFILE"]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_what_the_header_file_says(name):
    opcode, body, expected = REQUESTS[name]
    assert parsed(opcode, body) == expected


def test_no_request_is_left_out_here_and_only_three_have_no_answer():
    table = wire.requests(Init(0))
    assert {request.verb for request in table.values()} == {expected[0] for _, _, expected in REQUESTS.values()} | IN_OTHER_TESTS
    assert {request.verb for request in table.values() if not request.replies} == WITHOUT_ANSWER
    assert wire.requests(Init.SETXATTR_EXT).keys() == table.keys()


@pytest.mark.parametrize("name", [name for name, (_, body, _) in REQUESTS.items() if name not in NAMED and body])
def test_what_newer_kernels_append_to_numbers_is_not_looked_at(name):
    opcode, body, expected = REQUESTS[name]
    assert parsed(opcode, body + b"\xa5" * 24) == expected


@pytest.mark.parametrize("name", [name for name, (_, body, _) in REQUESTS.items() if body and name != "SYNCFS"])
def test_a_request_that_is_cut_off_is_malformed(name):
    opcode, body, expected = REQUESTS[name]
    for end in range(len(body)):
        try:
            cut = parsed(opcode, body[:end])
        except (Malformed, struct.error):
            continue
        assert name not in NAMED, f"{name} of {end} bytes is {cut}"
        assert cut == expected, f"after {end} bytes comes only what nobody needs"


@pytest.mark.parametrize("name", NAMED)
def test_names_are_bytes_that_need_not_be_text(name):
    opcode, body, expected = REQUESTS[name]
    ends_in = bytes(body[:-1]).rsplit(b"\0", 1)[-1]
    verb, *arguments = parsed(opcode, body[: -len(ends_in) - 1] + ODD + b"\0")
    assert arguments[-1] == (ODD if name == "SYMLINK" else ODD_TEXT)
    assert [verb, *arguments[:-1]] == list(expected[:-1])
    assert wire.raw(ODD_TEXT) == ODD
    assert wire.text(ODD) == ODD_TEXT


def test_two_names_are_told_apart():
    assert parsed(12, pack("=Q", 9) + ODD + b"\0new\0") == ("rename", 9, ODD_TEXT, "new")
    assert parsed(45, pack("=QII", 9, 1, 0) + b"old\0" + ODD + b"\0") == ("rename2", 9, 1, "old", ODD_TEXT)


# -------------------------------------------------------------------- requests of more shapes than one


SETATTR = "=IIQQQQQQIIIIIIII"
NOTHING = dict.fromkeys(("mode", "uid", "gid", "size", "atime", "mtime", "handle"))


def setattr_of(valid, mode=0, uid=0, gid=0, size=0, atime=(0, 0), mtime=(0, 0), handle=0):
    times = atime[0] % (1 << 64), mtime[0] % (1 << 64), 33
    body = pack(SETATTR, valid, 0, handle, size, 44, *times, atime[1], mtime[1], 55, mode, 0, uid, gid, 0)
    verb, changes = parsed(4, body)
    assert verb == "setattr"
    return changes


def test_setattr_says_only_what_its_bits_say():
    full = {"mode": 0o104755, "uid": 1, "gid": 2, "size": 3, "atime": (4, 5), "mtime": (6, 7), "handle": 8}
    assert setattr_of(0, **full) == {**NOTHING, "kill_suidgid": False}
    expected = {"mode": 0o4755, "uid": 1, "gid": 2, "size": 3, "atime": 4 * SECOND + 5, "mtime": 6 * SECOND + 7, "handle": 8}
    for bit, name in enumerate(("mode", "uid", "gid", "size", "atime", "mtime", "handle")):
        assert setattr_of(1 << bit, **full) == {**NOTHING, name: expected[name], "kill_suidgid": False}
    assert setattr_of(0x7F, **full) == {**expected, "kill_suidgid": False}
    assert setattr_of(1 << 11, **full) == {**NOTHING, "kill_suidgid": True}


def test_setattr_knows_now_and_times_before_1970():
    changes = setattr_of(1 << 4 | 1 << 7 | 1 << 5, atime=(1, 1), mtime=(-2, SECOND // 2))
    assert (changes["atime"], changes["mtime"]) == (NOW, -3 * SECOND // 2)
    changes = setattr_of(1 << 4 | 1 << 5 | 1 << 8, atime=(-5_000_000_000, 1), mtime=(1, 1))
    assert (changes["atime"], changes["mtime"]) == (-5_000_000_000 * SECOND + 1, NOW)


def test_a_cut_off_setattr_is_malformed():
    with pytest.raises(Malformed):
        parsed(4, bytes(struct.calcsize(SETATTR) - 1))


def test_write_has_its_data_and_no_more():
    head = pack("=QQIIQII", 5, 1 << 40, 4, 1 << 2, 99, 0, 0)
    verb, handle, offset, data, flags = parsed(16, head + b"dataMORE")
    assert (verb, handle, offset, bytes(data), flags) == ("write", 5, 1 << 40, b"data", wire.WRITE_KILL_SUIDGID)
    for body in (head + b"dat", head, head[:-1], b""):
        with pytest.raises(Malformed):
            parsed(16, body)


def test_setxattr_is_of_two_shapes():
    value = b"va\0lue"
    for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
        assert parsed(21, pack("=II", 6, flags) + b"user.a\0" + value) == ("setxattr", "user.a", value, flags, False)
        for ext, kills in ((0, False), (1, True), (2, False)):
            body = pack("=IIII", 6, flags, ext, 0) + b"user.a\0" + value
            assert parsed(21, body, Init.SETXATTR_EXT) == ("setxattr", "user.a", value, flags, kills)
    assert parsed(21, pack("=II", 0, 0) + ODD + b"\0") == ("setxattr", ODD_TEXT, b"", 0, False)


def test_a_setxattr_of_another_length_is_malformed():
    for body in (b"", pack("=I", 3), pack("=II", 3, 0) + b"user.a\0va", pack("=II", 3, 0) + b"user.a\0valu"):
        with pytest.raises(Malformed):
            parsed(21, body)
    with pytest.raises(Malformed):
        parsed(21, pack("=II", 3, 0), Init.SETXATTR_EXT)


def test_a_setxattr_whose_name_does_not_end_is_malformed():
    with pytest.raises(Malformed):
        parsed(21, pack("=II", 3, 0) + b"abc")


def test_a_batch_of_forgets_may_be_large_and_has_to_be_whole():
    many = [(number, number + 1) for number in range(1, 10_000)]
    whole = pack("=II", len(many), 0) + b"".join(pack("=QQ", *one) for one in many)
    assert parsed(42, whole) == ("batch_forget", many)
    assert parsed(42, pack("=II", 0, 0)) == ("batch_forget", [])
    for body in (whole[:-1], pack("=II", 0xFFFFFFFF, 0), b"\0\0\0"):
        with pytest.raises(Malformed):
            parsed(42, body)


def test_init_has_more_flags_from_newer_kernels():
    old = pack("=IIII", 7, 31, 65_536, Init.ASYNC_READ | Init.MAX_PAGES)
    assert parsed(26, old) == ("init", 7, 31, 65_536, Init.ASYNC_READ | Init.MAX_PAGES)
    new = pack("=IIIII44x", 7, 45, 65_536, Init.ASYNC_READ | Init.INIT_EXT, Init.PASSTHROUGH >> 32)
    assert parsed(26, new) == ("init", 7, 45, 65_536, Init.ASYNC_READ | Init.INIT_EXT | Init.PASSTHROUGH)
    without = pack("=IIIII44x", 7, 45, 65_536, Init.ASYNC_READ, 0xFFFFFFFF)
    assert parsed(26, without) == ("init", 7, 45, 65_536, Init.ASYNC_READ)
    with pytest.raises(Malformed):
        parsed(26, old[:-1])


def test_the_header_of_a_request():
    header = pack("=IIQQIIIHH", 56, 3, 1 << 60, 1, 1000, 1001, 4321, 2, 0)
    assert len(header) == wire.IN_HEADER.size == 40
    assert wire.IN_HEADER.unpack(header) == (56, 3, 1 << 60, 1, 1000, 1001, 4321, 2)


# -------------------------------------------------------------------- replies


def attributes_at(reply, place):
    names = (
        "ino", "size", "blocks", "atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec",
        "mode", "nlink", "uid", "gid", "rdev", "blksize", "flags",
    )  # fmt: skip
    return dict(zip(names, unpack_from(ATTR, reply, place), strict=True))


EXPECTED = {
    "ino": 1 << 63, "size": 1 << 40, "blocks": 1 << 31, "atime": -1, "mtime": -2, "ctime": 1_700_000_000, "atimensec": SECOND - 1,
    "mtimensec": SECOND // 2, "ctimensec": 5, "mode": stat.S_IFBLK | 0o640, "nlink": 3, "uid": 1000, "gid": 1 << 31,
    "rdev": 70_000 & 0xFF | 259 << 8 | (70_000 & ~0xFF) << 12,  # new_encode_dev in linux/kdev_t.h
    "blksize": 4096, "flags": 0,
}  # fmt: skip


def test_an_entry():
    reply = wire.entry(42, ATTRIBUTES, Ttl(10, 5), Ttl(20, 6))
    assert len(reply) == 128
    assert unpack_from(ENTRY, reply) == (42, 0, 10, 20, 5, 6)
    assert attributes_at(reply, 40) == EXPECTED


def test_that_there_is_no_entry():
    reply = wire.no_entry(Ttl(10, 5))
    assert len(reply) == 128
    assert unpack_from(ENTRY, reply) == (0, 0, 10, 0, 5, 0)


def test_attributes():
    reply = wire.attr(ATTRIBUTES, Ttl(20, 6))
    assert len(reply) == 104
    assert unpack_from("=QII", reply) == (20, 6, 0)
    assert attributes_at(reply, 16) == EXPECTED


@pytest.mark.parametrize(("birth", "mask"), [(-SECOND, 0xFFF), (0, 0x7FF)])
def test_attributes_with_the_time_of_birth(birth, mask):
    reply = wire.statx(ATTRIBUTES._replace(birth=birth), Ttl(20, 6))
    assert len(reply) == 288
    assert unpack_from("=QII", reply) == (20, 6, 0)
    assert unpack_from("=IIQIIIHHQQQQ", reply, 32) == (
        mask, 4096, 0, 3, 1000, 1 << 31, stat.S_IFBLK | 0o640, 0, 1 << 63, 1 << 40, 1 << 31, 0,
    )  # fmt: skip
    times = [unpack_from("=qIi", reply, 32 + 64 + 16 * place) for place in range(4)]
    assert times == [(-1, SECOND - 1, 0), (birth // SECOND, 0, 0), (1_700_000_000, 5, 0), (-2, SECOND // 2, 0)]
    assert unpack_from("=IIII", reply, 32 + 128) == (259, 70_000, 0, 0)


def test_an_open_file():
    assert unpack_from("=QIi", wire.opened(1 << 40, wire.Open.PASSTHROUGH, 7)) == (1 << 40, 1 << 7, 7)
    assert len(wire.opened(1, wire.Open.KEEP_CACHE)) == 16


def test_counts_and_offsets():
    assert wire.written(1 << 31) == pack("=II", 1 << 31, 0)
    assert wire.offset(1 << 62) == pack("=Q", 1 << 62)


def test_the_room_there_is():
    reply = wire.statfs(Usage(block_size=4096, blocks=10, blocks_free=9, blocks_available=8, files=7, files_free=6))
    assert unpack_from("=QQQQQIIII24x", reply) == (10, 9, 8, 7, 6, 4096, 255, 4096, 0)
    assert len(reply) == 80


INIT_OUT = "=IIIIHHIIHHIIHHHHHHHHHHHH"


def test_the_answer_to_init():
    agreed = Init.ASYNC_READ | Init.INIT_EXT | Init.PASSTHROUGH
    reply = wire.init(wire.Agreement(41, agreed, 65_536))
    assert len(reply) == 64
    major, minor, readahead, flags, background, congested, most, granularity, pages, alignment, flags2, depth, *rest = unpack_from(INIT_OUT, reply)
    assert (major, minor, readahead, granularity, alignment, depth, *rest) == (7, 41, 65_536, 1, 0, 1, *[0] * 12)
    assert (flags, flags2) == (Init.ASYNC_READ | Init.INIT_EXT, 1 << 5)
    assert most == pages * 4096
    assert 0 < congested <= background
    assert most + struct.calcsize("=QQIIQII") + 40 <= wire.BUFFER_SIZE, "there is room for the largest write"
    assert unpack_from(INIT_OUT, wire.init(wire.Agreement(31, Init.ASYNC_READ, 0)))[10:12] == (0, 0)
    assert unpack_from("=II", wire.other_major()) == (7, 45)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 86_400.5])
def test_how_long_something_may_be_believed(seconds):
    ttl = Ttl.of(seconds)
    assert ttl == (int(seconds), round(seconds % 1 * SECOND))


# -------------------------------------------------------------------- listings


def listed(name, node, size=513, mode=stat.S_IFREG | 0o644):
    attributes = Stat(mode, size, 1000, 1001, os.makedev(8, 300), -1, -3 * SECOND // 2, 5 * SECOND + 6)
    return ListedNode(name, 900 + len(name), 50 + len(name), node, attributes, True)


@pytest.mark.parametrize("name", ["a", "ab", "seven77", "eight888", ODD_TEXT, "é☃", "x" * 255])
def test_an_entry_of_a_listing_ends_at_a_multiple_of_eight(name):
    raw = name.encode("utf-8", "surrogateescape")
    reply = wire.dirent(7, 8, stat.S_IFLNK | 0o777, raw)
    assert len(reply) == (24 + len(raw) + 7) // 8 * 8
    assert unpack_from(DIRENT, reply) == (7, 8, len(raw), stat.S_IFLNK >> 12)
    assert reply[24:].rstrip(b"\0") == raw

    plus = wire.direntplus(listed(name, 42), Ttl(10, 5), Ttl(20, 6))
    assert len(plus) == wire.direntplus_size(name) == 128 + len(reply)
    assert unpack_from(ENTRY, plus) == (42, 0, 10, 20, 5, 6)
    assert attributes_at(plus, 40) == {
        "ino": 900 + len(name), "size": 513, "blocks": 2, "atime": -1, "mtime": -2, "ctime": 5, "atimensec": SECOND - 1,
        "mtimensec": SECOND // 2, "ctimensec": 6, "mode": stat.S_IFREG | 0o644, "nlink": 1, "uid": 1000, "gid": 1001,
        "rdev": 300 & 0xFF | 8 << 8 | (300 & ~0xFF) << 12, "blksize": 4096, "flags": 0,
    }  # fmt: skip
    assert unpack_from(DIRENT, plus, 128) == (900 + len(name), 50 + len(name), len(raw), stat.S_IFREG >> 12)
    assert plus[152:].rstrip(b"\0") == raw


def test_the_nodes_that_a_reply_tells_of_are_counted():
    names = [".", "..", "a", "seven77", "eight888", ODD_TEXT, "é☃", "x" * 255]
    numbers = [0, 0, 42, 43, 0, 44, 42, 1 << 40]
    reply = b"".join(wire.direntplus(listed(name, node), Ttl(1, 0), Ttl(1, 0)) for name, node in zip(names, numbers, strict=True))
    assert list(wire.nodes_in("readdirplus", reply)) == [42, 43, 44, 42, 1 << 40]
    assert list(wire.nodes_in("readdirplus", b"")) == []
    assert list(wire.nodes_in("lookup", wire.entry(42, ATTRIBUTES, Ttl(1, 0), Ttl(1, 0)))) == [42]
    assert list(wire.nodes_in("lookup", wire.no_entry(Ttl(1, 0)))) == []
    assert list(wire.nodes_in("lookup", b"")) == []
    assert list(wire.nodes_in("readdir", wire.dirent(7, 8, 0, b"name"))) == []
    assert list(wire.nodes_in("read", b"\x01" * 500)) == []


# -------------------------------------------------------------------- what is told unasked


def unasked(message):
    length, code, unique = unpack_from("=IiQ", message)
    assert (length, unique) == (len(message), 0)
    return code, message[16:]


def test_notifications():
    assert unasked(wire.inval_inode(42)) == (2, pack("=Qqq", 42, 0, 0))
    assert unasked(wire.inval_inode(42, data=False)) == (2, pack("=Qqq", 42, -1, 0))
    assert unasked(wire.inval_entry(1, ODD_TEXT)) == (3, pack("=QII", 1, 3, 0) + ODD + b"\0")
    assert unasked(wire.delete(1, 42, "é")) == (6, pack("=QQII", 1, 42, 2, 0) + "é".encode() + b"\0")
    assert unasked(wire.inc_epoch()) == (8, b"")
