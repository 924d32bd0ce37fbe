"""What is a tar archive's own. SEMANTICS.md, Archives; Odd keys."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat as stat_module
import subprocess
import tarfile
import zlib

import pytest

import joinfs
from joinfs.errors import CorruptStore, StoreUnavailable
from joinfs.stores import archive_index
from joinfs.stores.tar import TarStore
from joinfs.testing import ReadOnlyContract

TIME = 1_500_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "joinfs"


def zstd(data):
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def member(name, content=None, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    info.mtime = TIME
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def make_tar(path, members, compress=bytes, format=tarfile.PAX_FORMAT):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, None if content is None else io.BytesIO(content))
    path.write_bytes(compress(raw.getvalue()))
    return path


def contents(store):
    return {key: store.to_bytes(key) for key in store.keys()}


class TestTar(ReadOnlyContract):
    scheme = "tar"

    def make_filled(self, place):
        return TarStore(make_tar(place / "medium.tar", [member(k, v) for k, v in self.CONTENTS.items()]))


class TestGzip(ReadOnlyContract):
    def make_filled(self, place):
        members = [member(k, v) for k, v in self.CONTENTS.items()]
        return TarStore(make_tar(place / "medium.tar.gz", members, gzip.compress))


class TestXz(ReadOnlyContract):
    def make_filled(self, place):
        members = [member(k, v) for k, v in self.CONTENTS.items()]
        return TarStore(make_tar(place / "medium.tar.xz", members, lzma.compress))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression_is_recognised_and_read_anywhere(tmp_path, suffix):
    content = random.Random(5).randbytes(3_000_000) + bytes(9_000_000) + b"end"
    path = make_tar(tmp_path / f"a.tar{suffix}", [member("big", content), member("d/f", b"text")], COMPRESSORS[suffix])
    with joinfs.open_store(path) as store:
        assert type(store) is TarStore
        assert store.read("big", 11_999_990, 100) == bytes(10) + b"end"
        for offset in (5_000_000, 100, 2_999_990, 0, 2_999_999, 11_000_000):
            assert store.read("big", offset, 5000) == content[offset : offset + 5000]
        assert store.to_bytes("d/f") == b"text"
        assert store.to_bytes("big") == content


def test_attributes_come_through(tmp_path):
    path = make_tar(tmp_path / "a.tar", [
        member("d", type=tarfile.DIRTYPE, mode=0o2750, uid=3, gid=4),
        member("d/f", b"abc", mode=0o4711, uid=1000, gid=70_000, pax_headers={
            "mtime": "1500000000.123456789", "SCHILY.xattr.user.colour": "red", "SCHILY.xattr.security.x": "\udcff\0v",
        }),
        member("link", type=tarfile.SYMTYPE, linkname="../outside"),
        member("hard", type=tarfile.LNKTYPE, linkname="d/f"),
        member("dangling", type=tarfile.LNKTYPE, linkname="nothing"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300),
        member("pipe", type=tarfile.FIFOTYPE),
    ])  # fmt: skip
    with TarStore(path) as store:
        directory, file = store.stat("d/"), store.stat("d/f")
        assert (directory.mode, directory.uid, directory.gid) == (stat_module.S_IFDIR | 0o2750, 3, 4)
        assert (file.mode, file.uid, file.gid, file.size, file.nlink) == (stat_module.S_IFREG | 0o4711, 1000, 70_000, 3, 2)
        assert (file.mtime, directory.mtime) == (TIME * 10**9 + 123_456_789, TIME * 10**9)
        assert store.get_metadata("d/f") == {"colour": "red"}
        assert store.get_xattrs("d/f") == {"security.x": b"\xff\0v"}
        assert sorted(store.query_keys(colour="red")) == ["d/f", "hard"]
        assert store.stat("hard") == file
        assert store.to_bytes("hard") == b"abc"
        assert not store.exists("dangling")
        assert (store.to_bytes("link"), store.stat("link").is_symlink) == (b"../outside", True)
        assert (store.stat("null").rdev, store.stat("disk").rdev) == (os.makedev(1, 3), os.makedev(8, 300))
        assert stat_module.S_ISBLK(store.stat("disk").mode)
        assert stat_module.S_ISFIFO(store.stat("pipe").mode)
        assert store.read("d/f", 1, 5) == b"bc"


def test_what_is_later_counts_and_directories_keep_what_is_in_them(tmp_path):
    path = make_tar(tmp_path / "a.tar", [
        member("./a", b"first"), member("d/f", b"f"), member("./", type=tarfile.DIRTYPE, mode=0o700),
        member("d", type=tarfile.DIRTYPE, mode=0o711), member("h", type=tarfile.LNKTYPE, linkname="a"), member("a", b"second"),
    ])  # fmt: skip
    with TarStore(path) as store:
        assert contents(store) == {"a": b"second", "d/f": b"f", "h": b"first"}
        assert stat_module.S_IMODE(store.stat("").mode) == 0o700
        assert stat_module.S_IMODE(store.stat("d/").mode) == 0o711
        assert store.stat("h").nlink == 1


def test_odd_names_are_spelled_and_lead_nowhere(tmp_path):
    names = ["/etc/passwd", "../up", "a/../b", "x//y", "f", "f/in", "n" * 300, "deep/" + "m" * 300 + "/z", "%%p", "\udcff"]
    path = make_tar(tmp_path / "a.tar", [member(name, name.encode("utf-8", "surrogateescape")) for name in names])
    with TarStore(path) as store:
        found = contents(store)
        assert sorted(found.values()) == sorted(name.encode("utf-8", "surrogateescape") for name in names)
        assert found["%%/etc/passwd"] == b"/etc/passwd"
        assert found["%%%2E%2E/up"] == b"../up"
        assert found["f/in"] == b"f/in"
        assert found["%%f%="] == b"f"
        assert {"..", ".", ""}.isdisjoint(part for key in found for part in key.split("/"))


def test_sparse_files_of_gnu_tar(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.write(b"start")
        file.seek(5_000_000)
        file.write(b"middle")
        file.truncate(9_000_000)
    expected = (tmp_path / "sparse").read_bytes()
    for number, kind in enumerate(("gnu", "posix")):
        subprocess.run(["tar", "-cS", f"--format={kind}", "-f", f"{number}.tar", "sparse"], cwd=tmp_path, check=True)
        assert (tmp_path / f"{number}.tar").stat().st_size < 100_000
        with TarStore(tmp_path / f"{number}.tar") as store:
            assert store.to_bytes("sparse") == expected
            assert store.read("sparse", 4_999_998, 10) == b"\0\0middle\0\0"


def test_the_index_is_kept_and_made_anew_for_another_archive(tmp_path, cache, monkeypatch):
    path = make_tar(tmp_path / "a.tar.gz", [member("a", b"1")], gzip.compress)
    with TarStore(path):
        assert len(list(cache.glob("*.index"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(tarfile, "open", None)
        with TarStore(path) as store:
            assert contents(store) == {"a": b"1"}
    make_tar(path, [member("b", b"22")], gzip.compress)
    with TarStore(path) as store:
        assert contents(store) == {"b": b"22"}
    for index in cache.glob("*.index"):
        index.write_bytes(b"damaged" * 1000)
    with TarStore(path) as store:
        assert contents(store) == {"b": b"22"}


def test_old_indexes_are_removed(tmp_path, cache):
    with TarStore(make_tar(tmp_path / "a.tar", [member("a", b"1")])):
        (old,) = cache.glob("*.index")
    os.utime(old, (1, 1))
    with TarStore(make_tar(tmp_path / "b.tar", [member("a", b"1")])):
        assert old not in cache.glob("*.index")


def test_without_a_cache_it_works_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_index, "cache_directory", lambda: None)
    with TarStore(make_tar(tmp_path / "a.tar", [member("a", b"1"), member("d/b", b"2" * 100_000)])) as store:
        assert contents(store) == {"a": b"1", "d/b": b"2" * 100_000}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_what_is_cut_off_is_refused(tmp_path, suffix):
    path = make_tar(tmp_path / "a.tar", [member("a", random.Random(1).randbytes(900_000)), member("b", b"b" * 9000)], COMPRESSORS[suffix])
    path.write_bytes(path.read_bytes()[:500_000])
    with pytest.raises(CorruptStore, match=r"a\.tar"):
        TarStore(path).connect()


def test_what_is_no_archive_is_refused(tmp_path):
    for content in (b"nothing of the kind" * 100, gzip.compress(b"no tar" * 1000), b"BZh9" + b"x" * 1000):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CorruptStore, match="x is"):
            TarStore(tmp_path / "x").connect()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        TarStore(tmp_path / "none").connect()


def test_damage_behind_a_kept_index_is_told_when_it_is_read(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", [member("a", random.Random(1).randbytes(900_000)), member("b", b"b" * 9000)], gzip.compress)
    with TarStore(path) as store:
        raw = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(300_000)
            file.write(bytes(1000))
        with pytest.raises(CorruptStore):
            store.to_bytes("a")
        path.write_bytes(raw)


def test_a_header_that_says_it_is_enormous_is_refused_in_bounded_memory(tmp_path, in_bounded_memory):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(100 << 20))
    out = in_bounded_memory(
        "try: joinfs.TarStore(sys.argv[1]).connect()\nexcept joinfs.StoreError as error: print(error)\n", 64, tmp_path / "a.tar.gz"
    )
    assert "a header of" in out


def test_a_bomb_is_read_in_bounded_memory(tmp_path, in_bounded_memory):
    """A gibibyte of zeros in a mebibyte; and the last bytes of it."""
    size = 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(member("zeros", None, size=size)[0].tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    out = in_bounded_memory(
        "store = joinfs.TarStore(sys.argv[1])\nstore.connect()\n"
        "print(store.stat('zeros').size, len(store.read('zeros', (1 << 30) - 5, 10)), store.read('zeros', 5, 3))\n",
        64, tmp_path / "a.tar.gz",
    )  # fmt: skip
    assert out == f"{size} 5 {bytes(3)!r}\n"


def with_dictionary(packed, size):
    """An .xz file whose block says that its dictionary is of this size, as a number of LZMA2's."""
    header = bytearray(packed[12 : 12 + (packed[12] + 1) * 4])
    assert header[2:4] == b"\x21\x01"
    header[4] = size
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    return packed[:12] + bytes(header) + packed[12 + len(header) :]


def test_an_xz_that_asks_for_four_gibibytes_is_refused(tmp_path):
    content = member("a", None, size=4)[0].tobuf(tarfile.GNU_FORMAT) + b"data".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "a.tar.xz").write_bytes(with_dictionary(lzma.compress(content), 22))
    with TarStore(tmp_path / "a.tar.xz") as store:
        assert store.to_bytes("a") == b"data"
    (tmp_path / "b.tar.xz").write_bytes(with_dictionary(lzma.compress(content), 40))
    with pytest.raises(CorruptStore, match="emory"):
        TarStore(tmp_path / "b.tar.xz").connect()


def test_several_streams_of_xz_are_one(tmp_path):
    whole = member("a", None, size=3000)[0].tobuf(tarfile.GNU_FORMAT) + b"a" * 3000 + bytes(72 + 1024)
    streams = [lzma.compress(whole[:100]), bytes(8), lzma.compress(whole[100:2000]), lzma.compress(whole[2000:]), bytes(4)]
    (tmp_path / "a.tar.xz").write_bytes(b"".join(streams))
    with TarStore(tmp_path / "a.tar.xz") as store:
        assert store.to_bytes("a") == b"a" * 3000
        assert store.read("a", 2500, 10) == b"a" * 10


def test_an_xz_that_ends_too_early_is_told(tmp_path):
    whole = member("a", None, size=300_000)[0].tobuf(tarfile.GNU_FORMAT) + os.urandom(300_000) + bytes(10_000)
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(whole)[:200_000])
    with pytest.raises(CorruptStore), TarStore(tmp_path / "a.tar.xz") as store:
        store.read("a", 299_000, 10)


def test_many_members_are_indexed_in_bounded_memory(tmp_path, in_bounded_memory):
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        for number in range(60_000):
            file.write(member(f"d{number % 50}/{number}", b"")[0].tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1024))
    out = in_bounded_memory(
        "store = joinfs.TarStore(sys.argv[1])\nstore.connect()\nprint(sum(1 for _ in store.list('d7/')))\n", 48, tmp_path / "a.tar.gz"
    )
    assert out == "1200\n"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_archive_may_end_with_its_last_data(tmp_path, suffix):
    """As umoci insert writes them: the last block is not filled up, and none follows."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    path = tmp_path / f"x.tar{suffix}"
    pack = gzip.compress if suffix else bytes
    path.write_bytes(pack(whole.getvalue()[: 3 * 512 + 3]))
    with TarStore(path) as store:
        assert {key: store.to_bytes(key) for key in store.keys()} == {"a": b"abc", "b": b"abc"}
    for less in (3 * 512 + 2, 3 * 512, 2 * 512 + 100):
        path.write_bytes(pack(whole.getvalue()[:less]))
        with pytest.raises(CorruptStore):
            TarStore(path).connect()


@pytest.mark.parametrize("place", [0, 100, 150, 257])
def test_a_damaged_header_is_not_the_end(tmp_path, place):
    """What comes after it would not be there, and nobody would be told."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name in ("a", "b", "c"):
            archive.addfile(tarfile.TarInfo(name))
    path = tmp_path / "x.tar"
    data = bytearray(whole.getvalue())
    data[512 + place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(CorruptStore, match="byte 512 is no header"):
        TarStore(path).connect()


# -------------------------------------------------------------------- as GNU tar takes them


def gnu_tar(place, *arguments):
    done = subprocess.run(["tar", *arguments], cwd=place, check=True, capture_output=True, text=True)
    assert done.stderr == ""


def unpacked(path, place):
    """What GNU tar makes of an archive: by name, files' data, and None for directories."""
    place.mkdir()
    gnu_tar(place, "-xf", str(path))
    return {
        str(found.relative_to(place)) + ("/" if found.is_dir() else ""): None if found.is_dir() else found.read_bytes()
        for found in place.rglob("*")
    }


def shown(store, directory=""):
    found = {}
    for name, stat in store.list(directory):
        key = directory + name
        if stat.is_directory:
            found |= {key + "/": None} | shown(store, key + "/")
        else:
            found[key] = store.to_bytes(key)
    return found


def test_incremental_archives_of_gnu_tar(tmp_path):
    """Their old headers have times where POSIX has the beginning of a long name; directories are of a type of their own."""
    (tmp_path / "from" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "f").write_text("data")
    (tmp_path / "from" / "sub" / ("long" * 40)).write_text("more")
    path = tmp_path / "x.tar"
    gnu_tar(tmp_path, "-c", "-g", "state", "-f", str(path), "-V", "a label", "from")
    assert b"ustar  \0" in path.read_bytes()
    with TarStore(path) as store:
        assert shown(store) == unpacked(path, tmp_path / "out")
        assert list(store.check()) == []
        assert len(shown(store)) == 4


def altered(data, offset, new):
    """An archive with other bytes in the header at its beginning, or at a block, whose sum is right nevertheless."""
    data, block = bytearray(data), offset // 512 * 512
    data[offset : offset + len(new)] = new
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    return bytes(data)


@pytest.mark.parametrize("magic", [b"ustar  \0", bytes(8)])
def test_only_posix_headers_have_a_prefix(tmp_path, magic):
    path = make_tar(tmp_path / "x.tar", [member("f", b"data")], format=tarfile.GNU_FORMAT)
    path.write_bytes(altered(altered(path.read_bytes(), 257, magic), 345, b"14715311670\0"))
    with TarStore(path) as store:
        assert shown(store) == unpacked(path, tmp_path / "out") == {"f": b"data"}


def test_what_means_nothing_in_a_header_may_be_anything(tmp_path):
    path = make_tar(tmp_path / "x.tar", [member("f", b"data")])
    path.write_bytes(altered(path.read_bytes(), 329, b"\xffgarbage"))
    with TarStore(path) as store:
        assert shown(store) == unpacked(path, tmp_path / "out") == {"f": b"data"}


def test_hard_links_find_what_they_are_names_of(tmp_path):
    path = make_tar(
        tmp_path / "x.tar",
        [
            member("d/late", type=tarfile.LNKTYPE, linkname="a"),
            member("of late", type=tarfile.LNKTYPE, linkname="later"),
            member("later", type=tarfile.LNKTYPE, linkname="a"),
            member("replaced", type=tarfile.LNKTYPE, linkname="a"),
            member("a", b"data"),
            member("rooted", type=tarfile.LNKTYPE, linkname="/a"),
            member("replaced", b"itself"),
        ],
    )
    with TarStore(path) as store:
        assert contents(store) == dict.fromkeys(("a", "d/late", "of late", "later", "rooted"), b"data") | {"replaced": b"itself"}
        assert store.stat("a").nlink == 5
        assert list(store.check()) == []


def test_a_hard_link_to_nothing_is_left_out_and_told(tmp_path, caplog):
    path = make_tar(tmp_path / "x.tar", [member("f", b""), *(member(name, type=tarfile.LNKTYPE, linkname="gone") for name in ("l", "\udcff"))])
    for _ in range(2):  # the index is kept
        caplog.clear()
        with TarStore(path) as store:
            assert contents(store) == {"f": b""}
            assert list(store.check()) == [f"{name!r} is left out: it is a hard link to 'gone', which is not there" for name in ("l", "\udcff")]
        assert "'l' is left out: it is a hard link to 'gone', which is not there; and so are others" in caplog.text


def test_the_second_volume_is_no_archive(tmp_path):
    (tmp_path / "f").write_bytes(os.urandom(30_000))
    gnu_tar(tmp_path, "-c", "-M", "-L", "20", "-f", "1.tar", "-f", "2.tar", "f")
    with pytest.raises(CorruptStore, match="begins in another volume"):
        TarStore(tmp_path / "2.tar").connect()
    with pytest.raises(CorruptStore):
        TarStore(tmp_path / "1.tar").connect()


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 11 + b"\xfe", b"\x80" + b"\x7f" * 11])
@pytest.mark.parametrize("block", [0, 1])
def test_no_size_is_out_of_range(tmp_path, size, block):
    path = make_tar(tmp_path / "x.tar", [member(name) for name in ("a", "b", "c")])
    path.write_bytes(altered(path.read_bytes(), 512 * block + 124, size))
    with pytest.raises(CorruptStore):
        TarStore(path).connect()


SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "8", "GNU.sparse.name": "f"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"GNU.sparse.map": "0,2,6"},
        {"GNU.sparse.map": "0,2,6,600"},
        {"GNU.sparse.map": "6,2,0,2"},
        {"GNU.sparse.map": "-4,2,6,2"},
        {"GNU.sparse.map": "0,2,1,2"},
        {"GNU.sparse.map": "x"},
        {"GNU.sparse.size": "7"},
        {"GNU.sparse.size": "-1"},
        {"GNU.sparse.map": "0,2,6,2", "uid": "nobody"},
        {"size": "4 bytes"},
        {"mtime": "nan"},
    ],
)
def test_a_pax_header_that_means_nothing_is_damage(tmp_path, wrong):
    right = {**SPARSE, "GNU.sparse.map": "0,2,6,2"}
    with TarStore(make_tar(tmp_path / "x.tar", [member("f", b"abcd" + bytes(1020), pax_headers=right, size=4)])) as store:
        assert contents(store) == {"f": b"ab\0\0\0\0cd"}
    with pytest.raises(CorruptStore):
        TarStore(make_tar(tmp_path / "y.tar", [member("f", b"abcd", pax_headers={**right, **wrong})])).connect()


def test_a_damaged_map_of_old_gnu_tar_is_told(tmp_path):
    with (tmp_path / "f").open("wb") as file:
        for place in range(30):
            file.seek(place << 20)
            file.write(b"data")
    gnu_tar(tmp_path, "-c", "-S", "--format=gnu", "-f", "x.tar", "f")
    data = (tmp_path / "x.tar").read_bytes()
    with TarStore(tmp_path / "x.tar") as store:
        assert store.to_bytes("f") == (tmp_path / "f").read_bytes()
    for offset, new in [(386 + 12, b"00000020000"), (386 + 12, b"00000000000"), (386 + 24, b"70000000000"), (483, b"00000020000")]:
        (tmp_path / "x.tar").write_bytes(altered(data, offset, new))
        with pytest.raises(CorruptStore):
            TarStore(tmp_path / "x.tar").connect()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1e300", 9_223_372_036), ("99999999999999", 9_223_372_036), ("1e999990", 9_223_372_036), ("-1e999990", -9_223_372_037)],
)
def test_times_out_of_range_are_the_first_or_the_last(tmp_path, text, seconds):
    """What takes long here takes a minute."""
    with TarStore(make_tar(tmp_path / "x.tar", [member("f", pax_headers={"mtime": text, "atime": text})])) as store:
        assert store.stat("f").mtime // 10**9 == store.stat("f").atime // 10**9 == seconds
