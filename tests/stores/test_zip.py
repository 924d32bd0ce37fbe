"""What is a zip archive's own. SEMANTICS.md, Archives; Odd keys."""

import os
import shutil
import stat
import subprocess
import zipfile

import pytest

from joinfs.errors import CorruptStore, StoreUnavailable
from joinfs.stores.zip import ZipStore


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
