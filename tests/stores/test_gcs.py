"""Buckets of Google Cloud Storage, on a small server of ours and on gcp-storage-emulator. SEMANTICS.md, Buckets of Google."""

import contextlib
import gzip
import io
import itertools
import os
import socket
import stat as stat_module
import time

import pytest

import joinfs
from joinfs.errors import AccessDenied, KeyExists, OutOfSpace, ReadOnly, StoreUnavailable, UsageError
from joinfs.stores import Stat, object_gcs_server
from joinfs.stores.gcs import GoogleStore
from joinfs.stores.object_bucket import PART, Changed, Found
from joinfs.stores.object_gcs import MOST_DELETED, GoogleBucket
from joinfs.stores.object_gcs_upload import SENT
from joinfs.stores.object_streams import BLOCK
from joinfs.stores.value import new_stat
from joinfs.testing import ReadOnlyContract, StoreContract
from tests.conftest import lacking
from tests.stores import gcs_servers

_numbers = itertools.count(1)


class TestGoogle(StoreContract):
    scheme = "gs"

    @pytest.fixture(autouse=True)
    def served(self, google, google_client):
        self.server, self.client = google, google_client

    def make_store(self, place):
        self.bucket = self.server.new_bucket()
        return GoogleStore(f"//{self.bucket}/p", endpoint=self.server.endpoint)

    def raw(self, place, key):
        return self.client.bucket(self.bucket).blob("p/" + key).download_as_bytes()

    def seed(self, place, key, content):
        self.client.bucket(self.bucket).blob("p/" + key).upload_from_string(content)
        return True


class TestFakeGCSServer(StoreContract):
    """Another's reading of Google's documents, which knows fewer conditions."""

    @pytest.fixture(autouse=True)
    def served(self, fake_gcs_server):
        self.server = fake_gcs_server

    def make_store(self, place):
        self.bucket = self.server.client.create_bucket(f"bucket-{next(_numbers)}").name
        return GoogleStore(f"//{self.bucket}/p", endpoint=self.server.endpoint)

    def raw(self, place, key):
        return self.server.client.bucket(self.bucket).blob("p/" + key).download_as_bytes()

    def seed(self, place, key, content):
        self.server.client.bucket(self.bucket).blob("p/" + key).upload_from_string(content)
        return True


class TestReadOnly(ReadOnlyContract):
    """A bucket that others filled, without markers or attributes."""

    @pytest.fixture(autouse=True)
    def served(self, google, google_client):
        self.server, self.client = google, google_client

    def make_filled(self, place):
        bucket = self.server.new_bucket()
        for key, content in self.CONTENTS.items():
            self.client.bucket(bucket).blob(key).upload_from_string(content)
        return GoogleStore(f"//{bucket}", endpoint=self.server.endpoint, read_only=True)


@pytest.fixture
def bucket(google):
    return google.new_bucket()


@pytest.fixture
def store(google, bucket):
    with GoogleStore(f"//{bucket}", endpoint=google.endpoint) as store:
        yield store


@pytest.fixture
def blob(google_client, bucket):
    """An object of the bucket, looked at by Google's own client."""

    def blob(name, **given):
        found = google_client.bucket(bucket).blob(name, **given)
        if google_client.bucket(bucket).get_blob(name) is not None:
            found.reload()
        return found

    return blob


def put(blob, name, content=b"", metadata=None, kind="application/octet-stream", encoding=None):
    made = blob(name)
    made.metadata, made.content_encoding = metadata, encoding
    made.upload_from_string(content, content_type=kind)


def data(content):
    return io.BytesIO(content)


def asked(google):
    """What the server is asked from now on."""
    google.calls.clear()
    return google.calls


def missing(store, key):
    with pytest.raises(KeyError):
        store.lookup(key)


# ---------------------------------------------------------------- what it costs

COSTS = {
    "stat of a file": (lambda store: store.stat("d/a"), "GET"),
    "stat of a directory": (lambda store: store.stat("d/"), "GET"),
    "lookup of a file": (lambda store: store.lookup("d/a"), "GET GET LIST"),
    "lookup of nothing": (lambda store: missing(store, "d/z"), "GET GET LIST"),
    "read": (lambda store: store.read("d/a", 2, 3), "MEDIA"),
    "get": (lambda store: store.get("d/a").data.read(), "GET MEDIA"),
    "list of two": (lambda store: list(store.list("d/")), "LIST"),
    "put over": (lambda store: store.put("d/a", Stat(0o100644), data(b"new")), "GET UPLOAD"),
    "chmod": (lambda store: store.set_stat("d/a", mode=0o600), "GET PATCH"),
    "rename over": (lambda store: store.rename("d/a", "d/b"), "DELETE GET GET GET REWRITE"),
    "delete": (lambda store: store.delete("d/b"), "DELETE GET GET"),
}


@pytest.mark.parametrize("operation", COSTS)
def test_what_an_operation_asks_for(store, google, operation):
    for key in ("d/a", "d/b"):
        store.set(key, (data(b"0123456789"), {}))
    store._known.clear()
    requests = asked(google)
    COSTS[operation][0](store)
    assert " ".join(sorted(requests)) == COSTS[operation][1]


def test_what_was_written_or_listed_is_known(store, google):
    for key in ("d/a", "d/b", "d/s/c"):
        store.set(key, (data(b"0123456789"), {}))
    store.set_stat("d/s/", mode=0o700)
    store._known.clear()
    requests = asked(google)
    assert {name: stat.mode for name, stat in store.list("d/")} == {"a": 0o100644, "b": 0o100644, "s": 0o040700}
    assert [store.lookup(f"d/{name}").size for name in "ab"] == [10, 10]
    assert (store.stat("d/s/").mode, store.get_metadata("d/a"), store.read("d/b", 3, 2)) == (0o040700, {}, b"34")
    assert requests == ["LIST", "MEDIA"]
    store.stat("d/")
    requests.clear()
    store.put("d/a", Stat(0o100644), data(b"new"))
    store.set_stat("d/a", mode=0o600)
    store.rename("d/a", "d/b")
    assert (store.stat("d/b").mode, store.to_bytes("d/b")) == (0o100600, b"new")
    assert requests == ["UPLOAD", "PATCH", "REWRITE", "DELETE", "MEDIA"]


def test_who_asks_for_several_names_is_told_all_by_one_listing(google, bucket):
    for name in ("d/a", "d/b", "d/c", "d/s/in", "d/s/", "d/t/in"):
        google.write(bucket, {"name": name, "metadata": {"mode": "0100600"}}, b"1", {})
    with GoogleStore(f"//{bucket}", endpoint=google.endpoint) as store:
        missing(store, "d/x")
        requests = asked(google)
        assert [store.lookup(f"d/{name}").kind for name in "abcst"] == [stat_module.S_IFREG] * 3 + [stat_module.S_IFDIR] * 2
        missing(store, "d/y")
    assert sorted(requests) == ["GET", "LIST", "LIST"]  # the directory without a marker: its marker, and what is in it


def test_a_directory_is_renamed_by_the_server_and_deleted_at_once(store, google, bucket):
    for number in range(2 * MOST_DELETED):
        google.write(bucket, {"name": f"d/{number}", "metadata": {"k": "v"}}, b"%d" % number, {})
    requests = asked(google)
    store.rename("d/", "e/")
    assert (requests.count("REWRITE"), requests.count("BATCH")) == (2 * MOST_DELETED, 3)
    assert len(requests) < 2 * MOST_DELETED + 3 + 12
    assert not store.exists("d/")
    assert {name: store.to_bytes("e/" + name) for name, _ in store.list("e/")} == {str(n): b"%d" % n for n in range(2 * MOST_DELETED)}
    assert store.get_metadata("e/7") == {"k": "v"}


def test_a_directory_of_several_pages_is_listed(store, google, bucket, monkeypatch):
    for number in range(7):
        for name in (f"f{number}", f"f{number}/in", f"g{number}/"):
            google.write(bucket, {"name": name}, b"", {})
    pages = store._bucket.pages
    monkeypatch.setattr(store._bucket, "pages", lambda prefix, delimiter="", limit=1000: pages(prefix, delimiter, min(limit, 3)))
    assert [name for name, _ in store.list("")] == [name for n in range(7) for name in (f"%%f{n}%=", f"f{n}")] + [f"g{n}" for n in range(7)]
    assert len(list(store.keys())) == 14


# ---------------------------------------------------------------- names and attributes


def test_metadata_stands_under_its_names(store, blob):
    metadata = {"plain": "text", "with-hyphens-in": "it", "9lives": "1", "Odd name": {"deep": ["é", None]}}
    store.set("a", (data(b"content"), metadata))
    said = blob("a").metadata
    assert (said["plain"], said["with-hyphens-in"], said["9lives"], said["mode"]) == ("text", "it", "1", "0100644")
    assert store.get_metadata("a") == metadata


def test_what_others_wrote_is_shown(store, blob):
    put(blob, "d/f", b"theirs", {"mode": "33188", "mtime": "1600000000.5", "theirs": "ü\n"}, "text/plain")
    put(blob, "odd//name", b"odd")
    put(blob, "e", kind="application/x-directory")
    assert store.get_metadata("d/f") == {"theirs": "ü\n"}
    assert (store.stat("d/f").mode, store.stat("d/f").mtime) == (0o100644, 1_600_000_000_500_000_000)
    assert sorted(name for name, _ in store.list("")) == ["d", "e", "odd"]
    assert store.stat("e/").is_directory
    assert [store.to_bytes(f"odd/{odd}/{name}") for odd, _ in store.list("odd/") for name, _ in store.list(f"odd/{odd}/")] == [b"odd"]


def test_what_others_say_of_an_object_stays(store, blob):
    put(blob, "a", b"theirs", {"k": "v"}, "text/css")
    store.set_stat("a", mode=0o600)
    store.rename("a", "b")
    assert (blob("b").content_type, blob("b").metadata["k"], blob("b").metadata["mode"]) == ("text/css", "v", "0100600")


def test_metadata_with_capitals_is_one(store, blob, google):
    put(blob, "a", b"theirs", {"Mode": "33152", "Key": "theirs"})
    assert (store.stat("a").mode, store.get_metadata("a")) == (0o100600, {"key": "theirs"})
    requests = asked(google)
    store.set_metadata("a", {"key": "ours"})
    assert requests == ["PATCH", "PATCH"]
    assert {name: blob("a").metadata[name] for name in ("mode", "key")} == {"mode": "0100600", "key": "ours"}
    assert {"Mode", "Key"} & set(blob("a").metadata) == set()


def test_metadata_goes_where_a_server_drops_no_name(store, google, monkeypatch):
    """fake-gcs-server does not."""
    patch = google.patch

    def without_dropping(bucket, name, changes, asked):
        kept = {other: value for other, value in changes["metadata"].items() if value is not None}
        return patch(bucket, name, {"metadata": kept}, asked)

    monkeypatch.setattr(google, "patch", without_dropping)
    store.set("a", (data(b"content"), {"k": "v", "l": "w"}))
    store.set_metadata("a", {"l": "w"})
    store._known.clear()
    assert (store.get_metadata("a"), store.to_bytes("a")) == ({"l": "w"}, b"content")


@pytest.mark.parametrize("key", ["a b", "ü", "x\\y", "n\nl", "q?#%25", "a.", "+", "a'b\"c", "e\udcffe", "x" * 250, "[1]{}|^~`&", "\r", "%2E", "😀"])
def test_names_of_every_kind(key, store):
    store.set("d/" + key, (data(b"content"), {}))
    store.rename("d/" + key, "e/" + key)
    assert [name for name, _ in store.list("e/")] == [key]
    assert store.to_bytes("e/" + key) == b"content"
    store.delete("e/" + key)
    assert [*store.list("e/")] == [*store.list("d/")] == []


ODD = ["a//b", "/lead", "tail//", "d/./x", "d/../y", "v", "v/in", "%%x", "y" * 300, "h_$folder$", "é/ü", "back\\slash", "tab\there", "q?a=b&c#d%20e+f", "..."]


def test_odd_keys_of_others_are_each_shown_once(store, google, bucket):
    for name in ODD:
        google.write(bucket, {"name": name}, name.encode(), {})
    contents = {key: store.to_bytes(key) for key in store.keys()}
    assert sorted(contents.values()) == sorted(name.encode() for name in ODD if not name.endswith(("/", "_$folder$")))
    assert [key for key in contents if not (store.stat(key).is_file and store.lookup(key).is_file)] == []
    assert list(store.check()) == []
    assert sorted(google.buckets[bucket]) == sorted(ODD)


def test_attributes_are_changed_in_place(store, blob, google):
    store.set("a", (data(b"content"), {"k": "v", "l": "w"}))
    made, version = blob("a").time_created, store.version("a")
    requests = asked(google)
    store.set_stat("a", mode=0o600)
    store.set_metadata("a", {"k": "new"})
    assert requests == ["PATCH", "PATCH"]
    assert (blob("a").time_created, blob("a").metageneration, store.version("a")) == (made, 3, version)
    assert (store.stat("a").mode, store.get_metadata("a"), store.to_bytes("a")) == (0o100600, {"k": "new"}, b"content")


# ---------------------------------------------------------------- two writers


def test_attributes_are_not_given_to_what_others_have_put_there(store, blob):
    store.set("a", (data(b"old"), {"of": "the old"}))
    put(blob, "a", b"another's", {"of": "another"})
    store.set_stat("a", mode=0o600)
    assert (store.stat("a").mode, store.get_metadata("a"), store.to_bytes("a")) == (0o100600, {"of": "another"}, b"another's")


def test_of_two_who_change_attributes_none_is_lost(google, bucket, store):
    store.set("a", (data(b"content"), {}))
    with GoogleStore(f"//{bucket}", endpoint=google.endpoint) as other:
        assert store.stat("a") == other.stat("a")
        store.update_metadata("a", {"ours": "1"})
        other.update_metadata("a", {"theirs": "2"})
        store.set_xattr("a", "user.x", b"3")
        other.rename("a", "b")
        assert (other.get_metadata("b"), other.get_xattrs("b")) == ({"ours": "1", "theirs": "2"}, {"user.x": b"3"})


def test_of_two_who_make_one_value_one_is_told(google, bucket, store):
    with GoogleStore(f"//{bucket}", endpoint=google.endpoint) as other:
        assert not store.exists("a")
        assert not other.exists("a")
        store.make("a", new_stat(0o100644))
        with pytest.raises(KeyExists):
            other.make("a", new_stat(0o100644))


def test_who_made_a_file_is_not_told_that_it_is_there_because_the_answer_was_lost(store, google):
    lost = []

    def broken(handler, call):
        """The first is done, and nobody is told."""
        if call == "UPLOAD" and not lost:
            lost.append(call)
            handler.wfile, handler.close_connection = io.BytesIO(), True

    google.broken = broken
    store.make("a", new_stat(0o100640))
    assert (store.stat("a").mode, lost) == (0o100640, ["UPLOAD"])
    store._known.clear()
    with pytest.raises(KeyExists):
        store.make("a", new_stat(0o100640))


def test_the_server_honours_conditions(store):
    assert store.info()["conditions"] == {"create": True, "replace": True, "copy": True}


# ---------------------------------------------------------------- data


def test_large_data_goes_in_parts_and_is_seen_whole(store, blob, google):
    content = os.urandom(2 * SENT)
    requests = asked(google)
    store.put("large", Stat(0o100640), data(content), {"k": "v"})
    assert [request for request in requests if request not in {"GET", "LIST"}] == ["UPLOAD", "PART", "PART"]
    assert blob("large").download_as_bytes() == content
    assert (store.stat("large").size, store.to_bytes("large"), store.stat("large").mode) == (len(content), content, 0o100640)
    assert store.read("large", PART - 3, 10) == content[PART - 3 : PART + 7]
    assert store.read("large", len(content) - 2, 10) == content[-2:]
    assert store.read("large", len(content) + 2, 10) == b""
    store.put("large", Stat(0o100640), data(content[: SENT + 5]))
    assert store.to_bytes("large") == content[: SENT + 5]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1])
def test_data_of_every_size(store, blob, size):
    content = os.urandom(size)
    store.set("a", (data(content), {}))
    assert (store.to_bytes("a"), store.stat("a").size, blob("a").size) == (content, size, size)


def test_what_the_server_has_not_kept_of_a_part_is_sent_again(store, google):
    content = os.urandom(SENT + 1000)
    google.kept_at_once = 5 << 20
    store.set("a", (data(content), {}))
    google.kept_at_once = 1 << 40
    assert store.to_bytes("a") == content


@pytest.mark.parametrize("status", [503, None])
def test_a_part_that_breaks_off_is_sent_on(store, google, status):
    """Whether the server says so, or nothing."""
    content, broken = os.urandom(SENT + 1000), []

    def breaking(handler, call):
        if call != "PART" or len(broken) > 1:
            return None
        broken.append(call)
        if status is None:
            handler.close_connection = True
            raise ConnectionResetError
        return status

    google.broken = breaking
    store.set("a", (data(content), {}))
    google.broken = lambda handler, call: None
    assert (store.to_bytes("a"), len(broken)) == (content, 2)


class Broken(io.RawIOBase):
    """Data that breaks off after more than a part."""

    left = 2 * SENT

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.left <= 0:
            raise OSError("it breaks off")
        self.left -= len(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_data_that_breaks_off_leaves_the_old(store, google, blob):
    store.set("a", (data(b"old"), {}))
    with pytest.raises(OSError, match="it breaks off"):
        store._bucket.put("a", Broken(), {}, {})
    assert (store.to_bytes("a"), blob("a").download_as_bytes(), google.uploads) == (b"old", b"old", {})


def test_a_large_copy_takes_several_requests(store, google):
    content = os.urandom(1 << 20)
    store.set("a", (data(content), {"k": "v"}))
    google.rewritten_at_once = 400_000
    requests = asked(google)
    store.rename("a", "b")
    google.rewritten_at_once = 1 << 40
    assert requests.count("REWRITE") == 3
    assert (store.to_bytes("b"), store.get_metadata("b")) == (content, {"k": "v"})


def test_a_stream_never_mixes_versions_and_outlives_a_change_of_attributes(store):
    content = os.urandom(BLOCK + 1000)
    store.set("a", (data(content), {}))
    with store.get_data("a") as stream:
        assert stream.read(10) == content[:10]
        store.set_stat("a", mode=0o600)
        assert stream.read() == content[10:]
    with store.get_data("a") as stream:
        assert stream.read(10) == content[:10]
        store.set("a", (data(bytes(len(content))), {}))
        with pytest.raises(StoreUnavailable, match="changed in its bucket while it was read; open it again"):
            stream.read()


def test_what_is_stored_compressed_is_answered_as_it_is_stored(store, blob):
    packed = gzip.compress(b"unpacked" * 1000)
    put(blob, "a", packed, encoding="gzip")
    assert (store.to_bytes("a"), store.stat("a").size, store.read("a", 2, 5)) == (packed, len(packed), packed[2:7])


def test_what_is_replaced_while_its_attributes_are_asked_for_is_read_anew(google, bucket):
    old = google.write(bucket, {"name": "a"}, b"old", {})["generation"]

    def broken(handler, call):
        if call == "GET" and google.calls.count("GET") == 1:
            google.write(bucket, {"name": "a"}, b"new one", {})

    store = GoogleBucket(bucket, google.endpoint, None, False, 5, 3)
    google.broken = broken
    content, found = store.read("a", 0, 100)
    assert (content, found.size, google.calls) == (b"new one", 7, ["MEDIA", "GET", "MEDIA"])
    with pytest.raises(Changed):
        store.read("a", 0, 100, old)
    store.close()


def test_several_ranges_are_read_at_once(store, google):
    content = os.urandom(100_000)
    store.set("a", (data(content), {}))
    requests = asked(google)
    ranges = [(5, 10), (99_990, 50), (50_000, 7), (200_000, 5), (7, 2)]
    assert list(store.read_ranges("a", ranges)) == [content[offset : offset + size] for offset, size in ranges]
    assert requests == ["MEDIA"] * 3


# ---------------------------------------------------------------- connections


@pytest.fixture
def slow_to_give_up(monkeypatch):
    """The waits between tries are left out."""
    monkeypatch.setattr(object_gcs_server, "_BACKOFF", 0)


def test_who_is_busy_is_asked_again(store, google, slow_to_give_up):
    store.set("a", (data(b"content"), {}))
    busy = [429, 503, 500]
    google.broken = lambda handler, call: busy.pop() if busy else None
    assert store.to_bytes("a") == b"content"
    google.broken = lambda handler, call: 503
    with pytest.raises(StoreUnavailable, match="answers 503: It is busy"):
        store.set("b", (data(b""), {}))


def test_who_deletes_many_is_told_what_is_not_deleted(store, google, slow_to_give_up):
    names = [f"d/{number}" for number in range(5)]
    for name in names:
        store.set(name, (data(b""), {}))
    google.broken = lambda handler, call: 403 if call in {"BATCH", "DELETE"} else None
    with pytest.raises(AccessDenied, match="answers 403"):
        store._bucket.delete(names)
    google.broken = lambda handler, call: 404 if call == "BATCH" else None  # a server that has none
    store._bucket.delete([*names, "d/none"])
    assert list(store.list("d/")) == []


SAID = b'{"name": "a", "size": "10", "generation": "7", "metageneration": "1", "updated": "2026-01-02T03:04:05.678Z"}'


@pytest.mark.parametrize(("broken", "answers"), [(2, b"0123456789"), (3, None)])
def test_what_breaks_off_is_read_again_and_never_answered_with_less(scripted, broken, answers, slow_to_give_up):
    headers = {"X_Goog_Generation": "7", "X_Goog_Metageneration": "1"}
    reads = []

    def respond(handler, number):
        if "alt=media" in handler.path:
            reads.append(number)
            handler.part(b"0123456789", **headers, **({"sent": 4} if number < broken else {}))
        else:
            handler.reply(200, SAID)

    scripted.respond = respond
    bucket = GoogleBucket("b-1", scripted.url.rstrip("/"), None, False, 5, 3)
    if answers is None:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            bucket.read("a", 0, 10)
    else:
        assert bucket.read("a", 0, 10)[0] == answers
    assert reads == [0, 1, 2]
    bucket.close()


def test_a_server_that_takes_no_notice_of_ranges_or_says_nonsense(scripted):
    bucket, version = GoogleBucket("b-1", scripted.url, None, False, 5, 1), Found(10, "7", 0, {}, {}, 0, "1")
    uses = [lambda: bucket.head("a"), lambda: bucket.put("a", data(b""), {}, {}), lambda: bucket.put("a", data(bytes(PART)), {}, {})]
    uses += [lambda: bucket.copy("a", "b", version), lambda: bucket.copy("a", "a", version)]
    for said in (b"<html>", b"{}", b"[]", b'{"name": "a", "generation": "7", "updated": "soon"}'):
        scripted.respond = lambda handler, number, said=said: handler.reply(200, said)
        for use in uses:
            with pytest.raises(StoreUnavailable, match="which Google's would not"):
                use()
    scripted.respond = lambda handler, number: handler.reply(200, b'{"items": [{}]}')
    with pytest.raises(StoreUnavailable, match="which Google's would not"):
        bucket.first("", 1)
    scripted.respond = lambda handler, number: handler.reply(200, b"0123456789" if "alt=media" in handler.path else SAID)
    assert bucket.read("a", 0, 10)[0] == b"0123456789"
    with pytest.raises(StoreUnavailable, match="takes no notice of the range"):
        bucket.read("a", 0, 4)
    bucket.close()


def test_a_server_that_is_gone_is_an_error_and_no_hang(bucket):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and never answers
        store = GoogleStore(f"//{bucket}", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        store.timeout, store.tries = 0.5, 2
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.connect()
        assert time.monotonic() - began < 10
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.connect()
    assert not store.is_connected()


def test_a_server_that_is_killed_while_we_are_connected_is_an_error(need):
    need("setpriv")
    server = gcs_servers.small()
    try:
        with GoogleStore("//bucket-1", endpoint=server.endpoint) as store:
            store.set("a", (data(b"1"), {}))
            store.freshness = 0.0
            server.stop()
            began = time.monotonic()
            for use in (
                lambda: store.stat("a"),
                lambda: list(store.list("")),
                lambda: store.read("a", 0, 1),
                lambda: store.lookup("a"),
                lambda: store.delete("a"),
                lambda: store.set("b", (data(b""), {})),
                lambda: store._bucket.put("c", data(bytes(SENT)), {}, {}),
                lambda: store._bucket.delete(["a", "b"]),
            ):
                with pytest.raises(StoreUnavailable, match="cannot be reached"):
                    use()
            assert time.monotonic() - began < 30
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("url", "given", "error", "words"),
    [
        ("//missing-one", {}, StoreUnavailable, "^there is no bucket missing-one$"),
        ("//here", {"endpoint": "http://127.0.0.1:1"}, StoreUnavailable, "^bucket here cannot be reached"),
        ("//No_Name", {}, UsageError, "is no bucket of Google's"),
        ("//here", {"endpoint": "http://key@host"}, UsageError, "no credentials in it"),
        ("//here", {"freshness": "soon"}, UsageError, "is no number of seconds"),
        ("//key@here", {}, UsageError, "no credentials in it"),
        ("//", {}, UsageError, "gs://BUCKET/PREFIX"),
    ],
)
def test_what_cannot_be_connected_is_told_in_a_sentence(url, given, error, words, google, slow_to_give_up):
    with pytest.raises(error, match=words):
        GoogleStore(url, **{"endpoint": google.endpoint, **given}).connect()


def test_a_bucket_that_goes_while_we_are_connected_is_told(store, google, bucket):
    store.set("a", (data(b"1"), {}))
    del google.buckets[bucket]
    for use in (lambda: store._bucket.head("a"), lambda: store.read("a", 0, 1), lambda: store._bucket.put("b", data(b""), {}, {}), lambda: store._bucket.put("b", data(bytes(SENT)), {}, {})):
        with pytest.raises(StoreUnavailable, match=f"there is no bucket {bucket}"):
            use()


def test_too_much_metadata_is_refused_and_changes_nothing(store):
    store.set("a", (data(b"1"), {"n": "1"}))
    with pytest.raises(OutOfSpace, match="2048 bytes"):
        store.update_metadata("a", {"long": "x" * 2000})
    assert store.get_metadata("a") == {"n": "1"}


# ---------------------------------------------------------------- credentials


def token(text):
    from google.oauth2.credentials import Credentials

    return Credentials(text)


def test_credentials_can_be_given(google, bucket):
    google.token = "right"
    store = GoogleStore(f"//{bucket}", endpoint=google.endpoint)
    store.connect(token("right"))
    store.set("a", (data(b"1"), {}))
    store.disconnect()
    with pytest.raises(AccessDenied, match="cannot be asked with these credentials"):
        store.connect(token("wrong"))
    with pytest.raises(AccessDenied, match="answers 401: Anonymous caller does not have"):
        store.connect()
    with pytest.raises(UsageError, match="are those of google-auth"):
        store.connect("right")


@pytest.fixture
def over_tls(google, monkeypatch):
    """The server is asked as if it were Google's own."""
    pool = object_gcs_server._pool

    class Pool:
        def __init__(self, http):
            self.http = http

        def urlopen(self, method, url, **given):
            return self.http.urlopen(method, url.replace(object_gcs_server.GOOGLE, google.endpoint), **given)

        def clear(self):
            self.http.clear()

    monkeypatch.setattr(object_gcs_server, "_pool", lambda urllib3, url: Pool(pool(urllib3, url)))


def test_without_credentials_a_store_is_read_only_and_says_so(over_tls, google, bucket, caplog):
    google.write(bucket, {"name": "a"}, b"public", {})
    with joinfs.open_store(f"gs://{bucket}") as store:
        assert (store.to_bytes("a"), store.capabilities.writable) == (b"public", False)
        with pytest.raises(ReadOnly):
            store.set("b", (data(b""), {}))
    assert "is read only, and only what is public can be read: there are no credentials of Google's" in caplog.text
    google.token = "right"
    with pytest.raises(AccessDenied, match="there are no credentials of Google's, so only what is public can be read"):
        joinfs.open_store(f"gs://{bucket}")
    store = GoogleStore(f"//{bucket}")
    store.connect(token("right"))
    assert store.capabilities.writable
    store.disconnect()


def test_application_default_credentials_are_used_over_tls_only(over_tls, google, bucket, monkeypatch, tmp_path):
    asked_for = []

    def default(scopes):
        asked_for.append(scopes[0].rpartition(".")[2])
        return token("right"), "project"

    monkeypatch.setattr("google.auth.default", default)
    google.token = "right"
    with GoogleStore(f"//{bucket}") as store:
        store.set("a", (data(b"1"), {}))
    with joinfs.open_store(f"gs://{bucket}?ro") as store:
        assert store.to_bytes("a") == b"1"
    assert asked_for == ["read_write", "read_only"]
    with pytest.raises(AccessDenied, match="Anonymous caller"):
        joinfs.open_store(f"gs://{bucket}?endpoint={google.endpoint}")


def test_a_file_of_credentials_that_is_none_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(UsageError, match=r"GOOGLE_APPLICATION_CREDENTIALS is of no use: File .*missing\.json was not found"):
        joinfs.open_store("gs://bucket-1")


def test_urls(google, bucket, monkeypatch):
    google.write(bucket, {"name": "a/b/c"}, b"1", {})
    with joinfs.open_store(f"gs://{bucket}/a?endpoint={google.endpoint}&prefix=b&ro&freshness=1") as store:
        assert list(store.keys()) == ["c"]
        assert not store.capabilities.writable
    for place in (google.endpoint, google.endpoint.removeprefix("http://")):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", place)
        with joinfs.open_store(f"gs://{bucket}/a/b/") as store:
            assert (list(store.keys()), store.name) == (["c"], f"gs://{bucket}/a/b/")
            assert place in store.identity


def test_credentials_in_a_url_are_refused_and_not_shown(caplog):
    for wrong in ("gs://KEY:SECRET@bucket/x", "gs://b-1?endpoint=http://KEY:SECRET@host", "gs://b-1?secret=SECRET"):
        with pytest.raises(UsageError) as told:
            joinfs.open_store(wrong)
        assert "SECRET" not in str(told.value) + caplog.text


def test_a_proxy_of_the_environment_is_asked(google, bucket, monkeypatch):
    monkeypatch.setenv("http_proxy", google.endpoint.replace("://", "://user:p%40ss@"))
    who = []
    google.broken = lambda handler, call: who.append((handler.headers["Host"], handler.headers["Proxy-Authorization"]))
    with GoogleStore(f"//{bucket}", endpoint="http://elsewhere.invalid") as store:
        assert list(store.keys()) == []
    assert set(who) == {("elsewhere.invalid", "Basic dXNlcjpwQHNz")}
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        GoogleStore(f"//{bucket}", endpoint="http://elsewhere.invalid").connect()


# ---------------------------------------------------------------- another server


@pytest.fixture
def emulated(google_environment, caplog):
    """gcp-storage-emulator, and Google's own client of it, with a bucket."""
    with contextlib.ExitStack() as ending:
        try:
            endpoint = ending.enter_context(gcs_servers.emulator())
        except ImportError as error:
            lacking(f"gcp-storage-emulator: {error}")
        client = ending.enter_context(contextlib.closing(gcs_servers.client_of(endpoint)))
        yield endpoint, client, client.create_bucket("bucket-1").name


def test_a_server_that_ignores_conditions_is_told_of(emulated, caplog):
    endpoint, client, bucket = emulated
    with GoogleStore(f"//{bucket}", endpoint=endpoint) as store:
        assert store.info()["conditions"] == {"create": False, "replace": False, "copy": False}
    assert "the server ignores conditions" in caplog.text
    assert "two who make one file at once" in caplog.text
    assert list(client.list_blobs(bucket)) == []


def test_what_the_emulator_has_is_asked_for_as_it_has_it(emulated):
    endpoint, client, bucket = emulated
    large = os.urandom(SENT + 1000)
    with GoogleStore(f"//{bucket}/p", endpoint=endpoint) as store:
        store.set("d/a", (data(b"\r\n--content\n\n"), {"k": "v"}))
        store.set("d/large", (data(large), {}))
        store.set_stat("d/a", mode=0o600)
        store.rename("d/a", "d/b")
        assert {name: (stat.mode, stat.size) for name, stat in store.list("d/")} == {"b": (0o100600, 13), "large": (0o100644, len(large))}
        assert (store.to_bytes("d/b"), store.get_metadata("d/b"), store.to_bytes("d/large") == large) == (b"\r\n--content\n\n", {"k": "v"}, True)
        assert (store.read("d/b", 2, 4), client.bucket(bucket).blob("p/d/b").download_as_bytes()) == (b"--co", b"\r\n--content\n\n")
        store._bucket.delete(["p/d/b", "p/d/none"])
        store.delete("d/large")
        assert list(store.keys()) == []
