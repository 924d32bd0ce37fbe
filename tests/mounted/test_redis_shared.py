"""Two mounts of one first store on a Redis server, as on two machines. SEMANTICS.md, Several machines."""

import fcntl
import io
import os
import threading
import time

import pytest

from joinfs.stores.redis_store import RedisStore

PATIENCE = 20
pytestmark = [
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("driver", ["devfuse"], indirect=True),
    pytest.mark.usefixtures("driver", "user"),
]


@pytest.fixture
def url(redis_server):
    return redis_server.url()


@pytest.fixture
def both(url, mount, scratch):
    """Two mounts, by two processes."""
    (scratch / "lower" / "low").mkdir(parents=True)
    (scratch / "lower" / "low" / "file").write_bytes(b"lower")
    with mount(url, scratch / "lower", at="one") as one, mount(url, scratch / "lower", at="two") as two:
        yield one, two


def until(holds, patience=PATIENCE):
    """Wait for what the other mount is told; answer how long that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < patience
        time.sleep(0.002)
    return time.monotonic() - began


def read(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def test_what_one_writes_the_other_sees(both):
    one, two = both
    took = []
    for n in range(10):
        content = b"number %d " % n * 1000
        (one / "a").write_bytes(content)
        took.append(until(lambda content=content: read(two / "a") == content))
        assert (two / "a").stat().st_size == len(content)
    assert sorted(took)[5] < 1, took


def test_what_one_makes_moves_and_deletes_the_other_sees(both):
    one, two = both
    assert sorted(os.listdir(two)) == ["low"]
    (one / "d" / "s").mkdir(parents=True)
    (one / "d" / "s" / "f").write_bytes(b"f")
    until(lambda: read(two / "d" / "s" / "f") == b"f")
    (one / "d").rename(one / "e")
    until(lambda: not (two / "d").exists() and read(two / "e" / "s" / "f") == b"f")
    os.link(two / "e" / "s" / "f", two / "g")
    until(lambda: (one / "g").exists() and (one / "e" / "s" / "f").stat().st_nlink == 2)
    assert (one / "g").stat().st_ino == (one / "e" / "s" / "f").stat().st_ino
    (one / "low" / "file").unlink()
    until(lambda: os.listdir(two / "low") == [])
    (two / "low" / "file").write_bytes(b"again")
    until(lambda: read(one / "low" / "file") == b"again")
    os.chmod(one / "g", 0o600)
    until(lambda: (two / "g").stat().st_mode & 0o777 == 0o600)


def test_who_closes_first_is_seen_whole_by_who_opens_then(both):
    one, two = both
    (one / "a").write_bytes(b"old" * 100_000)
    until(lambda: read(two / "a") == b"old" * 100_000)
    with (one / "a").open("wb") as file:
        for _ in range(10):
            file.write(b"new" * 100_000)
            file.flush()
            assert set((two / "a").read_bytes()) in ({*b"old"}, {*b"new"})
    until(lambda: read(two / "a") == b"new" * 1_000_000)


def test_of_two_who_write_one_file_one_is_there_whole(both, url):
    one, two = both
    size = 300_000
    (one / "shared").write_bytes(b"a" * size)
    until(lambda: read(two / "shared") == b"a" * size)
    wrong = []

    def write(place, letter):
        for _ in range(20):
            with (place / "shared").open("wb") as file:
                for _ in range(10):
                    file.write(letter * (size // 10))

    writers = [threading.Thread(target=write, args=pair) for pair in ((one, b"a"), (two, b"b"))]
    for writer in writers:
        writer.start()
    with RedisStore(url) as store:
        while any(writer.is_alive() for writer in writers):
            content = store.to_bytes("shared")
            if content not in {b"a" * size, b"b" * size, b""}:  # b"": who opens it to write it anew has cut it
                wrong.append((len(content), set(content)))
        for writer in writers:
            writer.join()
        assert wrong == []
        last = store.to_bytes("shared")
    assert last in {b"a" * size, b"b" * size}
    until(lambda: read(one / "shared") == read(two / "shared") == last)


def test_locks_are_each_mounts_own(both):
    one, two = both
    (one / "a").touch()
    until((two / "a").exists)
    with (one / "a").open("rb+") as file, (one / "a").open("rb+") as again, (two / "a").open("rb+") as other:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_store_writes_shows_in_both(both, url):
    one, two = both
    assert not (one / "new").exists()
    assert not (two / "new").exists()
    with RedisStore(url) as store:
        store.set("new", (io.BytesIO(b"1"), {"colour": "red"}))
    for place in both:
        until(lambda place=place: read(place / "new") == b"1")
        assert os.getxattr(place / "new", "user.colour") == b"red"
