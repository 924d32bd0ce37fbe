"""Opening stores by URL and by path. SEMANTICS.md, Bad input."""

import os
import sqlite3
import zipfile
from urllib.parse import quote

import pytest

import joinfs
from joinfs.errors import UsageError
from joinfs.stores import REGISTRY


@pytest.fixture
def place(tmp_path):
    (tmp_path / "dir").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("f", "x")
    with joinfs.SQLiteStore(tmp_path / "x.db"):
        pass
    (tmp_path / "file").write_text("nothing known")
    return tmp_path


def opened(spec, **options):
    store = joinfs.open_store(spec, **options)
    store.disconnect()
    return store


def test_each_kind_opens_in_one_line(place):
    for spec, cls in (
        (f"dir:{place}/dir", joinfs.DirectoryStore), (f"{place}/dir", joinfs.DirectoryStore),
        (f"zip:{place}/a.zip", joinfs.ZipStore), (place / "a.zip", joinfs.ZipStore),
        (f"sqlite:{place}/new", joinfs.SQLiteStore), (f"{place}/x.db", joinfs.SQLiteStore),
        ("memory:", joinfs.MemoryStore),
    ):  # fmt: skip
        assert type(opened(spec)) is cls
    assert (place / "new").exists()


def test_a_store_is_connected_unless_it_is_not_to_be(place):
    with joinfs.open_store(f"dir:{place}/dir") as store:
        assert store.is_connected()
    assert not joinfs.open_store(f"sqlite:{place}/later", connect=False).is_connected()
    assert not (place / "later").exists()


def test_read_only_by_url_and_by_argument(place):
    for spec, options in ((f"dir:{place}/dir?ro", {}), (f"{place}/dir", {"read_only": True}), (f"sqlite:{place}/x.db?ro", {})):
        with joinfs.open_store(spec, **options) as store:
            assert not store.capabilities.writable


def test_a_path_may_have_any_letters(place):
    for name in ("a:b", "q?ro", "100%"):
        (place / name).mkdir()
        assert opened(f"{place}/{name}").path == str(place / name)
    assert opened(f"dir:{place}/q%3Fro?ro").path == str(place / "q?ro")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{p}/none", "no store at"), ("{p}/none.db", "'sqlite:{p}/none.db' makes a new one"), ("{p}/file", "neither"),
        ("file://{p}/none", "no store at {p}/none"), ("file://elsewhere/x", "is on the machine 'elsewhere'"),
        ("sqlte:x", "did you mean 'sqlite:'"), ("nothing:x", "there are archive:, az:, dir:, file:"), ("memory:x", "stands alone"), ("dir:{p}/dir?x", "'?ro'"),
        ("dir:{p}/dir?cache=", "'?cache=' needs a value"), ("dir:{p}/dir?ro&prefix=", "'?prefix=' needs a value"),
    ],
)  # fmt: skip
def test_what_is_no_store_is_told(place, spec, words):
    with pytest.raises(UsageError) as told:
        joinfs.open_store(spec.format(p=place))
    assert words.format(p=place) in str(told.value)


@pytest.mark.parametrize("url", ["file://{p}", "file://localhost{p}", "file:{p}", "file://{p}?prefix=a"])
def test_a_url_of_a_file_is_percent_encoded(tmp_path, url):
    place = tmp_path / "100% of? it"
    (place / "a").mkdir(parents=True)
    with joinfs.open_store(url.format(p=quote(str(place)))) as store:
        assert store.exists("a/") != ("prefix" in url)
    with zipfile.ZipFile(place / "z.zip", "w") as archive:
        archive.writestr("in it", b"1")
    with joinfs.open_store(f"file://{quote(str(place))}/z.zip") as store:
        assert [*store.keys()] == ["in it"]


def test_others_can_register_theirs(place, monkeypatch):
    monkeypatch.setitem(REGISTRY, "mine", lambda path, read_only: joinfs.MemoryStore())
    assert type(opened("mine:anything")) is joinfs.MemoryStore


def test_a_database_of_others_is_recognised_and_refused(place):
    database = sqlite3.connect(place / "theirs.db")
    database.execute("create table theirs (x)")
    database.commit()
    database.close()
    with pytest.raises(joinfs.StoreError, match=r"theirs\.db"):
        joinfs.open_store(place / "theirs.db")


def test_what_is_no_file_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a directory nor a regular file"):
        joinfs.open_store(tmp_path / "pipe")
