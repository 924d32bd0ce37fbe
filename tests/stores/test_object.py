"""Buckets of objects, on moto in this process and on a real SeaweedFS. SEMANTICS.md, Buckets of objects; Scale."""

import contextlib
import io
import itertools
import json
import os
import socket
import stat as stat_module
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import joinfs
from joinfs.errors import AccessDenied, InvalidKey, KeyExists, NameTooLong, OutOfSpace, StoreUnavailable, Unsupported, UsageError
from joinfs.filesystem.operations import Operations
from joinfs.stores import Stat, object_known, object_levels, object_quick, object_reading, object_s3, object_walks
from joinfs.stores.keys import check_key
from joinfs.stores.object import ObjectStore
from joinfs.stores.object_attributes import attributes_of
from joinfs.stores.object_bucket import PART, Bucket, Changed, Found, Listed
from joinfs.stores.object_names import name_of, spelling_of
from joinfs.stores.object_streams import BLOCK
from joinfs.testing import ReadOnlyContract, StoreContract
from tests.stores import object_servers


class TestSeaweedFS(StoreContract):
    scheme = "s3"

    @pytest.fixture(autouse=True)
    def served(self, seaweedfs):
        self.server = seaweedfs

    def make_store(self, place):
        self.bucket, self.prefix = self.server.new_place()
        return ObjectStore(f"//{self.bucket}/{self.prefix}", endpoint=self.server.endpoint)

    def raw(self, place, key):
        return self.server.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()

    def seed(self, place, key, content):
        self.server.put(self.bucket, self.prefix + key, content)
        return True


class TestReadOnly(ReadOnlyContract):
    """A bucket that others filled, without markers or attributes."""

    @pytest.fixture(autouse=True)
    def served(self, moto):
        self.server = moto

    def make_filled(self, place):
        bucket = self.server.new_bucket()
        for key, content in self.CONTENTS.items():
            self.server.put(bucket, key, content)
        return ObjectStore(f"//{bucket}", endpoint=self.server.endpoint, read_only=True)


class Place:
    """Where there is nothing yet, looked at without the store."""

    def __init__(self, server):
        self.server = server
        self.bucket, self.prefix = server.new_place()

    def store(self, **given):
        return ObjectStore(f"//{self.bucket}/{self.prefix}", endpoint=self.server.endpoint, **given)

    def put(self, name, data=b"", **given):
        self.server.put(self.bucket, self.prefix + name, data, **given)

    def headers(self, name):
        return self.server.metadata(self.bucket, self.prefix + name)

    def names(self):
        names = self.server.names(self.bucket)
        return sorted(name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix))

    def uploads(self):
        return self.server.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])


@pytest.fixture
def place(seaweedfs):
    """On SeaweedFS."""
    return Place(seaweedfs)


@pytest.fixture
def odd_place(moto):
    """On a server that takes any name."""
    return Place(moto)


def data(content):
    return io.BytesIO(content)


# ---------------------------------------------------------------- what it costs


@contextlib.contextmanager
def asked(store):
    """What a store asks for meanwhile."""
    requests = []
    events, quick = store._bucket._client.meta.events, store._bucket._quick

    def note(model, **_):
        requests.append(model.name)

    events.register("before-call.s3", note)
    quick._obstore = Counted(quick._obstore, requests)
    yield requests
    events.unregister("before-call.s3", note)
    quick._obstore = quick._obstore.obstore


class Counted:
    """obstore, with what is asked by it."""

    def __init__(self, obstore, requests):
        self.obstore, self.requests = obstore, requests

    def get(self, store, name, options):
        self.requests.append("HeadObject" if options.get("head") else "GetObject")
        return self.obstore.get(store, name, options=options)

    def put(self, *given, **named):
        self.requests.append("PutObject")
        return self.obstore.put(*given, **named)

    def delete(self, store, name):
        self.requests.append("DeleteObject")
        self.obstore.delete(store, name)


def missing(store, key):
    with pytest.raises(KeyError):
        store.lookup(key)


COSTS = {
    "stat of a file": (lambda store: store.stat("d/a"), "HeadObject"),
    "stat of a directory": (lambda store: store.stat("d/"), "HeadObject"),
    "lookup of a file": (lambda store: store.lookup("d/a"), "HeadObject HeadObject ListObjectsV2"),
    "lookup of a directory": (lambda store: store.lookup("d"), "HeadObject HeadObject HeadObject ListObjectsV2"),
    "lookup of nothing": (lambda store: missing(store, "d/z"), "HeadObject HeadObject ListObjectsV2"),
    "read": (lambda store: store.read("d/a", 2, 3), "GetObject"),
    "get": (lambda store: store.get("d/a").data.read(), "GetObject HeadObject"),
    "list of two": (lambda store: list(store.list("d/")), "HeadObject HeadObject ListObjectsV2"),
    "put over": (lambda store: store.put("d/a", Stat(0o100644), data(b"new")), "HeadObject PutObject"),
    "put of what is new": (lambda store: store.put("d/c", Stat(0o100644), data(b"new")), "HeadObject HeadObject HeadObject ListObjectsV2 PutObject"),
    "chmod": (lambda store: store.set_stat("d/a", mode=0o600), "CopyObject HeadObject"),
    "rename over": (lambda store: store.rename("d/a", "d/b"), "CopyObject DeleteObject HeadObject HeadObject HeadObject"),
    "delete": (lambda store: store.delete("d/b"), "DeleteObject HeadObject HeadObject"),
}


@pytest.mark.parametrize("operation", COSTS)
def test_what_an_operation_asks_for(place, operation):
    with place.store() as store:
        for key in ("d/a", "d/b"):
            store.set(key, (data(b"0123456789"), {}))
        store._known.clear()
        with asked(store) as requests:
            COSTS[operation][0](store)
        assert " ".join(sorted(requests)) == COSTS[operation][1]


def test_who_looks_first_and_then_writes_asks_nothing_twice(place):
    with place.store() as store:
        store.freshness = 60.0
        store.set("d/a", (data(b"1"), {}))
        missing(store, "d/new")
        with asked(store) as requests:
            store.put("d/new", Stat(0o100644), data(b"new"))
        assert requests == ["PutObject"]


def test_what_was_written_or_listed_is_known(place):
    """A listing is followed by questions about each of its names, and those are of attributes and of what others could be there."""
    with place.store() as store:
        for key in ("d/a", "d/b"):
            store.put(key, Stat(0o100644))
        store._known.clear()
        with asked(store) as requests:
            names = [name for name, _ in store.list("d/")]
            assert [store.lookup(f"d/{name}").size for name in names] == [0, 0]
            assert [store.get_xattrs(f"d/{name}") for name in names] == [{}, {}]
        assert sorted(requests) == ["HeadObject", "HeadObject", "ListObjectsV2"]
        store.stat("d/")
        with asked(store) as requests:
            store.put("d/a", Stat(0o100644), data(b"new"))
            store.set_stat("d/a", mode=0o600)
            store.rename("d/a", "d/b")
            assert store.stat("d/b").mode == 0o100600
        assert requests == ["PutObject", "CopyObject", "CopyObject", "DeleteObject"]
        place.put("d/b", b"by others")
        place.put("d/b/c", b"")
        store._known.clear()
        assert dict(store.list("d/")).keys() == {"b", "%%b%="}


def test_who_makes_many_files_asks_but_once_what_is_there(place):
    place.put("others/a", b"1")
    place.put("others/b/c", b"1")
    with place.store() as store:
        store.make("d/", Stat(0o040755))
        with asked(store) as requests:
            for number in range(10):
                missing(store, f"d/{number}")
                store.make(f"d/{number}", Stat(0o100644))
        assert requests == ["PutObject"] * 10
        missing(store, "others/x")
        missing(store, "others/y")
        with asked(store) as requests:
            for number in range(10):
                missing(store, f"others/{number}")
                missing(store, f"others/b{number}")
            assert (store.lookup("others/a").size, store.lookup("others/b").is_directory) == (1, True)
        assert sorted(requests) == ["HeadObject", "HeadObject", "ListObjectsV2"]  # the value; the marker, and what is below it


def test_names_that_are_not_there_are_seen_when_they_are(place):
    place.put("d/a", b"1")
    with place.store() as store:
        for name in "xyz":
            missing(store, f"d/{name}")
        store.set("d/x", (data(b"ours"), {}))
        store.set("d/y/z/w", (data(b"ours"), {}))
        store.rename("d/y/", "d/z/")
        assert [store.lookup(f"d/{key}").size for key in ("x", "z/z/w")] == [4, 4]
        missing(store, "d/y")
        store.delete("d/x")
        missing(store, "d/x")
        place.put("d/x", b"by others")
        place.put("d/y/z", b"by others")
        store.freshness = 0.0
        assert (store.lookup("d/x").size, store.lookup("d/y").is_directory) == (9, True)


@pytest.mark.parametrize("new", [b"a much longer text", b"x"])
def test_what_is_read_tells_the_size_as_well(place, new):
    """It was replaced by others, and its attributes are believed still."""
    place.put("a", b"twelve bytes")
    with place.store() as store:
        store.freshness = 60.0
        assert store.stat("a").size == 12
        place.put("a", new)
        assert store.stat("a").size == 12
        operations = Operations(store)
        handle = operations.open(operations.walk(["a"]), os.O_RDONLY)
        assert operations.read(handle, 0, 100).startswith(new[:12])
        operations.release(handle)
        assert store.stat("a").size == len(new)


def test_a_directory_that_one_answer_does_not_tell_is_asked_for_each_name(place, monkeypatch):
    monkeypatch.setattr(object_levels, "MOST_NAMES", 2)
    for name in "abc":
        place.put(f"d/{name}", b"1")
    with place.store() as store:
        for name in "xyz":
            missing(store, f"d/{name}")
        with asked(store) as requests:
            assert store.lookup("d/c").size == 1
            missing(store, "d/v")
        assert sorted(requests) == ["HeadObject"] * 4 + ["ListObjectsV2"] * 2


def test_what_is_listed_again_is_asked_for_only_if_it_changed(place, monkeypatch):
    monkeypatch.setattr(object_known, "SETTLED", 0)
    for number in range(5):
        place.put(f"f{number}", b"1", Metadata={"mode": "0100600"})
    with place.store(read_only=True) as store:
        store.freshness = 0.0
        first = dict(store.list(""))
        place.put("f3", b"22")
        with asked(store) as requests:
            again = dict(store.list(""))
        assert sorted(requests) == ["HeadObject", "ListObjectsV2"]
        assert (again["f3"].size, again["f2"]) == (2, first["f2"])


class Enormous:
    """Stands for a bucket with 100,000 objects in one directory."""

    def __init__(self):
        self.pages_asked = self.heads = 0

    def pages(self, prefix, delimiter="", limit=1000):
        for page in range(100):
            self.pages_asked += 1
            yield [Listed(f"{prefix}{page:03}{number:03}", 5, '"e"', 10**18) for number in range(1000)]

    def head(self, name):
        self.heads += 1
        return Found(5, '"e"', 10**18, {}, {}, 2 * 10**18)


def test_a_directory_of_100000_entries_is_streamed(place):
    with place.store(read_only=True) as store:
        enormous, bucket = Enormous(), store._open_bucket
        store._open_bucket = store._open_known._bucket = enormous
        entries = store.list("")
        assert len(list(itertools.islice(entries, 10))) == 10
        assert (enormous.pages_asked, enormous.heads <= object_reading.AHEAD + object_reading.THREADS) == (1, True)
        assert sum(1 for _ in entries) == 99_990
        store._open_bucket = bucket


def test_a_directory_of_several_pages_is_listed(place, monkeypatch):
    for number in range(7):
        place.put(f"f{number}", b"1")
        place.put(f"f{number}/in", b"1")
    with place.store(read_only=True) as store:
        pages = store._bucket.pages
        monkeypatch.setattr(store._bucket, "pages", lambda prefix, delimiter="", limit=2: pages(prefix, delimiter, min(limit, 2)))
        assert sorted(name for name, _ in store.list("")) == sorted([*(f"f{n}" for n in range(7)), *(f"%%f{n}%=" for n in range(7))])


# ---------------------------------------------------------------- what others wrote


@pytest.mark.parametrize(
    ("headers", "mode", "uid", "mtime"),
    [
        ({"mode": "33261", "uid": "1000", "gid": "7", "mtime": "1500000000"}, 0o100755, 1000, 1_500_000_000 * 10**9),  # s3fs
        ({"mode": "100640", "uid": "5", "mtime": "1500000000.123456789"}, 0o100640, 5, 1_500_000_000_123_456_789),  # rclone
        ({"mode": "0100640", "mtime": "2017-07-14T02:40:00.5Z"}, 0o100640, None, 1_500_000_000_500_000_000),
        ({"mode": "0640", "mtime": "2017-07-14T04:40:00+02:00"}, 0o100640, None, 1_500_000_000 * 10**9),
        ({"mode": "41471"}, 0o120777, None, None),  # a link of s3fs
        ({"mode": "10600"}, 0o010600, None, None),  # a FIFO of rclone
        ({"mode": "nonsense", "uid": "-5", "mtime": "2017-99-14T02:40:00Z"}, 0o100644, None, None),
        ({"mode": "16877"}, 0o100644, None, None),  # which says that it is a directory, and is called as a file is
    ],
)
def test_attributes_that_others_wrote_are_read(place, headers, mode, uid, mtime):
    place.put("a", b"target", Metadata=headers)
    with place.store(read_only=True) as store:
        stat = store.stat("a")
        assert stat.mode == mode
        assert stat.uid == (os.geteuid() if uid is None else uid)
        assert mtime is None or stat.mtime == mtime
        assert dict(store.list(""))["a"] == stat
        assert store.get_metadata("a") == {}


def test_attributes_are_written_as_others_read_them(place):
    with place.store() as store:
        store.put("a", Stat(0o100640, 0, 1000, 7, 0, 5, 1_500_000_000_000_000_001), data(b"1"), {"colour": "red", "Big": 5, "mode": "x"})
        headers = place.headers("a")
        assert {name: headers[name] for name in ("mode", "uid", "gid", "mtime", "atime", "colour")} == {
            "mode": "0100640", "uid": "1000", "gid": "7", "mtime": "1500000000.000000001", "atime": "0.000000005", "colour": "red",
        }  # fmt: skip
        assert json.loads(headers["joinfs"]) == {"metadata": {"Big": 5, "mode": "x"}}
        assert store.get_metadata("a") == {"colour": "red", "Big": 5, "mode": "x"}


def test_metadata_of_others_is_shown_and_what_is_no_attribute_stays(place):
    place.put("a", b"1", Metadata={"Colour": "red"}, ContentType="text/x-own", CacheControl="no-cache")
    with place.store() as store:
        assert store.get_metadata("a") == {"colour": "red"}
        store.set_stat("a", mode=0o600)
        store.update_metadata("a", {"n": 1})
        answer = place.server.client.head_object(Bucket=place.bucket, Key=place.prefix + "a")
        assert (answer["ContentType"], answer["CacheControl"]) == ("text/x-own", "no-cache")
        assert store.get_metadata("a") == {"colour": "red", "n": 1}


def test_own_metadata_that_is_damaged_is_none():
    for text in ("{", "[]", '{"metadata": 5}', '{"xattrs": {"a": 5}}', "[" * 100_000):
        assert attributes_of({"joinfs": text, "n": "1"}, Stat(0o100644)).metadata == {"n": "1"}


def test_the_root_keeps_its_attributes_and_metadata_too(odd_place, place):
    for somewhere in (odd_place, place):
        with somewhere.store() as store:
            store.set_stat("", mode=0o700)
            store.set_metadata("", {"n": "1"})
            store._known.clear()
            assert (store.stat("").mode, store.get_metadata(""), list(store.list(""))) == (0o040700, {"n": "1"}, [])


ODD = ["a//b", "./x", "../y", "/lead", "c\\d", "e/f/", "t//", "v", "v/w", "%%x", "z" * 300, "l/" + "y" * 600, "n%0Am"]


def test_a_foreign_bucket_of_odd_names_is_shown_and_never_altered(odd_place):
    for name in ODD:
        odd_place.put(name, name.encode())
    with odd_place.store(read_only=True) as store:
        contents = {key: store.to_bytes(key) for key in store.keys()}
        assert sorted(contents.values()) == sorted(name.encode() for name in ODD if not name.endswith("/"))
        assert contents["a/%%/b"] == b"a//b"
        assert contents["%%v%="] == b"v"
        assert [key for key in contents if not (store.stat(key).is_file and store.lookup(key).is_file)] == []
        assert {store.stat(f"{key}/").kind for key in ("e/f", "t", "t/%%", "v", "%%%2E")} == {stat_module.S_IFDIR}
        assert list(store.check()) == []
    assert odd_place.names() == sorted(ODD)


def test_names_with_newlines_are_shown(place):
    place.put("n\nm", b"1")
    place.put("plain", b"2")
    with place.store() as store:
        assert sorted(store.to_bytes(key) for key in store.keys()) == [b"1", b"2"]
        store.set("x\ny", (data(b"3"), {}))
        assert store.to_bytes("x\ny") == b"3"
    assert place.names() == ["%%x%0Ay", "n\nm", "plain"]


def test_names_that_are_not_utf_8_and_names_too_long(place):
    with place.store() as store:
        store.set("d/\udcff%", (data(b"1"), {}))
        assert [name for name, _ in store.list("d/")] == ["\udcff%"]
        with pytest.raises(NameTooLong, match="1024 bytes"):
            store.set("/".join(["x" * 250] * 5), (data(b""), {}))
    assert place.names() == ["d/", "d/%%%FF%25"]


MARKERS = ["d/", "d", "d_$folder$"]


@pytest.mark.parametrize("marker", MARKERS)
def test_markers_are_read_in_every_spelling_and_written_as_one(odd_place, marker):
    kind = "application/x-directory" if marker == "d" else "binary/octet-stream"
    odd_place.put(marker, b"", ContentType=kind, Metadata={"mode": "16832"})
    with odd_place.store() as store:
        assert store.lookup("d").mode == store.stat("d/").mode == 0o040700
        assert {name: stat.mode for name, stat in store.list("")} == {"d": 0o040700}
        assert list(store.list("d/")) == []
        assert not store.exists("d")
        store.set_stat("d/", mode=0o750)
        assert odd_place.names() == ["d/"]
        assert {name: stat.mode for name, stat in store.list("")} == {"d": 0o040750}


@pytest.mark.parametrize("marker", MARKERS)
def test_directories_with_markers_of_others_are_written_to_moved_and_deleted(odd_place, marker):
    odd_place.put(marker, b"", ContentType="application/x-directory", Metadata={"mode": "16832"})
    with odd_place.store() as store:
        store.set("d/x", (data(b"1"), {}))
        assert (store.stat("d/").mode, odd_place.names()) == (0o040700, ["d/", "d/x"])
        store.delete("d/x")
        store.rename("d/", "e/")
        assert {name: stat.mode for name, stat in store.list("")} == {"e": 0o040700}
    odd_place.put(marker, b"", ContentType="application/x-directory")
    odd_place.put("d/y", b"1")
    with odd_place.store() as store:
        store.delete("d/y")
        store.delete("d/")
        assert [name for name, _ in store.list("")] == ["e"]


def test_a_marker_of_others_without_attributes_says_nothing_of_them(odd_place):
    odd_place.put("d/")
    with odd_place.store(read_only=True) as store:
        assert store.stat("d/").implied


def test_what_ends_as_a_marker_is_not_made(place):
    with place.store() as store, pytest.raises(Unsupported, match="marks a directory"):
        store.set("a_$folder$", (data(b""), {}))


def test_a_directory_stays_when_the_last_in_it_goes(place):
    place.put("d/s/a", b"1")
    with place.store() as store:
        assert store.stat("d/s/").implied
        store.delete("d/s/a")
        assert store.stat("d/s/").is_directory
        store.delete("d/s/")
        assert store.exists("d/")


@given(st.text(st.characters() | st.sampled_from("%/\\.\n\udcff"), min_size=1, max_size=400))
def test_names_and_keys_are_one_to_one(text):
    with contextlib.suppress(UnicodeEncodeError, NameTooLong):  # then it is no name
        text.encode()
        assert name_of("/".join("/".join(spelling_of(part)) for part in text.split("/"))) == text
    with contextlib.suppress(InvalidKey):  # then it is no key
        check_key(text)
        name = name_of(text.removesuffix("/"))
        assert "/".join("/".join(spelling_of(part)) for part in name.split("/")) == text.removesuffix("/")


# ---------------------------------------------------------------- two writers


def test_who_makes_what_another_made_just_now_is_told(place, monkeypatch):
    with place.store() as store:
        assert store.conditions == (True, True, True)
        monkeypatch.setattr(ObjectStore, "_check_free", lambda self, key: place.put(key, b"theirs"))
        with pytest.raises(KeyExists):
            store.make("a", Stat(0o100644))
        assert store.to_bytes("a") == b"theirs"


def test_a_change_of_attributes_is_of_the_version_that_is_there(place):
    with place.store() as store:
        store.freshness = 60.0
        store.set("a", (data(b"old"), {"n": "1"}))
        assert store.stat("a").size == 3
        place.put("a", b"theirs", Metadata={"theirs": "2"})
        store.update_metadata("a", {"m": "3"})
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"theirs", {"theirs": "2", "m": "3"})


def test_a_server_that_ignores_conditions_is_told_of(odd_place, caplog):
    with odd_place.store() as store:
        assert store.info()["conditions"] == {"create": True, "replace": True, "copy": False}  # moto does not look at that of copies
    assert "the server ignores conditions" in caplog.text
    assert "who changes the attributes of a file and who replaces it" in caplog.text
    assert odd_place.names() == []


def test_a_read_only_store_writes_nothing_when_it_is_connected(odd_place, caplog):
    with odd_place.store(read_only=True) as store:
        assert not store.conditions.create
    assert caplog.text == ""


# ---------------------------------------------------------------- large values


class Stream(io.RawIOBase):
    """A source that gives a little at a time, and may break."""

    def __init__(self, content, breaks=False):
        self._content, self._breaks = io.BytesIO(content), breaks

    def readable(self):
        return True

    def read(self, size=-1):
        piece = self._content.read(min(size, 100_000))
        if self._breaks and not piece:
            raise OSError(5, "the source broke")
        return piece


def test_large_values_are_written_in_parts_and_keep_their_attributes(place):
    content = os.urandom(PART * 2 + 12345)
    with place.store() as store:
        store.put("a", Stat(0o100640, 0, *store._default_owner()), Stream(content), {"n": "1"})
        answer = place.server.client.head_object(Bucket=place.bucket, Key=place.prefix + "a")
        assert answer["ETag"].endswith('-3"')
        assert store.to_bytes("a") == content
        assert store.read("a", PART - 5, 10) == content[PART - 5 : PART + 5]
        store.set_stat("a", mode=0o600)
        store.rename("a", "b")
        assert (store.stat("b").mode, store.get_metadata("b"), store.stat("b").size) == (0o100600, {"n": "1"}, len(content))
        assert store.to_bytes("b") == content


def test_several_ranges_are_read_at_once(place):
    content = os.urandom(100_000)
    with place.store() as store:
        store.set("a", (data(content), {}))
        with asked(store) as requests:
            ranges = [(5, 10), (99_990, 50), (50_000, 7), (200_000, 5), (7, 2)]
            assert list(store.read_ranges("a", ranges)) == [content[offset : offset + size] for offset, size in ranges]
        assert requests == ["GetObject"] * 3
        assert list(store.read_ranges("a", [])) == []
        with pytest.raises(KeyError):
            store.read_ranges("missing", [(0, 1)])


def test_a_source_that_breaks_while_parts_are_sent_leaves_the_old(place):
    with place.store() as store:
        store.set("a", (data(b"old"), {}))
        with pytest.raises(OSError, match="broke"):
            store._bucket.put(place.prefix + "a", Stream(bytes(PART + 1), breaks=True), {}, {})
        assert store.to_bytes("a") == b"old"
        assert place.uploads() == []


def test_what_is_too_large_for_one_copy_is_copied_in_parts(place, monkeypatch):
    monkeypatch.setattr(object_s3, "MOST_COPIED", 1 << 20)
    monkeypatch.setattr(object_s3, "COPIED_PART", 5 << 20)
    content = os.urandom(12 << 20)
    with place.store() as store:
        store.set("a", (data(content), {"n": "1"}))
        store.rename("a", "b")
        assert (store.to_bytes("b"), store.get_metadata("b"), store.exists("a")) == (content, {"n": "1"}, False)


def test_a_stream_never_mixes_versions(place):
    content = os.urandom(BLOCK + 1000)
    with place.store() as store:
        store.set("a", (data(content), {}))
        with store.get_data("a") as stream:
            assert stream.read(10) == content[:10]
            store.set("a", (data(bytes(len(content))), {}))
            with pytest.raises(StoreUnavailable, match="changed in its bucket while it was read; open it again"):
                stream.read()


def test_reads_past_the_end_are_empty(place):
    with place.store() as store:
        store.set("a", (data(b"0123456789"), {}))
        store.set("empty", (data(b""), {}))
        assert [store.read("a", 8, 5), store.read("a", 10, 5), store.read("a", 99, 5), store.read("empty", 0, 5)] == [b"89", b"", b"", b""]


def test_the_key_of_no_object_is_refused(place):
    store = ObjectStore(f"//{place.bucket}", endpoint=place.server.endpoint)
    with store, pytest.raises(InvalidKey, match="no object is called so"):
        store.set("%%", (data(b"1"), {}))


def test_too_much_metadata_is_refused_and_changes_nothing(place):
    with place.store() as store:
        store.set("a", (data(b"1"), {"n": "1"}))
        with pytest.raises(OutOfSpace, match="2048 bytes"):
            store.update_metadata("a", {"long": "x" * 2000})
        with pytest.raises(OutOfSpace):
            store.set("b", (data(b"1"), {"é": "é" * 400}))
        assert (store.get_metadata("a"), store.exists("b")) == ({"n": "1"}, False)


# ---------------------------------------------------------------- connections


def test_a_server_that_is_gone_is_an_error_and_no_hang(s3_credentials):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and never answers
        store = ObjectStore("//bucket", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        store.timeout, store.tries = 0.5, 2
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.connect()
        assert time.monotonic() - began < 10
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.connect()
    assert not store.is_connected()


@pytest.mark.parametrize(("broken", "answers"), [(2, b"0123456789"), (4, None)])
def test_what_breaks_off_is_read_again_and_never_answered_with_less(scripted, broken, answers):
    def respond(handler, number):
        handler.part(b"0123456789", Last_Modified="Fri, 14 Jul 2017 02:40:00 GMT", **({"sent": 4} if number < broken else {}))

    scripted.respond = respond
    bucket = object_s3.S3Bucket("b", scripted.url.rstrip("/"), ("key", "secret"), 5, 3)
    if answers is None:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            bucket.read("a", 0, 10)
    else:
        assert bucket.read("a", 0, 10)[0] == answers
    assert len(scripted.asked) == (3 if answers else 4)  # one by obstore, and as many tries of boto3's as were said
    bucket.close()


def test_a_server_that_obstore_fails_at_is_asked_by_boto3_alone_for_a_while(scripted):
    def respond(handler, number):
        handler.part(b"0123456789", Last_Modified="Fri, 14 Jul 2017 02:40:00 GMT", **({} if is_known(handler) else {"sent": 4}))

    def is_known(handler):
        return "boto" in handler.headers.get("User-Agent", "").lower()

    scripted.respond = respond
    bucket = object_s3.S3Bucket("b", scripted.url.rstrip("/"), ("key", "secret"), 5, 3)
    for _ in range(object_quick.MOST_FAILURES + 3):
        assert bucket.read("a", 0, 10)[0] == b"0123456789"
    assert len(scripted.asked) == 2 * object_quick.MOST_FAILURES + 3
    bucket.close()


@pytest.mark.parametrize("name", ["a/", "/a", "a//b", "a/./b", "..", "a\nb", "", "a\x7f"])
def test_names_that_obstore_does_not_have_are_not_asked_for_by_it(scripted, name):
    bucket = object_s3.S3Bucket("b", scripted.url.rstrip("/"), ("key", "secret"), 5, 3)
    with pytest.raises(object_quick.Unanswered):
        bucket._quick.head(name)
    assert scripted.asked == []
    bucket.close()


def unreachable(**_):
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="http://gone")


def test_a_server_that_goes_while_we_are_connected_is_an_error(place):
    with place.store() as store:
        store.set("a", (data(b"1"), {}))
        store.freshness = 0.0
        store._bucket._quick._paused_until = float("inf")
        store._bucket._client.meta.events.register("before-send.s3", unreachable)
        for use in (
            lambda: store.stat("a"),
            lambda: list(store.list("")),
            lambda: store.read("a", 0, 1),
            lambda: store.lookup("a"),
            lambda: store.delete("a"),
            lambda: store.set("b", (data(b""), {})),
        ):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                use()


def test_credentials_that_are_given_are_not_mixed_with_others(place, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "another's")
    store = place.store()
    store.connect((object_servers.ACCESS, object_servers.SECRET))
    store.set("a", (data(b"1"), {}))
    assert store._bucket._quick.head(store._name("a")).size == 1
    store.disconnect()


def test_who_may_not_or_has_no_credentials_is_told(place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied):
        place.store().connect()
    store = place.store()
    store.connect((object_servers.ACCESS, object_servers.SECRET))
    store.disconnect()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessDenied, match="needs credentials"):
        place.store().connect()
    for wrong in ("key", ("key",), (1, 2)):
        with pytest.raises(UsageError, match="credentials for a bucket are"):
            place.store().connect(wrong)


def test_a_bucket_that_is_not_there_is_told(odd_place):
    with pytest.raises(StoreUnavailable, match="there is no bucket nothing-here"):
        ObjectStore("//nothing-here", endpoint=odd_place.server.endpoint).connect()


def test_a_profile_has_credentials_and_endpoint(odd_place, monkeypatch, tmp_path):
    lines = ["[profile own]", f"endpoint_url = {odd_place.server.endpoint}", "aws_access_key_id = a", "aws_secret_access_key = b", "region = us-east-1"]
    lines += ["s3 =", "    addressing_style = path"]
    (tmp_path / "config").write_text("\n".join(lines))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "own")
    with joinfs.open_store(f"s3://{odd_place.bucket}?ro") as store:
        assert list(store.keys()) == []
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(UsageError, match="absent"):
        joinfs.open_store(f"s3://{odd_place.bucket}")


def test_urls(odd_place, monkeypatch):
    odd_place.put("a/b/c", b"1")
    with joinfs.open_store(f"s3://{odd_place.bucket}/a?endpoint={odd_place.server.endpoint}&prefix=b&ro") as store:
        assert list(store.keys()) == ["c"]
        assert not store.capabilities.writable
    monkeypatch.setenv("AWS_ENDPOINT_URL", odd_place.server.endpoint)
    with joinfs.open_store(f"s3://{odd_place.bucket}/a/b/?ro") as store:
        assert (list(store.keys()), store.name) == (["c"], f"s3://{odd_place.bucket}/a/b/")
    for wrong in ("s3:", "s3://", "s3:bucket", "s3:///x", "s3://b?endpoint=nonsense", "s3://b?endpoint="):
        with pytest.raises(UsageError):
            joinfs.open_store(wrong)


def test_credentials_in_a_url_are_refused_and_not_shown(caplog):
    for wrong in ("s3://KEY:SECRET@bucket/x", "s3://b?endpoint=http://KEY:SECRET@host", "s3://b?secret=SECRET"):
        with pytest.raises(UsageError) as told:
            joinfs.open_store(wrong)
        assert "SECRET" not in str(told.value) + caplog.text


def test_an_option_of_buckets_is_for_buckets():
    with pytest.raises(UsageError, match="'\\?endpoint' is not known"):
        joinfs.open_store("memory:?endpoint=http://x")


# ---------------------------------------------------------------- requests that obstore makes


def test_no_other_server_is_asked_than_the_one_that_is_named(place, scripted, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", scripted.url)
    with place.store() as store:
        store.set("a", (data(b"1"), {"n": "1"}))
        store.freshness = 0.0
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"1", {"n": "1"})
        store.delete("a")
    assert (place.names(), scripted.asked) == ([], [])


@pytest.mark.parametrize(("name", "value"), [("AWS_CONDITIONAL_PUT", "disabled"), ("AWS_S3_EXPRESS", "true"), ("AWS_SKIP_SIGNATURE", "true")])
def test_settings_that_obstore_alone_knows_change_nothing(place, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with place.store() as store:
        store.set("a", (data(b"1"), {}))
        assert store.to_bytes("a") == b"1"


@pytest.mark.parametrize("name", ["content-type", "content-encoding", "content-language", "content-disposition", "cache-control", "storage-class"])
def test_metadata_may_be_called_as_headers_are(place, name):
    with place.store() as store:
        store.set("a", (data(b"1"), {name: "GLACIER"}))
        store.freshness = 0.0
        assert (store.get_metadata("a"), store.to_bytes("a")) == ({name: "GLACIER"}, b"1")
        store.set_data("a", data(b"2"))
        assert store.get_metadata("a") == {name: "GLACIER"}
        assert place.headers("a")[name] == "GLACIER"


# ---------------------------------------------------------------- at the same time


def test_pages_without_anything_are_passed_over():
    class Paged:
        def pages(self, prefix, limit):
            yield from ([], [Listed(prefix + "a")], [Listed(prefix + "b")])

    assert [Bucket.first(Paged(), "p/", limit) for limit in (1, 2, 3)] == [["p/a"], ["p/a", "p/b"], ["p/a", "p/b"]]


def test_more_look_up_than_there_are_threads(place, monkeypatch):
    monkeypatch.setattr(object_reading, "THREADS", 2)
    with place.store() as store:
        threads = [threading.Thread(target=missing, args=(store, f"d{number}/a"), daemon=True) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def test_of_two_answers_about_one_object_none_is_believed():
    class Heads:
        size = 10

        def head(self, name):
            return Found(self.size, f'"{self.size}"', 0, {}, {}, 0)

    bucket = Heads()
    known = object_known.Known(bucket, lambda: 1e6)
    moment, old = known.moment(), known.find("a")
    known.forget("other")
    known.saw("a", old, moment)
    assert known.knows("a")
    bucket.size = 5
    known.saw("a", bucket.head("a"), moment)
    assert known.find("a").size == 5


def test_of_names_too_long_for_one_component_each_can_be_deleted(odd_place):
    for number in range(3):
        odd_place.put("l/" + "y" * 600 + str(number), b"1")
    with odd_place.store() as store:
        first, second, third = sorted(store.keys("l/"))
        store.delete(first)
        store.delete_sent([second])
        assert [*store.keys("l/")] == [third]


def test_what_is_deleted_in_the_root_asks_for_nothing_more(place):
    place.put("a", b"1")
    with place.store() as store:
        store.stat("a")
        with asked(store) as requests:
            store.delete("a")
        assert requests == ["DeleteObject"]


def test_a_directory_is_marked_for_what_is_deleted_there_after_what_others_do_to_it(place):
    place.put("d/a", b"1")
    with place.store() as store:
        deleting = threading.Thread(target=store.delete_sent, args=(["d/a"],))
        with store._exclusive("d/"):
            deleting.start()
            store.set_stat("d/", mode=0o700)
        deleting.join(20)
        assert (dict(store.list("d/")), store.stat("d/").mode & 0o777) == ({}, 0o700)


def lost(method):
    """A method that does what it is to do, once says that somebody else did, and goes on."""
    answers = [Changed("a try before")]

    def ask(*given, **named):
        done = method(*given, **named)
        if answers:
            raise answers.pop()
        return done

    return ask


def test_what_was_done_though_the_answer_was_lost_is_done(place, monkeypatch):
    with place.store() as store:
        monkeypatch.setattr(store._bucket, "put", lost(store._bucket.put))
        assert store.make("a", Stat(0o100600)).mode == store.stat("a").mode == 0o100600
        with pytest.raises(KeyExists):
            store.make("a", Stat(0o100600))
        store.set_xattr("a", "user.n", b"1")
        monkeypatch.setattr(store._bucket, "copy", lost(store._bucket.copy))
        store.set_xattr("a", "user.n", None)
        assert store.get_xattrs("a") == {}


# -------------------------------------------------------------------- walks


def filled_tree(server, directories, files=1):
    bucket = server.new_bucket()
    for number in range(directories):
        for name in range(files):
            server.put(bucket, f"t/d{number}/s/f{name}", b"x")
        server.put(bucket, f"t/d{number}/f", b"x")
    return bucket


def walked(store, directory=""):
    """Everything below a directory, as somebody finds it who goes through all of it."""
    found = {}
    for name, stat in list(store.list(directory)):
        key = directory + name + ("/" if stat.is_directory else "")
        found[key] = stat.size
        if stat.is_directory:
            found |= walked(store, key)
    return found


def expected_tree(directories, files=1):
    found = {"t/": 0}
    for number in range(directories):
        found |= {f"t/d{number}/": 0, f"t/d{number}/f": 1, f"t/d{number}/s/": 0} | {f"t/d{number}/s/f{name}": 1 for name in range(files)}
    return found


def test_who_walks_has_many_directories_listed_with_one_request(moto):
    with ObjectStore(f"//{filled_tree(moto, 20)}", endpoint=moto.endpoint) as store, asked(store) as requests:
        store.freshness = 1000.0  # however slow the machine is
        assert walked(store) == expected_tree(20)
    assert requests.count("ListObjectsV2") <= 5
    assert requests.count("HeadObject") <= 4 * 41


def test_a_listing_may_be_let_go_of_at_any_moment():
    """Whoever collects garbage may be writing just then."""
    levels = object_levels.Levels(None, lambda: 10.0)
    listing = levels.noting("d/", 1.0, iter([Listed("d/a"), Listed("d/b")]))
    assert next(listing).name == "d/a"
    with levels._lock:
        listing.close()
    assert levels._growing == []


def test_who_lists_one_directory_has_no_others_listed(moto):
    with ObjectStore(f"//{filled_tree(moto, 20)}", endpoint=moto.endpoint) as store, asked(store) as requests:
        for _ in range(5):
            assert {name for name, _ in store.list("t/d1/")} == {"f", "s"}
        assert requests.count("HeadObject") <= 5 * 2 * 3


def test_a_walk_sees_what_was_written_meanwhile(moto):
    with ObjectStore(f"//{filled_tree(moto, 5)}", endpoint=moto.endpoint) as store:
        assert walked(store) == expected_tree(5)
        for key in ("t/d1/s/new", "t/new/s/f0", "t/new/f"):
            store.set(key, (io.BytesIO(b"x"), {}))
        store.delete("t/d2/s/f0")
        store.rename("t/d3/", "t/moved/")
        expected = expected_tree(5) | {"t/d1/s/new": 1, "t/new/": 0, "t/new/f": 1, "t/new/s/": 0, "t/new/s/f0": 1}
        del expected["t/d2/s/f0"]
        expected = {key.replace("t/d3/", "t/moved/"): size for key, size in expected.items()}
        assert walked(store) == expected
    with ObjectStore(f"//{store._bucket_name}", endpoint=moto.endpoint) as store:
        assert walked(store) == expected


def test_who_deletes_what_he_walks_through_has_not_all_listed_each_time(moto):
    with ObjectStore(f"//{filled_tree(moto, 10)}", endpoint=moto.endpoint) as store, asked(store) as requests:
        store.freshness = 1000.0  # however slow the machine is
        assert walked(store) == expected_tree(10)
        for number in range(10):
            del requests[:]
            for key in (f"t/d{number}/s/f0", f"t/d{number}/s/", f"t/d{number}/f", f"t/d{number}/"):
                store.delete(key)
            assert requests.count("HeadObject") + requests.count("ListObjectsV2") < 30
        assert walked(store) == {"t/": 0}


def test_what_is_too_much_to_be_listed_at_once_is_listed_by_directory(moto, monkeypatch):
    monkeypatch.setattr(object_walks, "MOST_PAGES", 1)
    pages = object_s3.S3Bucket.pages
    monkeypatch.setattr(object_s3.S3Bucket, "pages", lambda bucket, prefix, delimiter="", limit=10: pages(bucket, prefix, delimiter, min(limit, 10)))
    with ObjectStore(f"//{filled_tree(moto, 6, 15)}", endpoint=moto.endpoint) as store:
        assert walked(store) == expected_tree(6, 15)


def test_several_who_walk_and_write_at_once_see_what_is_there(moto):
    with ObjectStore(f"//{filled_tree(moto, 8)}", endpoint=moto.endpoint) as store:

        def work(number):
            for round_ in range(6):
                key = f"t/d{number}/s/r{round_}"
                store.set(key, (io.BytesIO(b"x"), {}))
                seen = walked(store, "t/")
                assert seen[key] == 1
                store.delete(key)
                assert key not in walked(store, "t/")

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, number) for number in range(4)]:
                done.result()
        assert walked(store) == expected_tree(8)


def test_names_that_xml_cannot_say_are_deleted_too_and_keep_no_others_from_it(moto):
    bucket = moto.new_bucket()
    with ObjectStore(f"//{bucket}", endpoint=moto.endpoint) as store:
        for name in ("a", "b\uffff", "c", "d\ufffe"):
            store.set(f"x/{name}", (io.BytesIO(b"x"), {}))
        store.delete_sent([f"x/{name}" for name in ("a", "b\uffff", "c", "d\ufffe")])
        assert list(store.list("x/")) == []
    assert moto.names(bucket) == ["x/"]


def test_the_version_of_a_copy_is_the_one_that_is_read(seaweedfs):
    bucket, prefix = seaweedfs.new_place()
    with ObjectStore(f"//{bucket}/{prefix}", endpoint=seaweedfs.endpoint) as store:
        store.set("old", (io.BytesIO(b"content"), {}))
        store.rename("old", "new")
        assert store.read_version("new", 0, 0).version == store.read_version("new", 0, 7).version


def test_markers_arrive_after_what_is_in_their_directories(moto):
    """A server that makes directories by itself would lose what a marker says that it is given just then."""
    order = []
    with ObjectStore(f"//{moto.new_bucket()}", endpoint=moto.endpoint) as store:
        for key in ("d/s/f", "d/s/t/g", "d/h"):
            store.set(key, (io.BytesIO(b"x"), {}))
        copy = store._copy_as_it_is

        def noted(listed, new):
            copy(listed, new)
            order.append(new)

        store._copy_as_it_is = noted
        store.rename("d/", "e/")
        assert set(order[:3]) == {"e/s/f", "e/s/t/g", "e/h"}
        assert order[3:] == ["e/s/t/", "e/s/", "e/"]
