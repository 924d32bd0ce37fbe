"""What is an archive's own that libarchive reads. SEMANTICS.md, Archives; Odd keys."""

import contextlib
import functools
import gzip
import io
import logging
import lzma
import os
import random
import stat as stat_module
import struct
import subprocess
import sys
import tarfile
import threading
import zlib

import pytest

import joinfs
from joinfs.errors import CorruptStore, StoreError, StoreUnavailable, Unsupported
from joinfs.stores import passing, shelf
from joinfs.stores.archive import ArchiveStore
from joinfs.stores.random_access import open_file
from joinfs.testing import ReadOnlyContract

pytestmark = pytest.mark.usefixtures("need_libarchive")

TIME = 1_500_000_000
OLD = TIME * 10**9 + 123_456_700


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "joinfs"


@pytest.fixture
def make(tmp_path, need):
    """Make an archive of a kind from a directory with some files, or the directory ``tmp_path / "tree"``."""

    def make(kind, contents=None):
        tree = tmp_path / "tree"
        plant(tree, contents or {})
        return made(kind, tree, tmp_path / f"medium.{kind}", need)

    return make


def plant(tree, contents):
    tree.mkdir(exist_ok=True)
    for key, content in contents.items():
        (tree / key).parent.mkdir(parents=True, exist_ok=True)
        (tree / key).write_bytes(content)


def run(program, *arguments, tree, **options):
    return subprocess.run([program, *map(str, arguments)], cwd=tree, check=True, capture_output=True, timeout=100, **options)


def names_in(tree, directories=True):
    """Everything below, directories before what is in them."""
    found = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if directories or not path.is_dir())
    return [name for name in found if "\n" not in name]


def made(kind, tree, path, need):
    PROGRAMS[kind](tree, path, need)
    return path


def make_7z(tree, path, need, *options):
    need("7z")
    run("7z", "a", "-snl", *options, path, "./", tree=tree)


def make_cpio(tree, path, need, kind="newc"):
    need("cpio")
    path.write_bytes(run("cpio", "-o", "-H", kind, tree=tree, input="\n".join(names_in(tree)).encode()).stdout)


def make_iso(tree, path, need, *options):
    need("genisoimage")
    run("genisoimage", "-quiet", *(options or ["-R"]), "-o", path, ".", tree=tree)


def make_ar(tree, path, need):
    need("ar")
    run("ar", "qcP", path, *names_in(tree, directories=False), tree=tree)


def make_cab(tree, path, need):
    need("gcab")
    run("gcab", "-c", path, *names_in(tree, directories=False), tree=tree)


def make_by_bsdtar(tree, path, need, format="xar"):
    need("bsdtar")
    run("bsdtar", "--format", format, "-cf", path, *os.listdir(tree), tree=tree)


def make_tar(tree, path, need):
    with tarfile.open(path, "w") as archive:
        archive.add(tree, ".")


def make_compressed(compress, tree, path, need):
    make_tar(tree, path, need)
    path.write_bytes(compress(path.read_bytes(), need))


def by_program(*command):
    def compress(data, need):
        need(command[0])
        return subprocess.run(command, input=data, check=True, capture_output=True, timeout=100).stdout

    return compress


def files_of(tree):
    return {name: (tree / name).read_bytes() for name in names_in(tree, directories=False)}


def make_rar(tree, path, need):
    """Stored, as RAR 4 does it: there is no free program that makes any."""

    def block(kind, flags, rest, data=b""):
        body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body + data

    def file(name, data):
        size, name = len(data), name.encode()
        facts = struct.pack("<IIBIIBBHI", size, size, 3, zlib.crc32(data), 0x4AEF0000, 20, 0x30, len(name), 0o100640)
        return block(0x74, 0x8000, facts + name, data)

    blocks = [file(name, data) for name, data in files_of(tree).items()]
    path.write_bytes(b"Rar!\x1a\x07\0" + block(0x73, 0, bytes(6)) + b"".join(blocks) + block(0x7B, 0x4000, b""))


def crc16(data):
    def shifted(value):
        return (value >> 1) ^ (0xA001 if value & 1 else 0)

    table = [functools.reduce(lambda value, _: shifted(value), range(8), byte) for byte in range(256)]
    return functools.reduce(lambda crc, byte: (crc >> 8) ^ table[(crc ^ byte) & 0xFF], data, 0)


def make_lha(tree, path, need):
    """Stored, with headers of level 0."""

    def file(name, data):
        size, name = len(data), name.replace("/", "\\").encode()
        rest = b"-lh0-" + struct.pack("<IIIBBB", size, size, 0x4AEF0000, 0x20, 0, len(name)) + name + struct.pack("<H", crc16(data))
        return bytes([len(rest), sum(rest) & 0xFF]) + rest + data

    path.write_bytes(b"".join(file(name, data) for name, data in files_of(tree).items()) + b"\0")


def make_rpm(tree, path, need):
    """The lead, two headers with nothing in them, and the files."""
    make_cpio(tree, path, need)
    lead = b"\xed\xab\xee\xdb\3\0\0\0" + bytes(88)
    header = b"\x8e\xad\xe8\1" + bytes(12)
    path.write_bytes(lead + header + header + gzip.compress(path.read_bytes()))


PROGRAMS = {
    "7z": make_7z, "cpio": make_cpio, "iso": make_iso, "ar": make_ar, "cab": make_cab, "xar": make_by_bsdtar, "rar": make_rar,
    "lha": make_lha, "rpm": make_rpm, "odc.cpio": functools.partial(make_cpio, kind="odc"),
    "bin.cpio": functools.partial(make_cpio, kind="bin"), "joliet.iso": lambda *where: make_iso(*where, "-J"),
    "tar.lz4": functools.partial(make_compressed, by_program("lz4", "-c")),
    "tar.Z": functools.partial(make_compressed, by_program("compress", "-cf")),
    "tar.lzma": functools.partial(make_compressed, lambda data, need: lzma.compress(data, lzma.FORMAT_ALONE)),
}  # fmt: skip


def contents(store):
    return {key: store.to_bytes(key) for key in store.keys()}


class _Kind(ReadOnlyContract):
    @pytest.fixture(autouse=True)
    def _needing(self, need):
        self.need = need

    def make_filled(self, place):
        plant(place / "tree", self.CONTENTS)
        return ArchiveStore(made(self.kind, place / "tree", place / f"medium.{self.kind}", self.need))


class TestSevenZip(_Kind):
    scheme = "archive"
    kind = "7z"


class TestCpio(_Kind):
    kind = "cpio"


class TestIso(_Kind):
    kind = "iso"


class TestAr(_Kind):
    kind = "ar"


class TestRar(_Kind):
    kind = "rar"


class TestXar(_Kind):
    kind = "xar"


class TestCompressedTar(_Kind):
    kind = "tar.lz4"


@pytest.mark.parametrize("kind", PROGRAMS)
def test_every_kind_is_recognised_and_read_anywhere(make, kind):
    content = random.Random(5).randbytes(6_000_000) + bytes(3_000_000) + b"end"
    files = {"a": b"first", "big": content, "d/f": b"text", "z": b"last"}
    with joinfs.open_store(make(kind, files)) as store:
        assert type(store) is ArchiveStore
        assert store.read("big", 8_999_995, 100) == bytes(5) + b"end"
        for offset in (100, 5_000_000, 5_999_990, 0, 7_000_000):
            assert store.read("big", offset, 50_000) == content[offset : offset + 50_000]
        assert contents(store) == files
        assert store.to_bytes("a") == b"first"


# -------------------------------------------------------------------- attributes


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    plant(tree, {"d/f": b"abc", "other": b"x"})
    (tree / "d/f").chmod(0o4711)
    (tree / "d").chmod(0o2750)
    (tree / "link").symlink_to("../../outside")
    os.link(tree / "d/f", tree / "hard")
    os.mkfifo(tree / "pipe")
    for name in ("d/f", "d"):
        os.utime(tree / name, ns=(OLD, OLD))
    return tree


@pytest.mark.parametrize("kind", ["7z", "cpio", "odc.cpio", "iso", "xar", "tar.lz4"])
def test_attributes_come_through(tree, make, kind):
    if kind == "7z":
        (tree / "pipe").unlink()
    exact = {"7z": OLD}.get(kind, TIME * 10**9)
    with ArchiveStore(make(kind)) as store:
        directory, file = store.stat("d/"), store.stat("d/f")
        assert stat_module.S_IMODE(file.mode) in {0o4711, 0o711}
        assert (file.uid, file.gid) == (os.geteuid(), os.getegid())
        assert stat_module.S_IMODE(directory.mode) & 0o777 == 0o750
        assert file.mtime // 1000 == directory.mtime // 1000 == exact // 1000 or kind == "tar.lz4"
        assert (store.to_bytes("link"), store.stat("link").is_symlink, store.stat("link").size) == (b"../../outside", True, 13)
        assert (store.to_bytes("hard"), store.to_bytes("d/f")) == (b"abc", b"abc")
        assert (store.stat("hard") == file, file.nlink) == (kind != "7z", 1 if kind == "7z" else 2)
        assert kind == "7z" or stat_module.S_ISFIFO(store.stat("pipe").mode)
        assert (store.read("d/f", 1, 5), store.read("pipe" if kind != "7z" else "d/f", 9, 5)) == (b"bc", b"")


def test_devices_owners_and_extended_attributes(tmp_path):
    """As a tar archive tells of them, in a compression that only libarchive knows."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in {
            "f": {"uid": 3, "gid": 70_000, "mode": 0o640, "pax_headers": {
                "mtime": "1500000000.123456789", "atime": "5.5", "SCHILY.xattr.user.colour": "red", "SCHILY.xattr.security.x": "v\0w",
            }},
            "null": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
            "disk": {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 300},
        }.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info)
    (tmp_path / "a.tar.lzma").write_bytes(lzma.compress(raw.getvalue(), lzma.FORMAT_ALONE))
    with joinfs.open_store(tmp_path / "a.tar.lzma") as store:
        file = store.stat("f")
        assert (file.uid, file.gid, file.mode) == (3, 70_000, stat_module.S_IFREG | 0o640)
        assert (file.mtime, file.atime) == (TIME * 10**9 + 123_456_789, 5_500_000_000)
        assert store.get_metadata("f") == {"colour": "red"}
        assert store.get_xattrs("f") == {"security.x": b"v\0w"}
        assert list(store.query_keys(colour="red")) == ["f"]
        assert (store.stat("null").rdev, store.stat("disk").rdev) == (os.makedev(1, 3), os.makedev(8, 300))
        assert stat_module.S_ISBLK(store.stat("disk").mode)


def test_data_that_comes_with_the_last_of_three_names(tmp_path, make):
    plant(tmp_path / "tree", {"a": b"abc"})
    os.link(tmp_path / "tree/a", tmp_path / "tree/b")
    os.link(tmp_path / "tree/a", tmp_path / "tree/c")
    with ArchiveStore(make("cpio")) as store:
        assert contents(store) == dict.fromkeys("abc", b"abc")
        assert store.stat("a") == store.stat("c")
        assert (store.stat("a").nlink, store.stat("b").size) == (3, 3)


def test_data_that_comes_with_a_name_inside_the_other(tmp_path):
    """The first name is in the way of a directory, and is spelled differently by the time that the data comes."""
    archive = newc([(b"a", b""), (b"a/x", b"abc")])
    for place in (0, archive.index(b"070701", 1)):
        archive[place + 6 : place + 14], archive[place + 38 : place + 46] = b"%08X" % 5, b"%08X" % 2
    (tmp_path / "a.cpio").write_bytes(archive)
    with ArchiveStore(tmp_path / "a.cpio") as store:
        assert contents(store) == {"%%a%=": b"abc", "a/x": b"abc"}


def test_an_iso_without_posix_attributes_can_be_read_by_all(make):
    with ArchiveStore(make("joliet.iso", {"d/f": b"abc"})) as store:
        assert (store.stat("d/f").mode, store.stat("d/").mode) == (stat_module.S_IFREG | 0o644, stat_module.S_IFDIR | 0o755)
        assert store.stat("d/f").uid == os.geteuid()


def test_directories_that_no_member_tells_of(make):
    with ArchiveStore(make("ar", {"d/e/f": b"abc"})) as store:
        assert store.stat("d/e/").implied
        assert store.stat("d/").rdev == 0
        assert [name for name, _ in store.list("d/")] == ["e"]


# -------------------------------------------------------------------- hostile


def newc(members):
    """A cpio archive by hand: members are ``(name, data)``, with a mode, and a lie about the size, if need be."""
    out = bytearray()
    for number, (name, data, *more) in enumerate([*members, (b"TRAILER!!!", b"", 0)]):
        mode = more[0] if more else 0o100644
        size = more[1] if len(more) > 1 else len(data)
        fields = [number + 1, mode, 5, 6, 1, TIME, size, 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


ODD = [
    b"/etc/passwd", b"../up", b"a/../b", b"x//y", b"f", b"f/in", b"n" * 300, b"deep/" + b"m" * 300 + b"/z", b"%%p", b"\xff", b"..",
    "é".encode(),
]  # fmt: skip


def test_odd_names_are_spelled_and_lead_nowhere(tmp_path):
    (tmp_path / "a.cpio").write_bytes(newc([(name, name) for name in ODD]))
    with ArchiveStore(tmp_path / "a.cpio") as store:
        found = contents(store)
        assert sorted(found.values()) == sorted(ODD)
        assert found["%%/etc/passwd"] == b"/etc/passwd"
        assert found["%%%2E%2E/up"] == b"../up"
        assert (found["f/in"], found["%%f%="]) == (b"f/in", b"f")
        assert found["\udcff"] == b"\xff"
        assert {"..", ".", ""}.isdisjoint(part for key in found for part in key.split("/"))


def test_files_that_are_called_like_the_root_are_not_lost(tmp_path):
    (tmp_path / "a.cpio").write_bytes(newc([(b"", b"empty"), (b".", b"dot"), (b"a\0b", b"nul")]))
    with ArchiveStore(tmp_path / "a.cpio") as store:
        assert contents(store) == {"%%": b"empty", "%%%2E": b"dot", "a": b"nul"}


def test_what_is_later_counts_and_links_lead_nowhere(tmp_path):
    (tmp_path / "a.cpio").write_bytes(newc([
        (b"a", b"first"), (b"a", b"second"), (b"l", b"../../../etc", 0o120777), (b"l/x", b"below"), (b"odd", b"what", 0o170644),
    ]))  # fmt: skip
    with ArchiveStore(tmp_path / "a.cpio") as store:
        assert contents(store) == {"a": b"second", "l/x": b"below", "%%l%=": b"../../../etc", "odd": b"what"}
        assert (store.stat("a").uid, store.stat("a").gid) == (5, 6)


def test_names_are_utf8_whatever_the_locale(tmp_path, make):
    path = make("7z", {"é\N{SNOWMAN}": b"x"})
    program = "import joinfs, sys\nwith joinfs.ArchiveStore(sys.argv[1]) as store: print(ascii(list(store.keys())))"
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    )
    assert (done.stdout.strip(), done.stderr) == (ascii(["é\N{SNOWMAN}"]), "")


def test_a_size_that_is_a_lie_is_told(tmp_path):
    (tmp_path / "a.cpio").write_bytes(newc([(b"a", b"abc", 0o100644, 0xFFFFFFF0)]))
    with pytest.raises(CorruptStore, match=r"a\.cpio"):
        ArchiveStore(tmp_path / "a.cpio").connect()


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_cut_off_is_told_at_the_latest_when_it_is_read(tmp_path, make, kind):
    path = make(kind, {"a": random.Random(1).randbytes(900_000), "b": b"b" * 9000})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptStore, match="medium"), ArchiveStore(path) as store:
        contents(store)


def test_what_is_no_archive_is_refused(tmp_path):
    for content in (b"", b"nothing of the kind" * 100, b"7z\xbc\xaf\x27\x1c" + b"x" * 100, b"\x04\x22\x4d\x18" + b"x" * 1000):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CorruptStore, match="x is"):
            ArchiveStore(tmp_path / "x").connect()
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "cannot be opened"), ("", "is not a file"), ("pipe", "is not a file")):
        with pytest.raises(StoreUnavailable, match=words):
            ArchiveStore(tmp_path / name).connect()


def test_a_list_of_files_of_the_host_is_no_archive(tmp_path):
    (tmp_path / "x").write_text("#mtree\n./f type=file contents=/etc/passwd size=100\n")
    with pytest.raises(CorruptStore):
        ArchiveStore(tmp_path / "x").connect()


@pytest.mark.parametrize("kind", PROGRAMS)
def test_damage_is_told_and_nothing_else_happens(tmp_path, make, kind):
    """Bytes that are changed anywhere: what comes is data, a missing key, or a refusal."""
    whole = make(kind, {"a": b"a" * 3000, "d/b": random.Random(2).randbytes(3000), "c": b""}).read_bytes()
    dice = random.Random(kind)
    places = [n for n in range(0, len(whole), max(len(whole) // 4000, 1)) if whole[n]]
    for number in range(30):
        raw = bytearray(whole)
        for _ in range(3):
            raw[dice.choice(places)] = dice.randrange(256)
        (tmp_path / f"damaged{number}").write_bytes(raw)
        try:
            with ArchiveStore(tmp_path / f"damaged{number}") as store:
                for key in list(store.keys())[:10]:
                    store.read(key, 0, 10_000)
        except (StoreError, KeyError):
            pass


@pytest.mark.parametrize("kind", ["7z", "lha"])
def test_a_wrong_sum_is_told(tmp_path, need, kind):
    plant(tmp_path / "tree", {"a": b"a" * 1000, "big": b"b" * 3_000_000})
    path = tmp_path / "stored.7z"
    PROGRAMS[kind](tmp_path / "tree", path, need, *(["-mx0"] if kind == "7z" else []))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"aaaa", b"aaab", 1).replace(b"bbbb", b"bbba", 1))
    with ArchiveStore(path) as store:
        for key in ("a", "big", "a"):
            with pytest.raises(CorruptStore, match="CRC"):
                store.to_bytes(key)


def test_a_damaged_member_hides_none_that_is_behind_it(make):
    path = make("lha", {"a": b"a" * 1000, "b": b"b" * 1000})
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"aaab", 1))
    with ArchiveStore(path) as store:
        assert store.to_bytes("b") == b"b" * 1000
        with pytest.raises(CorruptStore):
            store.to_bytes("a")


def test_what_is_encrypted_is_told(tmp_path, need):
    plant(tmp_path / "tree", {"a": b"secret" * 1000, "empty": b""})
    make_7z(tmp_path / "tree", tmp_path / "data.7z", need, "-pword")
    with ArchiveStore(tmp_path / "data.7z") as store:
        assert (store.stat("a").size, store.to_bytes("empty")) == (6000, b"")
        with pytest.raises(Unsupported, match="encrypted"):
            store.to_bytes("a")
    make_7z(tmp_path / "tree", tmp_path / "names.7z", need, "-pword", "-mhe=on")
    with pytest.raises(Unsupported, match="encrypted"):
        ArchiveStore(tmp_path / "names.7z").connect()


def test_another_file_in_its_place_is_not_read(tmp_path, make):
    path = make("7z", {"a": b"old" * 100_000})
    with ArchiveStore(path) as store:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another")
        assert store.to_bytes("a") == b"old" * 100_000


# -------------------------------------------------------------------- the index


def test_the_index_is_kept_and_made_anew_for_another_archive(make, cache, monkeypatch):
    path = make("cpio", {"a": b"1"})
    with ArchiveStore(path):
        assert len(list(cache.glob("*.index"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr("joinfs.stores.libarchive.Cursor.member", None)
        with ArchiveStore(path) as store:
            assert contents(store) == {"a": b"1"}
    path.unlink()
    with ArchiveStore(make("cpio", {"b": b"22"})) as store:
        assert contents(store) == {"a": b"1", "b": b"22"}
    for index in cache.glob("*.index"):
        index.write_bytes(b"damaged" * 1000)
    with ArchiveStore(path) as store:
        assert contents(store) == {"a": b"1", "b": b"22"}


def test_nothing_is_left_beside_the_archive_or_open(tmp_path, make):
    path = make("7z", {"a": bytes(3_000_000), "b": b"b"})
    before = set(os.listdir(tmp_path)) | {"cache"}
    descriptors = len(os.listdir("/proc/self/fd"))
    store = ArchiveStore(path)
    for _ in range(3):
        with store:
            contents(store)
            store.read("a", 2_999_000, 5)
            store.read("a", 0, 5)
    assert set(os.listdir(tmp_path)) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


# -------------------------------------------------------------------- reading


@pytest.mark.parametrize("kind", ["cpio", "odc.cpio", "bin.cpio", "iso", "joliet.iso", "ar"])
def test_what_is_in_the_file_as_it_is_is_read_where_it_is(make, monkeypatch, kind):
    """Without libarchive, which would read all that is before; the sizes are those around its pieces and the format's."""
    dice = random.Random(kind)
    sizes = (1, 16, 511, 512, 513, 2047, 2048, 2049, 65_536, 262_143, 262_144, 1_000_000)
    files = {f"f{number}": dice.randbytes(size) for number, size in enumerate(sizes)} | {"zeros": bytes(300_000), "empty": b""}
    with ArchiveStore(make(kind, files)) as store:
        monkeypatch.setattr(store._members, "read", None)
        assert contents(store) == files
        assert store.read("f11", 999_000, 5000) == files["f11"][999_000:]


def test_threads_read_different_members_and_the_same(make):
    dice = random.Random(7)
    files = {f"d/{number}": dice.randbytes(dice.choice((100, 70_000, 3_000_000))) for number in range(30)}
    with ArchiveStore(make("7z", files)) as store:
        wrong = []

        def read(seed):
            own = random.Random(seed)
            for _ in range(25):
                key = own.choice(list(files))
                offset = own.randrange(len(files[key]))
                if store.read(key, offset, 60_000) != files[key][offset : offset + 60_000]:
                    wrong.append((key, offset))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.parametrize("kind", ["cpio", "odc.cpio", "bin.cpio", "iso", "joliet.iso", "ar", "rar", "lha"])
def test_what_is_stored_as_it_is_needs_no_temporary_file(tmp_path, make, monkeypatch, kind):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    content = random.Random(4).randbytes(9_000_000)
    with ArchiveStore(make(kind, {"big": content})) as store:
        for offset in (8_000_000, 0, 4_000_000, 8_999_990):
            assert store.read("big", offset, 100_000) == content[offset : offset + 100_000]
        assert store.to_bytes("big") == content


def test_reading_on_needs_no_temporary_file_and_going_back_in_what_is_compressed_one(tmp_path, make, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    content = random.Random(4).randbytes(9_000_000)
    with ArchiveStore(make("7z", {"big": content})) as store:
        assert store.to_bytes("big") == content
        assert store.read("big", 8_000_000, 100) == content[8_000_000:8_000_100]
        with pytest.raises(StoreUnavailable, match="TMPDIR"):
            store.read("big", 0, 100)


def test_a_member_that_is_in_the_file_only_at_first_is_not_read_from_there(tmp_path):
    """In one piece at first, then elsewhere: as a large file of an ISO image may be."""
    content = random.Random(6).randbytes(14_000_000)
    (tmp_path / "file").write_bytes(b"head" + content[:7_000_000] + bytes(8_000_000))

    class Stream(io.BytesIO):
        place = 4

    with contextlib.closing(open_file(str(tmp_path / "file"))) as file:
        member = passing.PassingFile(lambda: Stream(content), len(content), file, "name")
        for offset in (0, 6_500_000, 10, 13_999_000, 7_500_000, 10):
            assert member.read_at(offset, 1_000_000) == content[offset : offset + 1_000_000]
        member.close()


def test_members_behind_a_multiple_of_64_kib_of_others(make):
    """libarchive before 3.7.5 says that such a 7z is cut off."""
    files = {"a": random.Random(8).randbytes(1 << 17), "b": b"b" * 100_000, "c": b"c"}
    for key in ("b", "c"):
        with ArchiveStore(make("7z", files)) as store:
            assert store.to_bytes(key) == files[key]


def test_a_full_shelf_is_emptied_and_a_full_disk_does_without(make, monkeypatch):
    files = {str(number): bytes([number]) * 1000 for number in range(20)}
    monkeypatch.setattr(shelf, "MOST_BYTES", 3500)
    with ArchiveStore(make("rpm", files)) as store:
        assert {key: store.to_bytes(key) for key in sorted(files, reverse=True)} == files
    monkeypatch.setattr(shelf.os, "pwrite", None)
    monkeypatch.setattr(shelf.tempfile, "TemporaryFile", lambda: open("/dev/full/none"))
    with ArchiveStore(make("rpm", files)) as store:
        assert {key: store.to_bytes(key) for key in sorted(files, reverse=True)} == files


def test_few_places_are_kept_in_an_archive_of_very_many_members(make, monkeypatch):
    monkeypatch.setattr(passing, "MANY", 5)
    files = {f"f{number}": bytes([number]) * 200_000 for number in range(20)}
    with ArchiveStore(make("7z", files)) as store:
        assert {key: store.to_bytes(key) for key in sorted(files, reverse=True)} == files
        descriptors = len(os.listdir("/proc/self/fd"))
        for key in files:
            store.read(key, 10, 5)
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


# -------------------------------------------------------------------- the library


def test_without_the_library_it_is_told_how_to_get_it_and_others_do_without(tmp_path, make):
    path = make("cpio", {"a": b"1"})
    make_tar(tmp_path / "tree", tmp_path / "a.tar", None)
    program = (
        "import sys, joinfs\n"
        "sys.modules['libarchive'] = None\n"
        "with joinfs.open_store(sys.argv[2]) as store: print(list(store.keys()))\n"
        "try: joinfs.open_store(sys.argv[1])\nexcept joinfs.StoreError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path, tmp_path / "a.tar"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "['a']"
    assert "pip install 'joinfs[archives]'" in done.stdout
    assert done.stderr == ""


def test_it_is_loaded_when_it_is_needed_and_not_before(tmp_path):
    make_tar(tmp_path, tmp_path / "a.tar", None)
    program = "import sys, joinfs\njoinfs.open_store(sys.argv[1])\nprint('libarchive' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a.tar"], capture_output=True, text=True, check=True).stdout == "False\n"


def test_its_warnings_do_not_reach_the_terminal(make):
    """The library logs them, and Python shows what nobody handles."""
    with ArchiveStore(make("cpio", {"a": b"1"})):
        assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("libarchive").handlers)


# -------------------------------------------------------------------- memory


LOADED = "from joinfs.stores.libarchive import library\nlibrary()"
READ_FAR = (
    "store = joinfs.ArchiveStore(sys.argv[1])\nstore.connect()\n"
    "(key,) = store.keys()\nsize = store.stat(key).size\n"
    "print(size, len(store.read(key, size - 5, 10)), store.read(key, 5, 3), store.read(key, size - 3, 10))\n"
)


def test_a_bomb_is_read_in_bounded_memory(tmp_path, in_bounded_memory):
    """Half a gibibyte of zeros in some kilobytes; the last bytes of it, the first, and the last."""
    size = 1 << 29
    info = tarfile.TarInfo("zeros")
    info.size = size
    with lzma.open(tmp_path / "a.tar.lzma", "wb", format=lzma.FORMAT_ALONE, preset=0) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    out = in_bounded_memory(READ_FAR, 64, tmp_path / "a.tar.lzma", start=LOADED)
    assert out == f"{size} 5 {bytes(3)!r} {bytes(3)!r}\n"


def test_a_large_member_of_a_7z_is_read_in_bounded_memory(tmp_path, need, in_bounded_memory):
    (tmp_path / "tree").mkdir()
    with open(tmp_path / "tree/zeros", "wb") as file:
        file.truncate(300 << 20)
    make_7z(tmp_path / "tree", tmp_path / "a.7z", need, "-mx1")
    assert in_bounded_memory(READ_FAR, 64, tmp_path / "a.7z", start=LOADED).startswith(f"{300 << 20} 5 ")


def test_many_members_are_indexed_in_bounded_memory(tmp_path, in_bounded_memory):
    (tmp_path / "a.cpio").write_bytes(newc((b"d%d/%d" % (number % 50, number), b"x") for number in range(40_000)))
    out = in_bounded_memory(
        "store = joinfs.ArchiveStore(sys.argv[1])\nstore.connect()\n"
        "print(sum(1 for _ in store.list('d7/')), store.to_bytes('d7/39957'), store.to_bytes('d8/8'))\n", 64, tmp_path / "a.cpio", start=LOADED,
    )  # fmt: skip
    assert out == "800 b'x' b'x'\n"
