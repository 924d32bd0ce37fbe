"""What fsspec's own suite does not ask: links, errors, one step, transactions, metadata, and how local files behave."""

import datetime as dt
import gc
import gzip
import io
import os
import posixpath
import threading
import time
import weakref
import zipfile

import fsspec
import pytest
from fsspec.callbacks import Callback

import joinfs
from joinfs.errors import OutOfSpace, UsageError
from joinfs.stores.value import new_stat
from joinfs.testing.faulty import Fault, FaultyStore, never

LOCAL = fsspec.filesystem("file")


def make_tree(root):
    """A directory with most of what there can be."""
    (root / "d/e/empty").mkdir(parents=True)
    (root / "a.csv").write_text("1,2\n")
    (root / "d/b.csv").write_text("3,4\n" * 1000)
    (root / "d/e/ünï [1].txt").write_bytes(b"\0" * 5)
    (root / "to_file").symlink_to("d/b.csv")
    (root / "to_directory").symlink_to("d/e")
    (root / "d/e/up").symlink_to("../../to_file")
    (root / "dangling").symlink_to("nothing/at/all")
    (root / "loop").symlink_to("loop")
    (root / "d/round").symlink_to("..")


PATHS = [
    "", "a.csv", "d", "d/b.csv", "d/e/", "d/e/empty", "to_file", "to_directory", "to_directory/up", "d/round/d/round/a.csv", "d/e/up",
    "dangling", "nothing", "nothing/at/all", "a.csv/x", "d/nothing", "to_file/x", "d//b.csv", "./d/./b.csv",
]  # fmt: skip
GLOBS = ["*", "*.csv", "**/*.csv", "d/*", "d/**", "**", "?.csv", "d/e/*[[]1]*", "no*", "**/", "*/*"]


def both(root, fs, path, ask):
    """What a question about a path has for answer here, and for local files."""
    answers = []
    for other, place in ((fs, f"/{path}"), (LOCAL, f"{root}/{path}")):
        try:
            answers.append(ask(other, place))
        except OSError as error:
            answers.append(type(error))
    return answers


@pytest.fixture
def tree(lower):
    make_tree(lower)
    return lower


@pytest.mark.parametrize("path", PATHS)
def test_it_answers_as_local_files_do(fs, tree, path):
    def relative(place):
        return place.removeprefix(str(tree)).removeprefix("/")

    def details(other, place):
        info = other.info(place)
        size = None if info["type"] == "directory" else info["size"]
        about = (info["mtime"], info["mode"]) if path else ()  # the root is the first store's
        return relative(info["name"]), info["type"], size, info["islink"], info.get("destination"), about

    def names(other, place):
        return sorted(relative(one) for one in other.ls(place, detail=False))

    questions = [
        lambda other, place: other.exists(place),
        lambda other, place: other.lexists(place),
        lambda other, place: other.isdir(place),
        lambda other, place: other.isfile(place),
        lambda other, place: other.cat_file(place),
        lambda other, place: other.cat_file(place, 2, 7),
        lambda other, place: other.cat_file(place, -3),
        lambda other, place: other.cat_file(place, 1, -1),
        lambda other, place: other.size(place) if not other.isdir(place) else None,
        lambda other, place: [relative(one) for one in other.find(place)],
        lambda other, place: [(relative(top), sorted(dirs)) for top, dirs, _ in other.walk(place)],
        lambda other, place: sum(size for one, size in other.du(place, total=False).items() if other.isfile(one)),
        lambda other, place: other.modified(place) if path else None,
        details,
        names,
    ]
    if path != posixpath.normpath(path):  # names that are answered have that in them
        del questions[9:]
    for number, ask in enumerate(questions):
        ours, theirs = both(tree, fs, path, ask)
        assert ours == theirs, number


@pytest.mark.parametrize("pattern", GLOBS)
def test_globs_name_what_they_name_of_local_files(fs, tree, pattern):
    theirs = [one.removeprefix(f"{tree}/") for one in LOCAL.glob(f"{tree}/{pattern}") if one != str(tree)]
    assert fs.glob(pattern) == fs.glob(f"joinfs://{pattern}") == theirs
    assert [one for one in fs.glob(f"/{pattern}") if one != "/"] == [f"/{one}" for one in theirs]


def test_links_that_lead_out_of_the_store_lead_nowhere(fs, lower):
    (lower / "absolute").symlink_to("/etc/passwd")
    (lower / "above").symlink_to("../../../etc/passwd")
    (lower / "around").symlink_to("again")
    (lower / "again").symlink_to("around")
    (lower / "file").touch()
    (lower / "through").symlink_to("file/x")
    for name in ("absolute", "above", "around", "around/x"):
        assert not fs.exists(name)
        assert fs.lexists(name) == ("/" not in name)
        with pytest.raises(FileNotFoundError):
            fs.open(name)
        with pytest.raises(FileNotFoundError):
            fs.pipe_file(name, b"")
    assert {one["name"]: one["type"] for one in fs.ls("")} == dict.fromkeys(["above", "absolute", "again", "around", "through"], "other") | {"file": "file"}


def test_links_in_the_middle_of_a_target_are_followed_before_what_comes_after_them(fs, lower):
    (lower / "x/y").mkdir(parents=True)
    (lower / "x/here").write_text("right")
    (lower / "here").write_text("wrong")
    (lower / "link").symlink_to("x/y")
    (lower / "file").symlink_to("link/../here")
    assert fs.cat_file("file") == (lower / "file").read_bytes() == b"right"


def test_writing_through_a_link_writes_what_it_leads_to(fs, tree):
    fs.pipe_file("to_file", b"new")
    fs.pipe_file("to_directory/more", b"more")
    fs.pipe_file("dangling", b"there")
    assert fs.info("to_file")["islink"]
    assert fs.cat(["/d/b.csv", "/d/e/more", "/nothing/at/all"]) == {"/d/b.csv": b"new", "/d/e/more": b"more", "/nothing/at/all": b"there"}


def test_removing_and_moving_a_link_leaves_what_it_leads_to(fs, tree):
    fs.rm("to_file")
    fs.rm("to_directory", recursive=True)
    fs.mv("d/e/up", "moved")
    assert fs.isfile("d/b.csv")
    assert fs.isdir("d/e/empty")
    assert [fs.lexists(name) for name in ("to_file", "to_directory", "d/e/up", "moved")] == [False, False, False, True]


def test_what_is_written_is_there_when_the_file_is_closed(fs, lower):
    (lower / "a").write_bytes(b"old")
    with fs.open("a", "wb") as file:
        file.write(b"new" * 3_000_000)
        assert fs.cat_file("a") == b"old"
        reading = fs.open("a")
    assert fs.cat_file("a") == b"new" * 3_000_000
    with reading:
        assert reading.read() == b"old"
        assert reading.size == 3


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "w", "a", "xb", "x"])
def test_what_was_written_is_dropped_when_a_with_statement_fails(fs, lower, mode):
    (lower / "a").write_bytes(b"old")
    path = "new" if "x" in mode else "a"
    with pytest.raises(ZeroDivisionError), fs.open(path, mode) as file:
        file.write(b"half" if "b" in mode else "half")
        file.flush()
        raise ZeroDivisionError
    assert fs.cat("/*") == {"/a": b"old"}


def test_a_file_that_cannot_be_written_leaves_the_old_one():
    with FaultyStore(joinfs.MemoryStore(), never) as store:
        fs = fsspec.filesystem("joinfs", store=store)
        fs.pipe_file("a", b"old")
        for fault, error in ((Fault(OutOfSpace("full")), OSError), (Fault(most=3), ConnectionResetError)):
            file = fs.open("a", "wb")
            file.write(b"new data")
            store.schedule = lambda method, fault=fault: fault if method == "set_data" else None
            with pytest.raises(error):
                file.close()
            store.schedule = never
            assert file.closed
            assert fs.cat_file("a") == b"old"


def test_appending(fs, lower):
    (lower / "log").write_bytes(b"one\n")
    with fs.open("log", "ab") as file:
        assert file.tell() == 4
        file.write(b"two\n")
        fs.pipe_file("log", b"zero\n")  # others write meanwhile: what is appended goes to the end
    with fs.open("log", "a") as file:
        file.write("three\n")
    with fs.open("other", "ab") as file:
        file.write(b"first\n")
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
        with pytest.raises(io.UnsupportedOperation):
            file.truncate(0)
    assert fs.cat(["/log", "/other"]) == {"/log": b"zero\ntwo\nthree\n", "/other": b"first\n"}
    assert (lower / "log").read_bytes() == b"one\n"


def test_many_append_at_once_and_nothing_is_lost(fs):
    def append(number):
        for line in range(10):
            with fs.open("log", "ab") as file:
                file.write(b"%d %d\n" % (number, line))

    run(append, 6)
    assert len(set(fs.cat_file("log").splitlines())) == 60


def test_one_of_many_makes_a_file(fs):
    made = []

    def make(number):
        file = fs.open("lock", "xb")
        file.write(b"%d" % number)
        barrier.wait()
        try:
            file.close()
        except FileExistsError:
            return
        made.append(b"%d" % number)

    barrier = threading.Barrier(6)
    run(make, 6)
    assert len(made) == 1
    assert fs.cat_file("lock") == made[0]


def run(function, count):
    threads = [threading.Thread(target=function, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_files_that_are_read_and_written_at_once(fs, lower):
    with zipfile.ZipFile(lower / "a.zip", "w") as archive:
        archive.writestr("one", "1")
    with fs.open("a.zip", "r+b") as file, zipfile.ZipFile(file, "a") as archive:
        archive.writestr("two", "2")
    with fs.open("b.zip", "w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("three", "3")
        file.seek(0)
        assert file.read(2) == b"PK"
    with fs.open("a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["one", "two"]
    assert fsspec.open("zip://three::joinfs://b.zip", joinfs={"store": fs.store}).open().read() == b"3"


def test_text_and_compression(fs):
    fs.write_text("a.txt", "grüße\n", encoding="latin-1")
    assert fs.cat_file("a.txt") == "grüße\n".encode("latin-1")
    assert fs.read_text("a.txt", encoding="latin-1") == "grüße\n"
    with fs.open("a.gz", "wt", compression="infer") as file:
        file.write("text")
    assert gzip.decompress(fs.cat_file("a.gz")) == b"text"
    with fsspec.open("joinfs://b.gz", "wb", compression="infer", store=fs.store) as file:
        file.write(b"more")
    with fs.open("b.gz", compression="gzip") as file:
        assert file.read() == b"more"
    with pytest.raises(ZeroDivisionError), fs.open("b.gz", "wt", compression="gzip") as file:
        file.write("half")
        raise ZeroDivisionError
    assert gzip.decompress(fs.cat_file("b.gz")) == b"more"
    with fs.open("a.txt", encoding="latin-1", mode="r") as file:
        assert list(file) == ["grüße\n"]


def test_a_transaction_is_one_step(fs, lower):
    (lower / "a").write_bytes(b"old")
    with fs.transaction:
        fs.pipe_file("a", b"new")
        fs.pipe_file("b", b"new")
        (lower / "local").write_bytes(b"put")
        fs.put_file(str(lower / "local"), "c")
        assert fs.cat("/*") == {"/a": b"old", "/local": b"put"}
    assert fs.cat("/*") == {"/a": b"new", "/b": b"new", "/c": b"put", "/local": b"put"}


def test_a_transaction_that_fails_changes_nothing(fs, lower):
    with pytest.raises(ZeroDivisionError), fs.transaction:
        fs.pipe_file("a", b"new")
        raise ZeroDivisionError
    with pytest.raises(FileExistsError), fs.transaction:
        fs.pipe_file("b", b"new")
        fs.pipe_file("c", b"new", mode="create")
        fs.store.set_data("c", io.BytesIO(b"others"))
    assert fs.cat("/*") == ({"/c": b"others"} if fs.store.capabilities.transactions else {"/b": b"new", "/c": b"others"})


def test_metadata(fs):
    fs.pipe_file("a", b"1", metadata={"author": "mel", "good": True})
    assert fs.metadata("a") == {"author": "mel", "good": True}
    fs.pipe_file("a", b"2")
    fs.cp_file("a", "b")
    fs.mv("b", "c")
    assert fs.metadata("c") == {"author": "mel", "good": True}
    assert list(fs.store.query_keys(author="mel")) == ["a", "c"]
    with fs.open("a", "w", metadata={}) as file:
        file.write("3")
    assert fs.metadata("a") == {}


def test_moving(fs, tree):
    fs.mv("d", "moved", recursive=True)
    assert fs.find("moved") == ["moved/b.csv", "moved/e/up", "moved/e/ünï [1].txt", "moved/round"]
    fs.mv("a.csv", "moved")
    fs.mv("moved/a.csv", "moved/e/")
    fs.mv("moved/e/ünï [1].txt", "far/away.txt")
    fs.mv("moved/*.csv", "far")
    assert fs.glob("**/*.csv") == ["far/b.csv", "moved/e/a.csv"]
    assert fs.size("far/away.txt") == 5
    fs.pipe_file("far/b.csv", b"other")
    fs.mv("far/b.csv", "moved/e/a.csv")
    assert fs.cat_file("moved/e/a.csv") == b"other"
    fs.mv("moved/e/a.csv", "moved/e/a.csv")
    assert fs.cat_file("moved/e/a.csv") == b"other"
    with pytest.raises(OSError, match="inside"):
        fs.mv("moved", "moved/e/f")
    with pytest.raises(FileNotFoundError):
        fs.mv("nothing", "else")
    assert (tree / "d/b.csv").exists()


def test_directories(fs, lower):
    (lower / "there").mkdir()
    (lower / "file").touch()
    fs.mkdir("a/b")
    fs.makedirs("a/b/c")
    fs.makedirs("a/b", exist_ok=True)
    fs.makedirs("", exist_ok=True)
    assert fs.find("", withdirs=True) == ["a", "a/b", "a/b/c", "file", "there"]
    for make in (
        lambda: fs.mkdir("there"), lambda: fs.makedirs("there"), lambda: fs.mkdir("file"), lambda: fs.makedirs("file", exist_ok=True), lambda: fs.mkdir(""),
    ):  # fmt: skip
        with pytest.raises(FileExistsError):
            make()
    with pytest.raises(FileNotFoundError):
        fs.mkdir("no/where", create_parents=False)
    for call in (lambda: fs.mkdir("file/x"), lambda: fs.pipe_file("file/x", b""), lambda: fs.open("file/x/y", "wb"), lambda: fs.rmdir("file")):
        with pytest.raises(NotADirectoryError):
            call()
    with pytest.raises(OSError, match=r"entries|not empty"):
        fs.rmdir("a")
    fs.rmdir("there")
    assert not fs.exists("there")
    assert (lower / "there").exists()


def test_removing(fs, tree):
    with pytest.raises(IsADirectoryError):
        fs.rm("d")
    with pytest.raises(FileNotFoundError):
        fs.rm("nothing")
    fs.rm("d/e/ünï [1].txt")
    fs.rm("*.csv")
    assert fs.glob("**/*.csv") == ["d/b.csv"]
    fs.rm_file("d/round")
    fs.rm_file("d/e/empty")
    assert fs.find("d", withdirs=True) == ["d", "d/b.csv", "d/e", "d/e/up"]
    fs.rm(["d", "loop"], recursive=True)
    assert fs.ls("", detail=False) == ["dangling", "to_directory", "to_file"]
    fs.rm("", recursive=True)
    assert fs.ls("") == []
    assert (tree / "d/b.csv").exists()


def test_errors_are_those_of_local_files(fs, lower):
    (lower / "d").mkdir()
    (lower / "f").touch()
    for call, error in {
        lambda: fs.open("no"): FileNotFoundError,
        lambda: fs.open("no/no", "r+b"): FileNotFoundError,
        lambda: fs.open("d"): IsADirectoryError,
        lambda: fs.open("d", "wb"): IsADirectoryError,
        lambda: fs.open("d", "ab"): IsADirectoryError,
        lambda: fs.open("", "wb"): IsADirectoryError,
        lambda: fs.cat_file("d"): IsADirectoryError,
        lambda: fs.cat_file("d", 0, 1): IsADirectoryError,
        lambda: fs.cp_file("f", "d"): IsADirectoryError,
        lambda: fs.cp_file("no", "x"): FileNotFoundError,
        lambda: fs.open("f", "xb"): FileExistsError,
        lambda: fs.open("f", "rwb"): ValueError,
        lambda: fs.open("f", "a+b"): ValueError,
        lambda: fs.info("no"): FileNotFoundError,
        lambda: fs.ls("no"): FileNotFoundError,
        lambda: fs.metadata("no"): FileNotFoundError,
        lambda: fs.pipe_file("x/" + "n" * 300, b""): OSError,
        lambda: fs.pipe_file("x\0", b""): OSError,
        lambda: fs.put_file(str(lower / "no"), "x"): FileNotFoundError,
    }.items():
        with pytest.raises(error):
            call()
    assert fs.ls("", detail=False) == ["d", "f"]


def test_a_join_that_takes_no_writes_says_so_when_a_file_is_opened(lower):
    (lower / "a").write_text("1")
    fs = fsspec.filesystem("joinfs", stores=[f"dir:{lower}?ro", {"b": b"2"}])
    assert fs.cat("/*") == {"/a": b"1", "/b": b"2"}
    for call in (lambda: fs.open("a", "wb"), lambda: fs.rm("a"), lambda: fs.mkdir("d"), lambda: fs.mv("a", "c"), lambda: fs.touch("a")):
        with pytest.raises(OSError, match="put a writable store first") as caught:
            call()
        assert caught.value.errno == 30  # EROFS


def test_touch_and_times(fs, lower):
    (lower / "a").write_text("old")
    os.utime(lower / "a", ns=(10**9, 10**9))
    assert fs.modified("a") == dt.datetime.fromtimestamp(1, dt.UTC)
    token = fs.checksum("a"), fs.ukey("a")
    assert (fs.checksum("a"), fs.ukey("a")) == token
    before = time.time()
    fs.touch("a", truncate=False)
    assert fs.cat_file("a") == b"old"
    assert before - 0.1 <= fs.modified("a").timestamp() <= time.time()
    assert (fs.checksum("a"), fs.ukey("a")) != token
    fs.touch("a")
    fs.touch("b/c")
    assert fs.cat(fs.find("")) == {"a": b"", "b/c": b""}
    assert before - 0.1 <= fs.created("b/c").timestamp() <= time.time()


def test_special_files_are_listed_and_empty(fs):
    fs.store.put("fifo", new_stat(0o010644))
    assert fs.info("fifo")["type"] == "other"
    assert fs.find("") == ["fifo"]


def test_large_files_are_not_held_in_memory(in_bounded_memory, tmp_path):
    (tmp_path / "lower").mkdir()
    with open(tmp_path / "lower/large", "wb") as file:
        file.truncate(256 << 20)
    program = """
fs = fsspec.filesystem("joinfs", stores=[f"sqlite:{sys.argv[1]}/a.db", f"{sys.argv[1]}/lower"])
fs.get_file("/large", sys.argv[1] + "/got")
fs.put_file(sys.argv[1] + "/got", "/put")
fs.cp_file("/put", "/copy")
with fs.open("/copy", "rb") as source, fs.open("/written", "wb") as target:
    shutil.copyfileobj(source, target)
print(sorted(size >> 20 for size in fs.du("/", total=False).values()))
"""
    start = "import fsspec, shutil, joinfs.unmounted.filesystem, joinfs.stores.sqlite, joinfs.stores.directory"
    assert in_bounded_memory(program, 100, tmp_path, start=start) == "[256, 256, 256, 256]\n"


def test_callbacks_are_told_how_far_it_is(fs, tmp_path):
    class Heard(Callback):
        def __init__(self):
            super().__init__()
            self.heard = []

        def call(self, *args, **kwargs):
            self.heard.append(self.value)

    (tmp_path / "local").write_bytes(b"x" * (3 << 20))
    put, got = Heard(), Heard()
    fs.put_file(str(tmp_path / "local"), "a", callback=put)
    fs.get_file("a", str(tmp_path / "again"), callback=got)
    assert (put.size, put.value, got.size, got.value) == (3 << 20,) * 4
    assert (tmp_path / "again").read_bytes() == b"x" * (3 << 20)


def test_what_nobody_has_any_more_is_disconnected(tmp_path, lower):
    fs = fsspec.filesystem("joinfs", skip_instance_cache=True, stores=[f"sqlite:{tmp_path}/a.db", lower])
    store = weakref.ref(fs.store)
    layers = fs.store.layers
    file = fs.open("a", "wb")
    del fs
    gc.collect()
    assert store().is_connected()
    file.write(b"1")
    file.close()
    del file
    gc.collect()
    assert store() is None
    assert [layer.is_connected() for layer in layers] == [False, False]


def test_stores_of_the_callers_stay_as_they_are(lower):
    with joinfs.MemoryStore() as connected:
        other = joinfs.DirectoryStore(lower)
        fs = fsspec.filesystem("joinfs", stores=[connected, other])
        assert not other.is_connected()
        fs.pipe_file("a", b"1")
        assert other.is_connected()
        del fs
        gc.collect()
        assert connected.is_connected()
        assert not other.is_connected()


def test_a_forked_process_opens_the_stores_anew(tmp_path):
    fs = fsspec.filesystem("joinfs", stores=[f"sqlite:{tmp_path}/a.db"])
    fs.pipe_file("a", b"parent")
    child = os.fork()
    if child == 0:
        try:
            assert fs.cat_file("a") == b"parent"
            fs.pipe_file("b", b"child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert fs.cat("/*") == {"/a": b"parent", "/b": b"child"}


@pytest.mark.parametrize("options", [{}, {"store": {}, "stores": []}, {"store": 5}, {"stores": []}, {"stores": "nothing:there"}])
def test_it_says_what_is_wrong_with_what_is_to_be_joined(options):
    with pytest.raises(UsageError):
        fsspec.filesystem("joinfs", **options)


def test_urls_and_paths(fs):
    fs.pipe_file("joinfs://a/b", b"1")
    assert fs.cat_file("/a/b") == fs.cat_file("a/b/") == fs.cat_file("joinfs:///a//./b") == b"1"
    assert fs.ls("a", detail=False) == fs.ls("joinfs://a/", detail=False) == ["a/b"]
    assert fs.ls("/a", detail=False) == ["/a/b"]
    assert fs.ls("", detail=False) == fs.ls("joinfs://", detail=False) == ["a"]
    assert fs.ls("/", detail=False) == ["/a"]
    assert fs.unstrip_protocol("a/b") == "joinfs://a/b"
    assert fs._parent("a") == ""
    assert fs.info("/")["type"] == fs.info("")["type"] == "directory"
