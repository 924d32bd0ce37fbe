"""What the kernel's overlayfs has written is read as it reads it. SEMANTICS.md, Marks of other systems."""

import io
import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from joinfs.errors import CorruptStore, NotPermitted, UsageError
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.value import new_stat

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount overlayfs")


@pytest.fixture
def place(tmp_path):
    """A directory on a file system that can be a layer of overlayfs, for which a container's own cannot."""
    place = tmp_path / "layers"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "joinfs-test", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=False)


class Overlay:
    """An overlay of the kernel for the length of a with block."""

    def __init__(self, place, lowers, upper):
        self.at, self.lowers, self.upper = place / "mnt", [place / name for name in lowers], place / upper
        for path in (self.at, *self.lowers, self.upper, place / f"{upper}.work"):
            path.mkdir(exist_ok=True)
        layers = f"lowerdir={':'.join(map(str, self.lowers))},upperdir={self.upper},workdir={place / upper}.work"
        self.options = f"{layers},redirect_dir=on,metacopy=on,index=off"

    def __enter__(self):
        done = subprocess.run(["mount", "-t", "overlay", "joinfs-test", "-o", self.options, self.at], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"overlayfs cannot be mounted here: {done.stderr}")
        return self.at

    def __exit__(self, *exc_info):
        subprocess.run(["umount", "-l", self.at], check=True)

    def join(self):
        return JoinedStore([DirectoryStore(path) for path in (self.upper, *self.lowers)])


def in_mount(path, prefix=""):
    found = {}
    for entry in os.scandir(path):
        native = entry.stat(follow_symlinks=False)
        key = prefix + entry.name
        data = Path(entry.path).read_bytes() if stat.S_ISREG(native.st_mode) else None
        xattrs = {} if entry.is_symlink() else {name: os.getxattr(entry.path, name) for name in os.listxattr(entry.path)}
        found[key] = (native.st_mode, native.st_size if data is not None else 0, native.st_mtime_ns, data, xattrs)
        if entry.is_dir(follow_symlinks=False):
            found |= in_mount(entry.path, f"{key}/")
    return found


def in_join(join, directory=""):
    found = {}
    for name, listed in join.list(directory):
        path = directory + name
        key = f"{path}/" if listed.is_directory else path
        told = join.stat(key)
        assert (told.mode, told.size, told.file_id) == (listed.mode, listed.size, listed.file_id)
        data = None
        if told.is_file:
            data = join.to_bytes(key)
            assert join.read(key, 0, told.size) == data
            descriptor = join.open_local(key, os.O_RDONLY)
            assert os.pread(descriptor, told.size + 1, 0) == data
            os.close(descriptor)
        xattrs = {f"user.{n}": text.encode() for n, text in join.get_metadata(key).items()} | join.get_xattrs(key)
        found[path] = (told.mode, told.size if data is not None else 0, told.mtime, data, xattrs)
        if told.is_directory:
            found |= in_join(join, key)
    return found


def fill(lower, chance):
    for number in range(12):
        path = lower.joinpath(*(f"d{chance.randrange(3)}" for _ in range(chance.randrange(4))), f"f{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number * chance.randrange(1, 50))
        os.setxattr(path, "user.from", b"%d" % number)
        if number % 4 == 0:
            os.link(path, path.with_name(f"link{number}"))


def change(mnt, chance):
    """Something that leaves marks in the upper layer."""
    paths = sorted(in_mount(mnt))
    path = mnt / chance.choice(paths)
    new = (mnt / chance.choice(["", *(p for p in paths if (mnt / p).is_dir())])) / f"new{chance.randrange(100)}"
    what = chance.randrange(8)
    if what < 3 and not f"{new}/".startswith(f"{path}/") and not new.exists():
        path.rename(new)
    elif what == 3 and path.is_dir():
        shutil.rmtree(path)
    elif what == 3:
        path.unlink()
    elif what == 4:
        path.chmod(0o700)
        os.setxattr(path, "user.changed", b"1")
    elif what == 5 and path.is_file():
        path.write_bytes(b"written")
    elif what == 6 and not new.exists():
        new.mkdir()
    elif what == 7 and path.is_file() and not new.exists():
        os.link(path, new)


@pytest.mark.parametrize("seed", range(12))
def test_a_join_of_its_layers_shows_what_an_overlay_shows(place, seed):
    chance = random.Random(seed)
    for name in ("bottom", "lower"):
        (place / name).mkdir()
        fill(place / name, chance)
    for lowers, upper in ((["lower", "bottom"], "middle"), (["middle", "lower", "bottom"], "upper")):
        overlay = Overlay(place, lowers, upper)
        with overlay as mnt:
            for _ in range(25):
                change(mnt, chance)
            shown = in_mount(mnt)
        with overlay.join() as join:
            assert in_join(join) == shown
            assert list(join.check()) == []


def test_what_is_changed_over_a_copy_without_data_is_whole(place):
    overlay = Overlay(place, ["lower"], "upper")
    for name in ("written", "deleted", "moved", "chmodded", "d/inside"):
        (place / "lower" / name).parent.mkdir(exist_ok=True)
        (place / "lower" / name).write_bytes(name.encode() * 1000)
    with overlay as mnt:
        for name in ("written", "deleted", "moved", "chmodded", "d/inside"):
            (mnt / name).chmod(0o600)
        (mnt / "moved").rename(mnt / "d" / "moved")
        assert "trusted.overlay.metacopy" in os.listxattr(overlay.upper / "written")
    with overlay.join() as join:
        descriptor = join.open_local("written", os.O_RDWR)
        os.pwrite(descriptor, b"W", 0)
        os.close(descriptor)
        join.delete("deleted")
        join.rename("d/", "e/")
        join.rename("e/moved", "back")
        join.set_stat("chmodded", mode=0o640)
        found = in_join(join)
    assert sorted(found) == ["back", "chmodded", "e", "e/inside", "written"]
    contents = {path: data for path, (_, _, _, data, _) in found.items()}
    assert contents["written"] == b"W" + (b"written" * 1000)[1:]
    assert (contents["back"], contents["e/inside"]) == (b"moved" * 1000, b"d/inside" * 1000)
    assert (stat.S_IMODE(found["chmodded"][0]), contents["chmodded"]) == (0o640, b"chmodded" * 1000)
    assert {name: data for name, data in contents.items() if not data and name != "e"} == {}


def test_a_copy_without_data_is_never_read_as_zeros(place):
    overlay = Overlay(place, ["lower"], "upper")
    (place / "lower" / "f").write_bytes(b"data" * 100)
    with overlay as mnt:
        (mnt / "f").chmod(0o600)
    (place / "lower" / "f").unlink()
    with overlay.join() as join:
        for use in (join.to_bytes, lambda key: join.read(key, 0, 10), lambda key: join.open_local(key, os.O_RDONLY)):
            with pytest.raises(CorruptStore, match="without its data"):
                use("f")


# -------------------------------------------------------------------- and the reverse


class OverlayJoin:
    """A join that writes overlayfs's marks into the upper layer of an overlay."""

    def __init__(self, overlay, chance):
        stores = [DirectoryStore(path) for path in (overlay.upper, *overlay.lowers)]
        self.join, self.chance = JoinedStore(stores, whiteouts="overlay"), chance

    def keys(self, directory=""):
        found = []
        for name, told in self.join.list(directory):
            key = f"{directory}{name}/" if told.is_directory else directory + name
            found += [key, *(self.keys(key) if told.is_directory else ())]
        return sorted(found)

    def delete(self, key):
        if key.endswith("/"):
            for name, told in list(self.join.list(key)):
                self.delete(f"{key}{name}/" if told.is_directory else key + name)
        self.join.delete(key)

    def change(self):
        join, chance, keys = self.join, self.chance, self.keys()
        key = chance.choice(keys)
        new = chance.choice(["", *(k for k in keys if k.endswith("/"))]) + f"new{chance.randrange(100)}"
        other = chance.choice(keys)
        slash = "/" if key.endswith("/") else ""
        what = chance.choice(["rename", "rename", "over", "delete", "attributes", "write", "make", "make", "mkdir", "link", "exchange"])
        if what == "rename" and not join.exists(new) and not join.exists(new + "/") and not new.startswith(key):
            join.rename(key, new + slash)
        elif what == "over" and other.endswith("/") == bool(slash) and not other.startswith(key) and not key.startswith(other):
            for name, told in list(join.list(other)) if slash else ():
                self.delete(f"{other}{name}/" if told.is_directory else other + name)
            join.rename(key, other)
        elif what == "delete":
            self.delete(key)
        elif what == "attributes":
            join.set_stat(key, mode=0o700)
            if slash or join.stat(key).is_file:
                join.update_metadata(key, {"changed": "1"})
        elif what == "write" and not slash:
            join.set_data(key, io.BytesIO(b"written"))
        elif what == "make" and not join.exists(new + "/"):
            join.set(new, (io.BytesIO(b"made"), {}))
        elif what == "mkdir" and not join.exists(new) and not join.exists(new + "/"):
            join.make(new + "/", new_stat(stat.S_IFDIR | 0o755))
            join.set(new + "/inside", (io.BytesIO(b"made"), {}))
        elif what == "link" and not slash and not join.exists(new) and not join.exists(new + "/"):
            join.link(key, new)
        elif what == "exchange" and not other.startswith(key) and not key.startswith(other):
            join.exchange(key, other)


def test_its_marks_are_not_the_users(place):
    (place / "lower" / "d").mkdir(parents=True)
    (place / "upper").mkdir()
    with JoinedStore([DirectoryStore(place / "upper"), DirectoryStore(place / "lower")], whiteouts="overlay") as join:
        join.set("d/f", (io.BytesIO(b""), {}))
        for name in ("trusted.overlay.opaque", "trusted.joinfs.origin"):
            with pytest.raises(NotPermitted):
                join.set_xattr("d/", name, b"y")
        join.rename("d/", "e/")
        assert join.get_xattrs("e/") == {}
        assert os.getxattr(place / "upper" / "e", "trusted.overlay.redirect") == b"/d"


def test_only_a_directory_can_have_them():
    with pytest.raises(UsageError, match="no directory"):
        JoinedStore([MemoryStore()], whiteouts="overlay")
    with pytest.raises(UsageError, match="'oci' and 'overlay'"):
        JoinedStore([MemoryStore()], whiteouts="none")


def without_marks(shown):
    """What is shown but for joinfs's numbers, which are the user's attributes to overlayfs."""
    return {
        path: (*rest, {name: value for name, value in xattrs.items() if not name.startswith("user.joinfs.")})
        for path, (*rest, xattrs) in shown.items()
    }


@pytest.mark.parametrize("seed", range(16))
def test_an_overlay_shows_what_a_join_that_writes_its_marks_has_made(place, seed):
    chance = random.Random(seed)
    for name in ("bottom", "lower"):
        (place / name).mkdir()
        fill(place / name, chance)
    for lowers, upper in ((["lower", "bottom"], "middle"), (["middle", "lower", "bottom"], "upper")):
        overlay = Overlay(place, lowers, upper)
        for _ in range(3):  # each goes on with what the other has left
            writing = OverlayJoin(overlay, chance)
            with writing.join as join:
                for _ in range(12):
                    writing.change()
                shown = in_join(join)
                assert list(join.check()) == []
            with overlay as mnt:
                assert without_marks(in_mount(mnt)) == without_marks(shown)
                for _ in range(8):
                    change(mnt, chance)
                shown = in_mount(mnt)
            with overlay.join() as join:
                assert without_marks(in_join(join)) == without_marks(shown)
        left = [name for path in (overlay.upper, place) for _, _, names in os.walk(path) for name in names if name.startswith(".wh.")]
        assert left == []


def test_a_whiteout_that_hides_nothing_is_no_hindrance(tmp_path):
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    upper.mkdir()
    lower.mkdir()
    (lower / "f").write_bytes(b"f")
    for name in ("made", "put", "linked", "moved"):
        os.mknod(upper / name, stat.S_IFCHR, 0)
    with JoinedStore([DirectoryStore(upper), DirectoryStore(lower)], whiteouts="overlay") as join:
        assert not join.exists("made")
        join.make("made/", new_stat(0o40755))
        join.put("put/", new_stat(0o40755))
        join.link("f", "linked")
        join.rename("made/", "moved/")
        assert sorted(name for name, _ in join.list("")) == ["f", "linked", "moved", "put"]


def test_a_copy_without_data_goes_on_to_show_it_when_something_beside_it_is_copied_up(tmp_path):
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for place in (upper, lower):
        (place / "d").mkdir(parents=True)
    os.setxattr(upper, "trusted.overlay.uuid", b"u")
    (lower / "d" / "large").write_bytes(b"D" * 1000)
    (lower / "d" / "other").write_bytes(b"other")
    (upper / "d" / "large").touch()
    os.truncate(upper / "d" / "large", 1000)
    os.setxattr(upper / "d" / "large", "trusted.overlay.metacopy", b"")
    with JoinedStore([DirectoryStore(upper), DirectoryStore(lower)]) as join:
        assert join.to_bytes("d/large") == b"D" * 1000
        join.set_stat("d/other", mode=0o600)
        assert join.to_bytes("d/large") == b"D" * 1000
        join.rename("d/large", "d/renamed")
        assert join.to_bytes("d/renamed") == b"D" * 1000
