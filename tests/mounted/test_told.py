"""What others change shows in a mount at once, although the kernel believes for long what it was told.

Mounts of this process, which also writes to the store; and others, who change the directories behind it.
SEMANTICS.md, Changes by others; What others change; Mounting from Python.
"""

import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
import time

import pytest

import joinfs
from joinfs.drivers import wire

pytestmark = [pytest.mark.parametrize("driver", ["devfuse"], indirect=True), pytest.mark.usefixtures("driver")]
PATIENCE = 20


@pytest.fixture
def lower(tmp_path):
    place = tmp_path / "lower"
    (place / "d" / "s").mkdir(parents=True)
    (place / "f").write_bytes(b"lower f")
    (place / "d" / "g").write_bytes(b"lower g")
    (place / "d" / "s" / "h").write_bytes(b"lower h")
    return place


@pytest.fixture(params=["directory", "sqlite"])
def store(request, tmp_path, lower):
    (tmp_path / "upper").mkdir()
    upper = joinfs.DirectoryStore(tmp_path / "upper") if request.param == "directory" else joinfs.SQLiteStore(tmp_path / "upper.db")
    return joinfs.JoinedStore([upper, joinfs.DirectoryStore(lower)])


@pytest.fixture
def mounted(store, mnt):
    with store, joinfs.mount(store, mnt, driver="devfuse"):
        yield mnt


def put(store, key, data):
    store.set(key, (io.BytesIO(data), {}))


def until(holds, patience=PATIENCE):
    """Wait for what is told by no event."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def read(path):
    """What is in a file; None where there is none (by now)."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def look(place):
    """Have the kernel know everything there is, and that some names are not there."""
    for directory, _, files in os.walk(place):
        for name in [*files, "new", "e"]:
            with contextlib.suppress(FileNotFoundError):
                os.stat(os.path.join(directory, name))
            read(os.path.join(directory, name)) if name in files else None


# -------------------------------------------------------------------- through the store, in Python


def test_data_that_python_sets(store, mounted):
    look(mounted)
    for key in ("f", "d/g", "d/s/h"):
        for data in (b"longer than it was", b"short", b"SHORT"):
            put(store, key, data)
            assert read(mounted / key) == data
            assert (mounted / key).stat().st_size == len(data)
    store.set_data("f", io.BytesIO(b"data alone"))
    assert read(mounted / "f") == b"data alone"
    store.set_stat("f", mode=0o600)
    assert (mounted / "f").stat().st_mode & 0o7777 == 0o600


def test_names_that_python_makes_and_deletes(store, mounted):
    look(mounted)
    assert sorted(os.listdir(mounted / "d")) == ["g", "s"]
    put(store, "new", b"new")
    put(store, "d/new", b"new in d")
    assert (mounted / "new").stat().st_size == 3
    assert read(mounted / "d" / "new") == b"new in d"
    assert sorted(os.listdir(mounted)) == ["d", "f", "new"]
    assert sorted(os.listdir(mounted / "d")) == ["g", "new", "s"]
    store.delete("d/new")
    store.delete("d/g")
    assert not (mounted / "d" / "new").exists()
    assert read(mounted / "d" / "g") is None
    assert os.listdir(mounted / "d") == ["s"]
    put(store, "d/g", b"there again")
    assert read(mounted / "d" / "g") == b"there again"
    assert sorted(os.listdir(mounted / "d")) == ["g", "s"]


def test_what_python_renames(store, mounted):
    look(mounted)
    store.rename("f", "d/new")
    assert read(mounted / "f") is None
    assert read(mounted / "d" / "new") == b"lower f"
    store.rename("d/", "e/")
    assert sorted(os.listdir(mounted)) == ["e"]
    assert not (mounted / "d").exists()
    assert read(mounted / "e" / "s" / "h") == b"lower h"
    assert read(mounted / "e" / "new") == b"lower f"
    put(store, "d/s/h", b"another")
    assert read(mounted / "d" / "s" / "h") == b"another"
    store.exchange("d/", "e/")
    assert read(mounted / "e" / "s" / "h") == b"another"
    assert sorted(os.listdir(mounted / "d")) == ["g", "new", "s"]


def test_a_transaction_shows_at_its_end(store, mounted):
    look(mounted)
    with store.transaction("several"):
        put(store, "f", b"changed")
        put(store, "new", b"new")
        store.delete("d/g")
    assert read(mounted / "f") == b"changed"
    assert read(mounted / "new") == b"new"
    assert os.listdir(mounted / "d") == ["s"]


def test_what_the_mount_and_python_do_in_turn(store, mounted):
    for turn in range(20):
        data = b"turn %d " % turn * (turn + 1)
        (mounted / "d" / "g").write_bytes(data)
        assert store.to_bytes("d/g") == data
        put(store, "d/g", data[::-1])
        assert read(mounted / "d" / "g") == data[::-1]
        assert (mounted / "d" / "g").stat().st_size == len(data)


def test_what_is_mapped_into_memory_is_what_python_wrote(store, mounted):
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:\n"
        "    print(mapped[:].decode())\n"
    )
    for data in (b"mapped", b"mapped again", b"MAPPED again"):
        put(store, "d/g", data)
        done = subprocess.run([sys.executable, "-c", program, mounted / "d" / "g"], capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert done.stdout == data.decode() + "\n"


# -------------------------------------------------------------------- behind the mount


def test_what_others_change_in_a_lower_directory(mounted, lower):
    look(mounted)
    with (lower / "f").open("ab") as file:
        file.write(b" and more")
    (lower / "d" / "s" / "h").write_bytes(b"LOWER H")  # as long as it was
    until(lambda: read(mounted / "f") == b"lower f and more")
    until(lambda: (mounted / "f").stat().st_size == 16)
    until(lambda: read(mounted / "d" / "s" / "h") == b"LOWER H")
    (lower / "d" / "g").chmod(0o600)
    until(lambda: (mounted / "d" / "g").stat().st_mode & 0o777 == 0o600)


def test_names_that_others_make_and_remove_in_a_lower_directory(mounted, lower):
    look(mounted)
    (lower / "new").write_bytes(b"new")
    (lower / "d" / "new").mkdir()
    (lower / "d" / "g").unlink()
    until(lambda: read(mounted / "new") == b"new")
    until(lambda: sorted(os.listdir(mounted)) == ["d", "f", "new"])
    until(lambda: (mounted / "d" / "new").is_dir())
    until(lambda: not (mounted / "d" / "g").exists())
    until(lambda: sorted(os.listdir(mounted / "d")) == ["new", "s"])
    (lower / "d" / "new" / "below").write_bytes(b"below")
    until(lambda: read(mounted / "d" / "new" / "below") == b"below")


def test_a_file_that_others_replace(mounted, lower):
    look(mounted)
    (lower / "aside").write_bytes(b"another file")
    os.replace(lower / "aside", lower / "f")
    until(lambda: read(mounted / "f") == b"another file")
    until(lambda: sorted(os.listdir(mounted)) == ["d", "f"])


def test_a_file_that_others_replace_while_it_is_open(mounted, lower):
    look(mounted)
    with open(mounted / "f", "rb") as before:
        assert before.read(5) == b"lower"
        (lower / "aside").write_bytes(b"another file")
        os.replace(lower / "aside", lower / "f")
        until(lambda: read(mounted / "f") == b"another file")
        assert before.read() == b" f"
        before.seek(0)
        assert before.read() == b"lower f"
        (mounted / "f").write_bytes(b"ours")
        assert read(mounted / "f") == b"ours"
    assert read(lower / "f") == b"another file"


def test_a_name_that_others_give_to_other_files_all_the_time_is_never_denied(mounted, lower, tmp_path):
    program = "import os, sys\nfor n in range(3000):\n    open('new', 'w').write(str(n))\n    os.rename('new', sys.argv[1])\n"
    path = mounted / "d" / "g"
    with subprocess.Popen([sys.executable, "-c", program, lower / "d" / "g"], cwd=tmp_path) as others:
        while others.poll() is None:
            try:
                assert path.stat().st_size
                path.read_bytes()
            except OSError as error:
                if error.errno != errno.ESTALE:  # the kernel looks again once, no more
                    raise
    until(lambda: path.read_text() == "2999")
    os.link(path, mounted / "link")
    assert (mounted / "link").read_text() == "2999"


def test_a_file_that_python_replaces_while_it_is_open(store, mounted):
    put(store, "d/new", b"before")
    with open(mounted / "d" / "new", "rb") as before:
        assert before.read(3) == b"bef"
        put(store, "d/new", b"after it")
        assert read(mounted / "d" / "new") == b"after it"


def unless_stale(see, allowed):
    """What is seen, if it is not just that moment that it has become another file."""
    try:
        seen = see()
    except OSError as error:
        if error.errno not in {errno.ESTALE, errno.EIO}:
            raise
        return None
    assert seen in allowed
    return seen


@pytest.mark.parametrize("passthrough", [True, False])
def test_a_file_that_others_cut_shows_no_zeros(store, mnt, lower, passthrough):
    """Where the kernel caches writes it believes no size but its own."""
    with store, joinfs.mount(store, mnt, driver="devfuse", passthrough=passthrough):
        for turn in range(8):
            whole = b"%d long enough for two pages " % turn * 300
            (lower / "f").write_bytes(whole)
            until(lambda whole=whole: read(mnt / "f") == whole, 5)
            with open(mnt / "f", "rb", buffering=0) as before:
                assert before.read(1) == whole[:1]
                with open(lower / "f", "r+b") as file:
                    file.truncate(7)
                until(lambda whole=whole: unless_stale(lambda: read(mnt / "f"), {whole, whole[:7]}) == whole[:7], 5)
                unless_stale(lambda before=before: before.read(1 << 16), {whole[1:], whole[1:7]})


def test_a_directory_that_others_rename(mounted, lower):
    look(mounted)
    (lower / "d").rename(lower / "e")
    until(lambda: sorted(os.listdir(mounted)) == ["e", "f"])
    until(lambda: not (mounted / "d").exists())
    until(lambda: read(mounted / "e" / "s" / "h") == b"lower h")
    (lower / "e" / "s" / "h").write_bytes(b"changed")
    until(lambda: read(mounted / "e" / "s" / "h") == b"changed")


def test_a_directory_that_others_replace(mounted, lower):
    for turn in range(5):
        look(mounted)
        (lower / "d").rename(lower / f"old {turn}")
        until(lambda: not (mounted / "d").exists(), 5)
        (lower / "d" / "s").mkdir(parents=True)
        (lower / "d" / "s" / "h").write_bytes(b"of directory %d" % turn)
        until(lambda turn=turn: read(mounted / "d" / "s" / "h") == b"of directory %d" % turn, 5)


@pytest.fixture(params=[wire.EPOCH_MINOR, wire.NEWEST_MINOR + 1], ids=["epochs", "none"])
def epochs(request, monkeypatch):
    """Kernels before 6.16 cannot be told to look up every name anew."""
    monkeypatch.setattr(wire, "EPOCH_MINOR", request.param)


def test_a_directory_that_others_replace_while_what_is_in_it_is_open(epochs, mounted, lower):
    """The kernel keeps a name that is in use, and those above it, and brings them back with the new directory."""
    look(mounted)
    with open(mounted / "d" / "s" / "h", "rb", buffering=0) as held:
        (lower / "d").rename(lower / "old")
        until(lambda: not (mounted / "d").exists(), 5)
        (lower / "d" / "s").mkdir(parents=True)
        (lower / "d" / "s" / "h").write_bytes(b"of the new one")
        until(lambda: read(mounted / "d" / "s" / "h") == b"of the new one", 5)
        held.seek(0)
        assert held.read() in {b"lower h", b"of the new one"}


def test_a_name_that_others_give_to_one_thing_after_another(mounted, lower):
    for turn in range(5):
        look(mounted)
        shutil.rmtree(lower / "d")
        until(lambda: not (mounted / "d").exists(), 5)
        (lower / "d").write_bytes(b"a file by now")
        until(lambda: read(mounted / "d") == b"a file by now", 5)
        (lower / "d").unlink()
        until(lambda: not (mounted / "d").exists(), 5)
        (lower / "d").mkdir()
        (lower / "d" / "g").write_bytes(b"%d" % turn)
        until(lambda turn=turn: read(mounted / "d" / "g") == b"%d" % turn, 5)


@pytest.mark.parametrize("store", ["directory"], indirect=True)
def test_what_others_change_in_the_first_directory(mounted, tmp_path):
    upper = tmp_path / "upper"
    look(mounted)
    (upper / "f").write_bytes(b"hides the lower one")
    until(lambda: read(mounted / "f") == b"hides the lower one")
    (upper / "d").mkdir()
    (upper / "d" / "new").write_bytes(b"new")
    until(lambda: read(mounted / "d" / "new") == b"new")
    until(lambda: sorted(os.listdir(mounted / "d")) == ["g", "new", "s"])
    (upper / "d" / ".wh.g").touch()
    until(lambda: not (mounted / "d" / "g").exists())
    assert read(mounted / "d" / "s" / "h") == b"lower h"


def test_what_others_put_into_a_database(mnt, tmp_path, lower):
    with (
        joinfs.JoinedStore([joinfs.MemoryStore(), joinfs.SQLiteStore(tmp_path / "lower.db"), joinfs.DirectoryStore(lower)]) as store,
        joinfs.SQLiteStore(tmp_path / "lower.db") as other,
        joinfs.mount(store, mnt, driver="devfuse"),
    ):
        look(mnt)
        put(other, "f", b"from the database")
        put(other, "d/new", b"new")
        until(lambda: read(mnt / "f") == b"from the database")
        until(lambda: read(mnt / "d" / "new") == b"new")
        other.delete("f")
        until(lambda: read(mnt / "f") == b"lower f")


# -------------------------------------------------------------------- where nobody tells


class Silent(joinfs.DirectoryStore):
    """A directory of which nobody is told what others do in it, as of one on a server."""

    def watch(self, directory):
        return False


@pytest.mark.parametrize("ttl", [0, 0.2])
def test_where_nobody_tells_the_kernel_asks_again(mnt, lower, ttl):
    with joinfs.JoinedStore([joinfs.MemoryStore(), Silent(lower)], directory_ttl=0) as store:
        with joinfs.mount(store, mnt, driver="devfuse", lower_ttl=ttl):
            look(mnt)
            (lower / "f").write_bytes(b"changed")
            (lower / "new").write_bytes(b"new")
            (lower / "d" / "g").unlink()
            until(lambda: read(mnt / "new") == b"new")
            until(lambda: read(mnt / "f") == b"changed")
            until(lambda: not (mnt / "d" / "g").exists())
            put(store, "f", b"by us")
            assert read(mnt / "f") == b"by us"


def test_where_nobody_tells_listings_are_asked_for_again(mnt, lower):
    with joinfs.JoinedStore([joinfs.MemoryStore(), Silent(lower)], directory_ttl=0) as store:
        with joinfs.mount(store, mnt, driver="devfuse", lower_ttl=0):
            assert sorted(os.listdir(mnt)) == ["d", "f"]
            (lower / "new").write_bytes(b"new")
            until(lambda: read(mnt / "new") == b"new")
            until(lambda: sorted(os.listdir(mnt)) == ["d", "f", "new"], 5)


class Exhausted(joinfs.DirectoryStore):
    """As if the host allowed no more watches than one."""

    def watch(self, directory):
        return directory == "" and super().watch(directory)


def test_where_watches_run_out_listings_are_asked_for_again(mnt, lower, tmp_path):
    (tmp_path / "upper" / "d").mkdir(parents=True)
    with (
        joinfs.JoinedStore([joinfs.DirectoryStore(tmp_path / "upper"), Exhausted(lower)], directory_ttl=0) as store,
        joinfs.mount(store, mnt, driver="devfuse", lower_ttl=0.1),
    ):
        look(mnt)
        assert sorted(os.listdir(mnt / "d")) == ["g", "s"]
        (lower / "d" / "new").write_bytes(b"new")
        until(lambda: sorted(os.listdir(mnt / "d")) == ["g", "new", "s"], 5)
        (lower / "new").write_bytes(b"new")
        until(lambda: sorted(os.listdir(mnt)) == ["d", "f", "new"], 5)


def test_what_is_believed_for_long_is_seen_if_it_is_told(mnt, lower):
    with joinfs.JoinedStore([joinfs.MemoryStore(), Silent(lower)], directory_ttl=1e6) as store:
        with joinfs.mount(store, mnt, driver="devfuse", lower_ttl=100_000):
            look(mnt)
            put(store, "f", b"by us")
            put(store, "d/new", b"new")
            store.delete("d/s/h")
            assert read(mnt / "f") == b"by us"
            assert read(mnt / "d" / "new") == b"new"
            assert os.listdir(mnt / "d" / "s") == []
