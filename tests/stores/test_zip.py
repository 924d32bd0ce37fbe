"""What is a zip archive's own. SEMANTICS.md, Archives; Odd keys."""

import os
import random
import shutil
import stat
import subprocess
import zipfile

import pytest

from joinfs.errors import CorruptStore, StoreUnavailable, Unsupported
from joinfs.stores.zip import ZipStore


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "joinfs"


def archive_of(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def contents(store, prefix=""):
    found = {}
    for name, about in store.list(prefix):
        if about.is_directory:
            found |= contents(store, f"{prefix}{name}/")
        else:
            found[prefix + name] = store.to_bytes(prefix + name)
    return found


def test_odd_names_are_shown_and_lead_nowhere(tmp_path):
    odd = ["../up", "/abs", "a//b", "./dot", "a/../b", "..", "%%marked", "x" * 300, "plain"]
    with ZipStore(archive_of(tmp_path / "a.zip", [(name, name.encode()) for name in odd])) as store:
        found = contents(store)
        assert sorted(found.values()) == sorted(name.encode() for name in odd)
        assert found["plain"] == b"plain"
        assert all(part not in {"", ".", ".."} for key in found for part in key.split("/"))


def test_a_member_beside_a_directory_of_its_name_is_shown_as_well(tmp_path):
    members = [("a", b"value"), ("a/b", b"inside")]
    with ZipStore(archive_of(tmp_path / "a.zip", members)) as store:
        assert contents(store) == {"%%a%=": b"value", "a/b": b"inside"}


def test_the_last_of_members_with_one_name_counts(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive_of(tmp_path / "a.zip", [("a", b"first"), ("a", b"last")])
    with ZipStore(tmp_path / "a.zip") as store:
        assert contents(store) == {"a": b"last"}


def test_what_info_zip_packs_comes_through(tmp_path, need):
    if shutil.which("zip") is None:
        members = tmp_path / "m"
        members.mkdir()
        info = zipfile.ZipInfo("run", (2020, 1, 2, 3, 4, 6))
        info.external_attr, info.create_system = (stat.S_IFREG | 0o750) << 16, 3
        link = zipfile.ZipInfo("link", (2020, 1, 2, 3, 4, 6))
        link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(info, b"data")
            archive.writestr(link, b"run")
    else:
        (tmp_path / "run").write_bytes(b"data")
        (tmp_path / "run").chmod(0o750)
        (tmp_path / "link").symlink_to("run")
        subprocess.run(["zip", "-qy", "a.zip", "run", "link"], cwd=tmp_path, check=True, timeout=20)
    with ZipStore(tmp_path / "a.zip") as store:
        assert store.stat("run").mode == stat.S_IFREG | 0o750
        assert store.stat("link").is_symlink
        assert store.to_bytes("link") == b"run"


def test_reading_on_in_a_large_member_is_not_beginning_again(tmp_path):
    data = os.urandom(1000) * 3000
    with ZipStore(archive_of(tmp_path / "a.zip", [("big", data)])) as store:
        pieces = [store.read("big", offset, 100_000) for offset in range(0, len(data) + 100_000, 100_000)]
        assert b"".join(pieces) == data
        assert store.read("big", 5, 10) == data[5:15]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_told_when_it_is_read(tmp_path, compression):
    path = archive_of(tmp_path / "a.zip", [("a", b"contents" * 1000), ("b", b"fine")], compression)
    raw = bytearray(path.read_bytes())
    raw[60] ^= 0xFF
    path.write_bytes(raw)
    with ZipStore(path) as store:
        with pytest.raises(CorruptStore, match="damaged"):
            store.to_bytes("a")
        assert store.to_bytes("b") == b"fine"


def test_a_member_that_is_shorter_than_it_says_is_told(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("a", b"contents" * 1000)])
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    path.write_bytes(raw[: at + 24] + (50_000).to_bytes(4, "little") + raw[at + 28 :])
    with ZipStore(path) as store, pytest.raises(CorruptStore):
        store.to_bytes("a")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 100, b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(CorruptStore, match=r"a\.zip"):
        ZipStore(tmp_path / "a.zip").connect()


def test_an_archive_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreUnavailable):
        ZipStore(tmp_path / "a.zip").connect()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_is_read_anywhere(tmp_path, compression):
    data = random.Random(1).randbytes(5000) * 3000
    with ZipStore(archive_of(tmp_path / "a.zip", [("a", data), ("b", b"small"), ("c", b"")], compression)) as store:
        for offset in random.Random(2).sample(range(len(data)), 25):
            assert store.read("a", offset, 10_000) == data[offset : offset + 10_000]
        assert store.to_bytes("a") == data
        assert (store.to_bytes("b"), store.to_bytes("c")) == (b"small", b"")


def test_an_archive_behind_something_else_and_one_that_is_large(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"contents")
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\nexit 0\n" + path.read_bytes())
    for name in ("a.zip", "b.zip"):
        with ZipStore(tmp_path / name) as store:
            assert store.to_bytes("a") == b"contents"


def test_more_members_than_16_bits_can_count_in_bounded_memory(tmp_path, in_bounded_memory):
    archive_of(tmp_path / "a.zip", ((f"d{number % 50}/{number}", b"") for number in range(70_000)), zipfile.ZIP_STORED)
    out = in_bounded_memory(
        "store = joinfs.ZipStore(sys.argv[1])\nstore.connect()\nprint(sum(1 for _ in store.list('d7/')))\n", 48, tmp_path / "a.zip"
    )
    assert out == "1400\n"


def test_a_bomb_is_read_in_bounded_memory(tmp_path, in_bounded_memory):
    size = 1 << 30
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("zeros", "w") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    out = in_bounded_memory(
        "store = joinfs.ZipStore(sys.argv[1])\nstore.connect()\n"
        "print(store.stat('zeros').size, len(store.read('zeros', (1 << 30) - 5, 10)), store.read('zeros', 5, 3))\n",
        64, tmp_path / "a.zip",
    )  # fmt: skip
    assert out == f"{size} 5 {bytes(3)!r}\n"


def changed(path, offset, new):
    """The archive with something else in its last directory record."""
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02") + offset
    path.write_bytes(raw[:at] + new + raw[at + len(new) :])
    return path


def test_what_is_encrypted_or_packed_in_an_unknown_way_is_told(tmp_path):
    path = changed(archive_of(tmp_path / "a.zip", [("a", b"contents" * 100)]), 8, b"\x01\x00")
    with ZipStore(path) as store, pytest.raises(Unsupported, match="encrypted"):
        store.to_bytes("a")
    path = changed(archive_of(tmp_path / "b.zip", [("a", b"contents" * 100)]), 10, b"\x63\x00")
    with ZipStore(path) as store, pytest.raises(Unsupported, match="compression"):
        store.to_bytes("a")


@pytest.mark.parametrize("header", [b"\x05\x00\x00\x00", b"\xf0\xff\xff\xff"])
def test_a_member_that_is_not_where_it_should_be_is_told(tmp_path, header):
    path = changed(archive_of(tmp_path / "a.zip", [("a", b"contents" * 100)]), 42, header)
    with ZipStore(path) as store, pytest.raises(CorruptStore, match="no member"):
        store.to_bytes("a")


def test_a_symlink_that_says_it_is_enormous_leads_nowhere_far(tmp_path):
    link = zipfile.ZipInfo("link", (2020, 1, 2, 3, 4, 6))
    link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, b"target")
    with ZipStore(changed(tmp_path / "a.zip", 24, b"\xf0\xff\xff\x7f")) as store:
        assert store.stat("link").size == len(store.to_bytes("link")) <= 4095


def test_the_index_is_kept_for_the_next_time(tmp_path, cache):
    path = archive_of(tmp_path / "a.zip", [("a", b"contents")])
    for _ in range(2):
        with ZipStore(path) as store:
            assert store.to_bytes("a") == b"contents"
        assert len(list(cache.glob("*.index"))) == 1
