"""Files of web servers, from a real nginx, and from a server that misbehaves. SEMANTICS.md, Web servers."""

import contextlib
import json
import os
import stat as stat_module
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest

import joinfs
from joinfs.errors import AccessDenied, CorruptStore, NotConnected, StoreUnavailable, UsageError
from joinfs.filesystem.operations import Operations
from joinfs.joined.store import JoinedStore
from joinfs.stores import http_files, http_listing, http_server
from joinfs.stores.http import HTTPStore
from joinfs.stores.http_listing import time_of
from joinfs.stores.memory import MemoryStore
from joinfs.testing import ReadOnlyContract

OLD = 1_500_000_000
ETAG = {"ETag": '"v1"'}


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(http_server, "FIRST_PAUSE", 0.0)


def fill(root, contents):
    for key, content in contents.items():
        path = os.path.join(os.fsencode(root), os.fsencode(key))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (OLD, OLD))


def replace(path, content, time=OLD + 1000):
    path.write_bytes(content)
    os.utime(path, (time, time))


def contents(store):
    return {key: store.to_bytes(key) for key in store.keys()}


class OnNginx(ReadOnlyContract):
    @pytest.fixture(autouse=True)
    def served(self, nginx, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(nginx.certificate))
        fill(nginx.root, self.CONTENTS)
        self.nginx = nginx


class TestHTTP(OnNginx):
    scheme = "http"

    def make_filled(self, place):
        return HTTPStore(self.nginx.url)


class TestHTTPS(OnNginx):
    scheme = "https"

    def make_filled(self, place):
        return HTTPStore(self.nginx.tls_url)


class TestManifest(OnNginx):
    def make_filled(self, place):
        files = [{"name": key, "size": len(content)} for key, content in self.CONTENTS.items()]
        (self.nginx.root / "files.json").write_text(json.dumps(files))
        return HTTPStore(self.nginx.url + "files.json")


class TestManifestOfNames(OnNginx):
    """Nothing is told of them, so the server is asked how long they are."""

    def make_filled(self, place):
        (self.nginx.root / "files.json").write_text(json.dumps(list(self.CONTENTS)))
        return HTTPStore(self.nginx.url + "files.json")


class TestServerWithoutRanges(OnNginx):
    def make_filled(self, place):
        return HTTPStore(self.nginx.url + "whole/")


class TestServerWithoutETags(OnNginx):
    def make_filled(self, place):
        return HTTPStore(self.nginx.url + "noetag/")


class TestServerWithoutVersions(OnNginx):
    def make_filled(self, place):
        return HTTPStore(self.nginx.url + "bare/")


# ---------------------------------------------------------------- what it costs


def test_what_is_listed_is_asked_for_once(nginx):
    fill(nginx.root, {"a": b"0123456789", "d/b": b"bee", "d/s/c": b"sea"})
    with HTTPStore(nginx.url) as store:
        assert sorted(name for name, _ in store.list("")) == ["a", "d"]
        assert store.lookup("a").size == 10
        assert store.stat("d/").is_directory
        assert not store.exists("nothing")
        assert store.get_metadata("a") == {}
        assert nginx.requests() == ["GET / - 200"]
        assert list(store.keys()) == ["a", "d/b", "d/s/c"]
        assert nginx.requests() == ["GET /d/ - 200", "GET /d/s/ - 200"]
        grow_old(store)
        fill(nginx.root, {"new": b""})
        assert store.exists("new")
        assert nginx.requests() == ["GET / - 200"]


def test_a_read_is_one_request_of_its_range(nginx):
    fill(nginx.root, {"a": bytes(range(256)) * 40})
    with HTTPStore(nginx.url) as store:
        nginx.requests()
        assert store.read("a", 256, 5) == b"\0\1\2\3\4"
        assert store.read("a", 10_240, 5) == b""
        with store.get_data_range("a", 3, 6) as stream:
            assert stream.read() == b"\3\4\5"
        with store.get("a").range(7, 9) as stream:
            assert stream.read() == b"\7\b"
        assert nginx.requests() == ["GET /a bytes=256-260 206", "GET /a bytes=3-5 206", "GET /a bytes=7-8 206"]


def test_who_reads_on_is_read_ahead_for(nginx):
    content = os.urandom(20 << 20)
    fill(nginx.root, {"a": content})
    with HTTPStore(nginx.url) as store:
        nginx.requests()
        assert store.to_bytes("a", 1 << 16) == content
        assert len(nginx.requests()) == 5
        with store.get("a") as stream:
            assert stream.read() == content
        assert len(nginx.requests()) == 5
        with store.get_data("a") as stream:
            stream.seek(15_000_000)
            assert stream.read(1000) == content[15_000_000:15_001_000]
            assert stream.read(5_000_000) == content[15_001_000:20_001_000]


def test_sizes_that_are_not_told_are_asked_for_when_they_are_needed(nginx):
    fill(nginx.root, {"a": b"0123456789", "b": b"bee"})
    (nginx.root / "files.json").write_text('["a", {"name": "b", "size": 3}]')
    with HTTPStore(nginx.url + "files.json") as store:
        assert dict(store.list(""))["b"].size == 3
        stat = store.stat("a")
        assert (stat.size, stat.mtime) == (10, OLD * 10**9)
        assert nginx.requests() == ["GET /files.json - 200", "HEAD /a - 200"]


def test_a_server_without_ranges_is_asked_once_for_the_whole(nginx):
    content = os.urandom(3 << 20)
    fill(nginx.root, {"a": content})
    with HTTPStore(nginx.url + "whole/") as store:
        nginx.requests()
        wrong = []

        def read(start):
            for offset in range(start, len(content), 400_000):
                wrong.extend([offset] if store.read("a", offset, 5000) != content[offset : offset + 5000] else [])

        threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert wrong == []
        assert store.to_bytes("a") == content
        assert len(nginx.requests()) == 1


def test_what_was_taken_in_whole_is_compared_with_what_the_server_has(nginx):
    fill(nginx.root, {"a": b"0123456789"})
    with HTTPStore(nginx.url + "whole/") as store:
        store.freshness = 0.0
        assert store.read("a", 2, 3) == b"234"
        grow_old(store)
        assert store.read("a", 2, 3) == b"234"
        assert [line.split()[-1] for line in nginx.requests() if " /whole/a" in line] == ["200", "304"]
        replace(nginx.root / "a", b"abcdefghij")
        grow_old(store)
        assert store.read("a", 2, 3) == b"cde"


def grow_old(store):
    for place, known in store._listings._known.items():
        store._listings._known[place] = known._replace(until=0.0)
    for spool in store._files._spools.values():
        spool.seen_at -= 1000


def test_only_a_few_wholes_are_kept(nginx):
    fill(nginx.root, {f"f{number}": b"x" * 1000 for number in range(20)})
    with HTTPStore(nginx.url + "whole/") as store:
        before = temporary_files()
        for key in store.keys():
            store.read(key, 0, 5)
        assert temporary_files() - before == http_files.MOST_SPOOLS
    assert temporary_files() == before


def temporary_files():
    """How many unnamed files this process has open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum("(deleted)" in link for link in links)


@pytest.mark.parametrize("place", ["", "whole/"])
def test_large_files_go_through_in_bounded_memory(nginx, place):
    with open(nginx.root / "big", "wb") as file:
        file.truncate(200 << 20)
    program = (
        "import re, sys, joinfs\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "store = joinfs.open_store(sys.argv[1])\n"
        "store.read('small', 0, 5)\n"
        "before = peak()\n"
        "store.to_file('big', '/dev/null')\n"
        "print(peak() - before)\n"
    )
    fill(nginx.root, {"small": b"x" * 10})
    done = subprocess.run([sys.executable, "-c", program, nginx.url + place], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10, done.stdout


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize("place", ["", "noetag/"])
def test_a_stream_never_mixes_versions(nginx, place):
    content = bytes(4 << 20)
    fill(nginx.root, {"a": content})
    with HTTPStore(nginx.url + place) as store, store.get_data("a") as stream:
        assert stream.read(10) == bytes(10)
        replace(nginx.root / "a", b"x" * len(content))
        with pytest.raises(StoreUnavailable, match="changed on the server while it was read; open it again"):
            stream.read()
        assert store.read("a", 3 << 20, 5) == b"xxxxx"
        with store.get_data("a") as again:
            assert again.read() == b"x" * len(content)


@pytest.mark.parametrize("place", ["whole/", "bare/"])
def test_a_stream_of_the_whole_stays_at_its_version(nginx, place):
    content = bytes(4 << 20)
    fill(nginx.root, {"a": content})
    with HTTPStore(nginx.url + place) as store, store.get_data("a") as stream:
        replace(nginx.root / "a", b"x")
        assert stream.read() == content


def test_a_deleted_file_is_told_and_then_is_not_there(nginx):
    fill(nginx.root, {"a": bytes(4 << 20), "b": b""})
    with HTTPStore(nginx.url) as store, store.get_data("a") as stream:
        (nginx.root / "a").unlink()
        with pytest.raises(StoreUnavailable, match="changed"):
            stream.read()
        with pytest.raises(KeyError, match="'a'"):
            store.read("a", 0, 5)
        with pytest.raises(KeyError, match="'a'"):
            store.get_data("a")


def test_what_reading_finds_outweighs_the_listing(nginx):
    fill(nginx.root, {"a": b"0123456789", "liar": b"0123456789"})
    (nginx.root / "files.json").write_text('[{"name": "liar", "size": 3}, {"name": "a", "size": 99999}, {"name": "b", "size": -5}]')
    fill(nginx.root, {"b": b"bee"})
    with HTTPStore(nginx.url + "files.json") as store:
        assert store.stat("liar").size == 3
        assert store.to_bytes("liar") == b"0123456789"
        assert store.stat("liar").size == 10
        assert store.read("liar", 8, 5) == b"89"
        assert store.read("a", 500, 10) == b""
        assert store.stat("a").size == 10
        assert store.stat("b").size == 3


def test_what_was_seen_while_it_was_written_is_not_believed_for_long(nginx):
    fill(nginx.root, {"a": b"0123456789"})
    with HTTPStore(nginx.url) as store:
        store.freshness = 0.1
        replace(nginx.root / "a", b"", OLD)
        assert store.read("a", 0, 5) == b""
        assert store.stat("a").size == 0
        replace(nginx.root / "a", b"abcdefghij", OLD)
        time.sleep(0.2)
        assert store.read("a", 0, 5) == b"abcde"
        assert store.stat("a").size == 10


def test_a_new_last_modified_does_not_name_a_version(nginx):
    """It can change again within its second."""
    (nginx.root / "a").write_bytes(bytes(3 << 20))
    os.utime(nginx.root / "a", (2_000_000_000, 2_000_000_000))
    with HTTPStore(nginx.url + "noetag/") as store, store.get_data("a") as stream:
        replace(nginx.root / "a", b"other")
        assert stream.read() == bytes(3 << 20)


def test_a_server_that_ignores_if_range_is_found_out(scripted):
    old, new = b"o" * (4 << 20), b"n" * (4 << 20)
    scripted.respond = lambda h, n: (
        h.reply(body=b'["a"]') if h.path == "/" else h.part(old if n < 3 else new, ETag='"1"' if n < 3 else '"2"')
    )
    with HTTPStore(scripted.url) as store, store.get_data_range("a", 0, None) as stream:
        with pytest.raises(StoreUnavailable, match="changed"):
            stream.read()
            stream.read()
        assert scripted.asked[-1].headers["If-Range"] == '"1"'


# ---------------------------------------------------------------- names and attributes


NAMES = [
    "a b", "p%q", "p%41", "q?x", "h#y", "new\nline", "é☃", "\udcff\udcfe", 'quo"te\\', "a;b&c=d+e", "%%double", "~t", "t~!$'()*,:@[]",
    "d e/f%20/g?", "x" * 255,
]  # fmt: skip


def test_names_are_exact(nginx):
    expected = {name: os.fsencode(name) for name in NAMES}
    fill(nginx.root, expected)
    os.symlink("nowhere", nginx.root / "dangling")
    os.mkfifo(nginx.root / "pipe")
    with HTTPStore(nginx.url) as store:
        assert contents(store) == {("%%%25%25double" if name == "%%double" else name): data for name, data in expected.items()}
        assert {"dangling", "pipe"}.isdisjoint(dict(store.list("")))
    (nginx.root / "files.json").write_bytes(json.dumps(NAMES).encode())
    with HTTPStore(nginx.url + "files.json") as store:
        assert sorted(contents(store).values()) == sorted(expected.values())


def test_names_that_no_file_can_have_are_left_out_and_lead_nowhere(scripted, caplog):
    bad = ["..", ".", "", "/etc/passwd", "a/b", "../x", "d/../../e", "\ud800", 5, None, {}, ["x"], "n" * 300, "nul\0"]
    listing = [{"name": name, "type": "file", "size": 1} for name in [*bad, "%%x", "a", "a"]] + [{"name": "d", "type": "directory"}] * 2
    scripted.respond = lambda h, n: h.reply(body=json.dumps(listing).encode() if h.path == "/" else b"[]" if h.path == "/d/" else b"?")
    with HTTPStore(scripted.url) as store:
        assert {name for name, _ in store.list("")} == {"%%%25%25x", "a", "d"}
        assert store.to_bytes("%%%25%25x") == b"?"
        assert scripted.asked[-1].path == "/%25%25x"
        for key in ("..", "%%%2E%2E", "d/../a", "%%%2E%2E/%%%2E%2E/etc"):
            assert not store.exists(key)
        for key in ("%%%2E%2E/", "%%a%=/", "d/%%%2E%2E/"):
            grow_old(store)
            with pytest.raises(KeyError, match=key):
                list(store.list(key))
    assert f"{len(bad)} names that are left out; the first: '..'" in caplog.text
    assert all(".." not in handler.path for handler in scripted.asked)


def test_a_file_and_a_directory_of_one_name(scripted):
    answers = {"/": b'[{"name": "a", "type": "file", "size": 1}, {"name": "a", "type": "directory"}]', "/a/": b'["in"]', "/a": b"!"}
    scripted.respond = lambda h, n: h.reply(body=answers.get(h.path, b"in"))
    with HTTPStore(scripted.url) as store:
        assert contents(store) == {"%%a%=": b"!", "a/in": b"in"}


def test_attributes_of_a_listing(nginx):
    fill(nginx.root, {"d/a": b"1"})
    os.utime(nginx.root / "d", (OLD, OLD))
    with HTTPStore(nginx.url) as store:
        file, directory = store.stat("d/a"), store.stat("d/")
        assert (file.mode, file.mtime, file.uid) == (stat_module.S_IFREG | 0o644, OLD * 10**9, os.geteuid())
        assert (directory.mode, directory.mtime, directory.implied) == (stat_module.S_IFDIR | 0o755, OLD * 10**9, True)
        assert store.stat("").implied


def test_a_manifest_tells_what_a_listing_cannot(nginx):
    fill(nginx.root, {"a/b": b"data", ".dot": b"dot"})
    manifest = [
        {"name": "a/b", "size": 4, "mtime": 1500000000.5, "mode": "4751", "metadata": {"k": [1], "joinfs.x": 1}},
        {"name": "empty/", "mtime": "2017-07-14T02:40:00+00:00", "mode": "700"}, "./.dot", {"name": "../up"}, "x/" * 200,
    ]  # fmt: skip
    (nginx.root / "m.json").write_text("\N{BYTE ORDER MARK}" + json.dumps(manifest))
    with HTTPStore(nginx.url + "m.json") as store:
        assert {name for name, _ in store.list("")} == {"a", "empty", ".dot"}
        stat = store.stat("a/b")
        assert (stat.mode, stat.size, stat.mtime) == (stat_module.S_IFREG | 0o751, 4, OLD * 10**9 + 500_000_000)
        assert store.get_metadata("a/b") == {"k": [1]}
        assert store.get_metadata("a/b", ["none"]) == {}
        assert [store.to_bytes(key) for key in ("a/b", ".dot")] == [b"data", b"dot"]
        assert (store.stat("empty/").mode, store.stat("empty/").implied) == (stat_module.S_IFDIR | 0o700, False)
        assert list(store.list("empty/")) == []
        assert store.stat("a/").implied


def test_a_manifest_is_compared_not_fetched_again(nginx):
    fill(nginx.root, {"m.json": b'["a"]', "a": b"1"})
    with HTTPStore(nginx.url + "m.json") as store:
        grow_old(store)
        assert store.exists("a")
        assert nginx.requests() == ["GET /m.json - 200", "GET /m.json - 304", "HEAD /a - 200"]


def test_times():
    for text in ("Fri, 14 Jul 2017 02:40:00 GMT", "2017-07-14T02:40:00Z", "2017-07-14T04:40:00+02:00", "2017-07-14T02:40:00"):
        assert time_of(text) == OLD * 10**9
    for text in ("", "yesterday", "Fri, 99 Jul 2017", "9" * 50, "0000-00-00"):
        assert time_of(text) is None


# ---------------------------------------------------------------- servers that fail


def test_a_failure_that_is_over_in_a_moment_is_not_seen(scripted):
    scripted.respond = lambda h, n: h.reply(503, Retry_After="0") if n % 3 < 2 else h.reply(body=b'["a"]') if h.path == "/" else h.part(b"x" * 10)
    with HTTPStore(scripted.url) as store:
        assert store.read("a", 2, 3) == b"xxx"
        assert len(scripted.asked) == 6


def test_a_body_that_breaks_off_is_asked_for_again_and_never_short(scripted):
    body = os.urandom(3 << 20)

    def respond(handler, number):
        if handler.path == "/":
            return handler.reply(body=json.dumps([{"name": "a", "size": len(body)}]).encode())
        first, end = handler.range()
        end = min(end, len(body))
        sent = 1000 if number % 2 or scripted.broken else None
        return handler.reply(206, body[first:end], sent, Content_Range=f"bytes {first}-{end - 1}/{len(body)}", **ETAG)

    scripted.respond, scripted.broken = respond, False
    with HTTPStore(scripted.url) as store:
        assert store.to_bytes("a") == body
        assert store.read("a", 5, 2_000_000) == body[5:2_000_005]
        scripted.broken = True
        with pytest.raises(StoreUnavailable, match="without sending complete message body"):
            store.read("a", 0, 2_000_000)


@pytest.mark.parametrize("length", [None, "5"])
def test_a_body_without_an_end_is_no_whole_file(scripted, length):
    """A server that closes the connection at the end of the file, or too early: who can tell?"""
    scripted.respond = lambda h, n: h.reply(body=b'[{"name": "a", "size": 10}]') if h.path == "/" else h.reply(body=b"01234", Content_Length=length)
    with HTTPStore(scripted.url) as store:
        if length is None:
            with pytest.raises(StoreUnavailable, match="whether that is all"):
                store.read("a", 0, 5)
        else:
            assert store.read("a", 0, 10) == b"01234"
            assert store.stat("a").size == 5


def test_a_server_may_send_less_of_a_range_than_asked_for(scripted):
    def respond(handler, number):
        if handler.path == "/":
            return handler.reply(body=b'[{"name": "a", "size": 10}]')
        first, end = handler.range()
        end = min(end, first + 3, 10)
        return handler.reply(206, b"0123456789"[first:end], Content_Range=f"bytes {first}-{end - 1}/10", **ETAG)

    scripted.respond = respond
    with HTTPStore(scripted.url) as store:
        assert store.read("a", 1, 8) == b"12345678"
        assert store.to_bytes("a") == b"0123456789"


@pytest.mark.parametrize("told", [None, "bytes 0-4/*", "bytes 5-9/10", "nonsense", "bytes 0-999999999999999999999/5", "bytes 4-0/10", "bytes 0-4/9999999999999999999"])
def test_ranges_that_make_no_sense_are_no_data(scripted, told):
    def respond(handler, number):
        if handler.path == "/":
            return handler.reply(body=b'[{"name": "a", "size": 10}]')
        if "Range" in handler.headers:
            return handler.reply(206, b"56789", Content_Range=told, **ETAG)
        return handler.reply(body=b"0123456789", **ETAG)

    scripted.respond = respond
    with HTTPStore(scripted.url) as store:
        if told in {"bytes 5-9/10", "bytes 4-0/10"}:
            with pytest.raises(StoreUnavailable, match="answers with those from"):
                store.read("a", 0, 5)
        else:
            assert store.read("a", 0, 5) == b"01234"


def hang(handler, number):
    handler.server.ended.wait()


def drip_body(handler, number):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not handler.server.ended.wait(0.1):
        handler.wfile.write(b" ")


@pytest.mark.parametrize("respond", [hang, drip_body])
def test_a_server_that_sends_next_to_nothing_is_given_up(scripted, respond):
    scripted.respond = respond
    store = HTTPStore(scripted.url)
    store.timeout, store.tries = 2.0, 2
    with pytest.raises(StoreUnavailable, match=r"cannot be read: .*(timed out|next to nothing)"):
        store.connect()
    assert not store.is_connected()
    assert len(scripted.asked) == 2


def test_what_cannot_be_reached_is_told(nginx):
    (nginx.root / "index.html").write_text("<html>a page</html>")
    for place, error, words in (
        ("nothing/", StoreUnavailable, "there is nothing at"), ("gone/", StoreUnavailable, "there is nothing at"),
        ("busy/", StoreUnavailable, "status 503"), ("teapot/", StoreUnavailable, "status 418"),
        ("", CorruptStore, "text/html.*autoindex_format json"), ("page/", CorruptStore, "text/html.*manifest"),
        ("secret/", AccessDenied, "name and a password"), ("loop/", StoreUnavailable, "one redirect to the next"),
        ("local/", StoreUnavailable, "redirects to file:"), ("none.json", StoreUnavailable, "nothing at"),
    ):  # fmt: skip
        store = HTTPStore(nginx.url + place)
        with pytest.raises(error, match=words):
            store.connect()
        assert not store.is_connected()
    (nginx.root / "index.html").unlink()
    with pytest.raises(AccessDenied, match=r"forbidden.*autoindex_format json"):
        HTTPStore(nginx.url + "unlisted/").connect()
    nginx_port = nginx.url.rsplit(":", 1)[1].strip("/")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        HTTPStore(f"https://127.0.0.1:{nginx_port}/").connect()
    with pytest.raises(StoreUnavailable, match=r"[Cc]ertificate"):
        HTTPStore(nginx.tls_url).connect()


def test_nobody_listening_is_told(scripted):
    scripted.server_close()
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        HTTPStore(scripted.url).connect()


def test_a_file_that_we_may_not_have(scripted):
    scripted.respond = lambda h, n: h.reply(body=b'[{"name": "a", "size": 1}, "b", {"name": "d", "type": "directory"}]') if h.path == "/" else h.reply(403)
    with HTTPStore(scripted.url) as store:
        for ask in (lambda: store.read("a", 0, 1), lambda: store.get_data("a"), lambda: store.stat("b"), lambda: list(store.list("d/"))):
            with pytest.raises(AccessDenied, match="forbidden"):
                ask()


def test_what_is_disconnected_is_not_read_any_more(nginx):
    fill(nginx.root, {"a": bytes(4 << 20)})
    store = joinfs.open_store(nginx.url)
    with store.get_data("a") as stream:
        store.disconnect()
        with pytest.raises(NotConnected, match="was disconnected"):
            stream.read()


def test_tags_that_cannot_be_sent_back_are_none(scripted):
    body = bytes(range(256)) * 16_384
    scripted.respond = lambda h, n: h.reply(body=b'["a"]') if h.path == "/" else h.part(body, ETag='"\xe9"') if "Range" in h.headers else h.reply(body=body, ETag='"\xe9"')
    with HTTPStore(scripted.url) as store:
        assert store.to_bytes("a") == body


def test_head_need_not_be_there(scripted):
    scripted.respond = lambda h, n: h.reply(405) if h.command == "HEAD" else h.reply(body=b'["a"]') if h.path == "/" else h.part(b"12345")
    with HTTPStore(scripted.url) as store:
        assert store.stat("a").size == 5


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"5", b'"x"', b"{}", b'{"files": 3}', b"[5 6]", b"[NaN]", b"[" * 100_000, b"[" + b"9" * 10_000 + b"]", b'["a"', b"\xff"]
)
def test_what_is_no_listing_is_told(scripted, body):
    scripted.respond = lambda h, n: h.reply(body=body)
    with pytest.raises(CorruptStore, match=r"is no listing.*manifest"):
        HTTPStore(scripted.url).connect()


def test_enormous_listings_are_refused(scripted, monkeypatch):
    monkeypatch.setattr(http_listing, "MOST_LISTING", 1000)
    scripted.respond = lambda h, n: h.reply(body=b" " * 1001)
    with pytest.raises(StoreUnavailable, match="more than the 1000 bytes"):
        HTTPStore(scripted.url).connect()
    monkeypatch.undo()
    monkeypatch.setattr(http_listing, "MOST_NAMES", 1000)
    for names in ([f"{n}/" + "a/" * 90 for n in range(30)], [f"f{n}" for n in range(1001)], [[]] * 1001, ["a"] * 1001):
        scripted.respond = lambda h, n, names=names: h.reply(body=json.dumps(names).encode())
        with pytest.raises(CorruptStore, match="more than 1000 names"):
            HTTPStore(scripted.url + "m.json").connect()


def test_names_of_deep_directories_take_bounded_memory(scripted):
    deep = "/".join(["x" * 40] * 90)
    names = json.dumps([f"{n}/{deep}" for n in range(1500)]).encode()
    scripted.respond = lambda h, n: h.reply(body=names)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptStore, match="directories of long names"):
            HTTPStore(scripted.url + "m.json").connect()
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


def test_a_listing_that_breaks_off_is_no_listing(scripted):
    scripted.respond = lambda h, n: h.reply(body=b'["a", "b"]     ', sent=10)
    with pytest.raises(StoreUnavailable, match="complete"):
        HTTPStore(scripted.url).connect()


def test_what_is_compressed_against_our_will_is_refused(nginx):
    fill(nginx.root, {"a": b"0123456789"})
    (nginx.root / "compressed.json").write_text('[{"name": "compressed/a", "size": 99}]')
    with HTTPStore(nginx.url + "compressed.json") as store, pytest.raises(StoreUnavailable, match="compresses it"):
        store.read("compressed/a", 0, 5)
    with HTTPStore(nginx.url + "compressed/") as store:
        assert store.to_bytes("a") == b"0123456789"  # as servers call FILE.tar.gz


# ---------------------------------------------------------------- credentials and redirects


def test_credentials_are_used_and_not_shown(nginx, caplog):
    caplog.set_level("DEBUG")
    fill(nginx.root, {"a": b"1"})
    with pytest.raises(StoreUnavailable) as told:
        HTTPStore(nginx.url.replace("//", "//jo:wr%2Fong@") + "secret/").connect()
    assert "wr" not in str(told.value).replace("were", "")
    with HTTPStore(nginx.url.replace("//", "//jo:p%40ss@") + "secret/") as store:
        assert store.to_bytes("a") == b"1"
        assert store.name == nginx.url + "secret/"
        assert "p%40ss" not in repr(store) + str(store.info())
    assert "ss@" not in caplog.text
    assert "p%40ss" not in caplog.text
    store = HTTPStore(nginx.url + "secret/")
    store.connect(("jo", "p@ss"))
    assert store.to_bytes("a") == b"1"
    store.disconnect()
    store = HTTPStore(nginx.url + "token/")
    store.connect("t0ken")
    assert store.to_bytes("a") == b"1"
    store.disconnect()
    with pytest.raises(UsageError, match="credentials"):
        store.connect(5)


def test_credentials_of_netrc(nginx, tmp_path, monkeypatch):
    fill(nginx.root, {"a": b"1"})
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login jo password p@ss\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with HTTPStore(nginx.url + "secret/") as store:
        assert store.to_bytes("a") == b"1"


def test_redirects_are_followed_and_credentials_stay_behind(nginx, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.certificate))
    fill(nginx.root, {"a": b"1"})
    with HTTPStore(nginx.url + "moved/") as store:
        assert store.to_bytes("a") == b"1"
    store = HTTPStore(nginx.url + "elsewhere/")
    store.connect("t0ken")
    assert dict(store._listings.children("")) == {"a=": False}
    store.disconnect()
    with pytest.raises(StoreUnavailable, match="redirects to http:"):
        HTTPStore(nginx.tls_url + "down/").connect()


# ---------------------------------------------------------------- as a store among others


def test_stores_of_the_web_open_by_url(nginx):
    fill(nginx.root, {"d e/100%/a": b"1", "m.json": b'["d e/100%/a"]'})
    for spec, key in (("", "d e/100%/a"), ("d%20e/100%25/?ro", "a"), ("d%20e/100%25", "a"), ("?prefix=d e/100%25", "a"), ("m.json?prefix=d e", "100%/a")):
        with joinfs.open_store(nginx.url + spec) as store:
            assert store.to_bytes(key) == b"1"


@pytest.mark.parametrize("url", ["http:", "http:///x", "http://", "http://h:port/", "http://[::1/", "ftp://h/", "http://u:secret@h:port/", "http://h/?q=1", "http://h/#f"])
def test_what_is_no_url_is_told(url):
    with pytest.raises(UsageError) as told:
        HTTPStore(url)
    assert "secret" not in str(told.value)


def test_without_the_library_it_says_which(nginx, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match=r"pip install 'joinfs\[http\]'"):
        joinfs.open_store(nginx.url)


def test_importing_joinfs_imports_no_library():
    program = "import sys, joinfs, joinfs.stores.http; joinfs.stores.http.HTTPStore('http://h/'); print('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"


def test_in_a_join_files_are_copied_up(nginx):
    fill(nginx.root, {"a": b"0123456789", "d/b": b"bee"})
    with JoinedStore([MemoryStore(), HTTPStore(nginx.url)]) as store:
        store.set_stat("d/b", mode=0o600)
        store.set_metadata("a", {"k": "v"})
        store.delete("d/b")
        assert (store.to_bytes("a"), store.get_metadata("a"), store.stat("a").mtime) == (b"0123456789", {"k": "v"}, OLD * 10**9)
        assert list(store.keys()) == ["a"]
    assert (nginx.root / "d" / "b").read_bytes() == b"bee"


def test_what_is_staged_to_be_written_is_of_one_version(scripted, tmp_path):
    """The file changes on the server after its third range. SEMANTICS.md, Web servers."""
    size = 8 << 20

    def respond(handler, number):
        if handler.path == "/":
            return handler.reply(body=b'[{"name": "a", "size": %d}]' % size)
        scripted.ranges += 1
        version = b"o" if scripted.ranges <= 3 else b"n"
        tag = f'"{version.decode()}"'
        if handler.headers.get("If-Range", tag) != tag:
            return handler.reply(body=version * size, ETag=tag)
        return handler.part(version * size, ETag=tag)

    scripted.respond, scripted.ranges = respond, 0
    with JoinedStore([joinfs.open_store(f"sqlite:{tmp_path}/up.db"), HTTPStore(scripted.url)]) as store:
        operations = Operations(store)
        handle = operations.open(operations.walk(["a"]), os.O_RDWR)
        with pytest.raises(StoreUnavailable, match="changed"):
            operations.write(handle, 0, b"mine")
        operations.release(handle)
        assert store.to_bytes("a") == b"n" * size
        operations.close()
