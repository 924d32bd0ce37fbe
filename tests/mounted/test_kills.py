"""The server is killed at any moment, and mounted again. SEMANTICS.md, Crashes; Staged writes; Unmounting."""

import copy
import json
import os
import random
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mounted.conftest import TIMEOUT, Server, make_directory

# More for who looks for what happens seldom: JOINFS_KILLS=1000.
KILLS = int(os.environ.get("JOINFS_KILLS", "25"))
CHANGES = 200
# Seconds for which a change is waited for, which most end in.
LONGEST = 0.002
WRITING = {"create", "overwrite", "append", "begin", "finish"}
FIRST, REST = b"synced ", b"and more "

# Carries out changes in a mount, a line of its input each, and says when each is done.
LOADER = """
import json, os, sys, time
handles = {}

def put(path, data, flags):
    file = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        for start in range(0, len(data), 30_000):
            os.write(file, data[start:start + 30_000])
    finally:
        os.close(file)

def begin(path, data):
    handles[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(handles[path], data)
    os.fsync(handles[path])

def finish(path, data):
    os.write(handles[path], data)
    os.close(handles.pop(path))

def wait():
    while os.listdir("."):
        time.sleep(0.01)

verbs = {
    "create": lambda path, data: put(path, data.encode(), os.O_CREAT | os.O_EXCL),
    "overwrite": lambda path, data: put(path, data.encode(), os.O_TRUNC),
    "append": lambda path, data: put(path, data.encode(), os.O_APPEND),
    "begin": lambda path, data: begin(path, data.encode()),
    "finish": lambda path, data: finish(path, data.encode()),
    "truncate": os.truncate, "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink,
    "rename": os.rename, "link": os.link, "symlink": os.symlink, "chmod": os.chmod,
    "write": lambda path, data: os.write(handles[path], data.encode()), "wait": wait,
    "setxattr": lambda path, value: os.setxattr(path, "user.x", value.encode()),
}
print("ready", flush=True)
for line in open(sys.argv[1]):
    verb, *arguments = json.loads(line)
    verbs[verb](*arguments)
    print(verb, flush=True)
"""


@dataclass
class Thing:
    """A file, directory or symlink of the model. Names of one file share it."""

    kind: str
    content: bytes = b""
    mode: int = 0o644
    xattr: bytes | None = None
    entries: dict[str, "Thing"] = field(default_factory=dict)


class Model:
    """What there is, as plain data, and random changes of it that are possible."""

    def __init__(self, root):
        self.root = root
        self.open = None

    def paths(self, thing=None, prefix=""):
        for name, child in (thing or self.root).entries.items():
            yield prefix + name, child
            if child.kind == "directory":
                yield from self.paths(child, f"{prefix}{name}/")

    def at(self, path):
        thing = self.root
        for name in path.split("/") if path else ():
            thing = thing.entries[name]
        return thing

    def some(self, chance, *kinds):
        found = [(path, thing) for path, thing in self.paths() if thing.kind in kinds and not self.is_open(thing)]
        return chance.choice(found) if found else (None, None)

    def is_open(self, thing):
        return self.open is not None and self.at(self.open) is thing

    def new_name(self, chance):
        directories = ["", *(f"{path}/" for path, thing in self.paths() if thing.kind == "directory")]
        directory = chance.choice(directories)
        name = f"n{chance.randrange(30)}"
        return None if name in self.at(directory.removesuffix("/")).entries else directory + name

    def change(self, chance):
        """Answer a random change that can be carried out now."""
        while True:
            verb = chance.choice(["create", "overwrite", "append", "truncate", "mkdir", "rmdir", "unlink", "rename", "rename", "link",
                                  "symlink", "chmod", "setxattr", "begin", "finish"])  # fmt: skip
            found = getattr(self, f"_{verb}", self._on_file)(chance, verb)
            if found is not None:
                return [verb, *found]

    def _data(self, chance):
        return f"{chance.randrange(1_000_000)} " * chance.choice([1, 10, 3000, 20_000])

    def _create(self, chance, verb):
        name = self.new_name(chance)
        return None if name is None else (name, self._data(chance))

    def _begin(self, chance, verb):
        name = None if self.open is not None else self.new_name(chance)
        return None if name is None else (name, FIRST.decode() * 1000)

    def _finish(self, chance, verb):
        return None if self.open is None else (self.open, REST.decode() * 1000)

    def _mkdir(self, chance, verb):
        name = self.new_name(chance)
        return None if name is None else (name,)

    def _symlink(self, chance, verb):
        name = self.new_name(chance)
        return None if name is None else (f"target {chance.randrange(1000)}", name)

    def _rmdir(self, chance, verb):
        empty = [path for path, thing in self.paths() if thing.kind == "directory" and not thing.entries]
        return (chance.choice(empty),) if empty else None

    def _unlink(self, chance, verb):
        path, _ = self.some(chance, "file", "symlink")
        return None if path is None else (path,)

    def _link(self, chance, verb):
        path, _ = self.some(chance, "file")
        name = self.new_name(chance)
        return None if path is None or name is None else (path, name)

    def _rename(self, chance, verb):
        old, thing = self.some(chance, "file", "symlink", "directory")
        if old is None or (self.open or "").startswith(f"{old}/"):
            return None
        new = self.new_name(chance)
        if chance.random() < 0.4 and thing.kind != "directory":
            new, other = self.some(chance, "file", "symlink")
            if other is thing:
                return None
        return None if new is None or f"{new}/".startswith(f"{old}/") else (old, new)

    def _on_file(self, chance, verb):
        path, thing = self.some(chance, "file")
        if path is None:
            return None
        if verb == "truncate":
            return path, chance.randrange(len(thing.content) + 10)
        if verb == "chmod":
            return path, chance.choice([0o600, 0o644, 0o755])
        if verb == "setxattr":
            return path, str(chance.randrange(1000))
        return path, self._data(chance)

    def apply(self, change):
        """Have a change happen."""
        verb, path, *rest = change
        if verb in {"create", "begin"}:
            self._put(path, Thing("file", rest[0].encode()))
            self.open = path if verb == "begin" else self.open
        elif verb == "overwrite":
            self.at(path).content = rest[0].encode()
        elif verb in {"append", "finish"}:
            self.at(path).content += rest[0].encode()
            self.open = None if verb == "finish" else self.open
        elif verb == "truncate":
            thing = self.at(path)
            thing.content = thing.content[: rest[0]].ljust(rest[0], b"\0")
        elif verb == "mkdir":
            self._put(path, Thing("directory", mode=0o755))
        elif verb == "symlink":
            self._put(rest[0], Thing("symlink", path.encode(), 0o777))
        elif verb in {"rmdir", "unlink"}:
            self._take(path)
        elif verb == "rename":
            self._put(rest[0], self._take(path))
        elif verb == "link":
            self._put(rest[0], self.at(path))
        elif verb == "chmod":
            self.at(path).mode = rest[0]
        else:
            self.at(path).xattr = rest[0].encode()

    def _put(self, path, thing):
        above, _, name = path.rpartition("/")
        self.at(above).entries[name] = thing

    def _take(self, path):
        above, _, name = path.rpartition("/")
        return self.at(above).entries.pop(name)

    def seen(self):
        return {path: (thing.kind, thing.content, thing.mode, thing.xattr) for path, thing in self.paths()}


def look(path):
    """What a tool finds in a directory."""
    root = Thing("directory")
    files = {}
    for entry in os.scandir(path):
        native = entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(native.st_mode)
        if entry.is_symlink():
            thing = Thing("symlink", os.fsencode(os.readlink(entry.path)), mode)
        elif entry.is_dir():
            thing = look(entry.path)
            thing.mode = mode
        else:
            xattr = os.getxattr(entry.path, "user.x") if "user.x" in os.listxattr(entry.path) else None
            thing = files.setdefault(native.st_ino, Thing("file", Path(entry.path).read_bytes(), mode, xattr))
        root.entries[entry.name] = thing
    return root


def settled(seen, model, change):
    """The model as the mount turned out to be after a change that was cut off: done, half done, or not begun."""
    done = copy.deepcopy(model)
    done.apply(change)
    before, after = model.seen(), done.seen()
    if seen == before:
        return model
    if seen != after:
        assert change[0] in WRITING, difference(seen, before, after, change)
        assert change[1] in seen, difference(seen, before, after, change)
        start = before[change[1]][1] if change[0] in {"append", "finish"} else b""
        content = seen[change[1]][1]
        assert content.startswith(start), difference(seen, before, after, change)
        assert after[change[1]][1].startswith(content), difference(seen, before, after, change)
        done.at(change[1]).content = content
        assert seen == done.seen(), difference(seen, before, after, change)
    return done


def difference(seen, before, after, change):
    def short(value):
        return None if value is None else (value[0], len(value[1]), value[1][:40], *value[2:])

    lines = [
        f"{path}: seen {short(seen.get(path))}, before {short(before.get(path))}, after {short(after.get(path))}"
        for path in sorted({*seen, *before, *after})
        if not seen.get(path) == before.get(path) == after.get(path)
    ]
    return f"{[str(a)[:40] for a in change]}\n" + "\n".join(lines)


class Kills:
    """Mounts, load and kills, over the same stores."""

    def __init__(self, user, driver, scratch, stores):
        self.user, self.driver, self.stores = user, driver, stores
        self.mountpoint = scratch / "mnt"
        make_directory(user, self.mountpoint)
        self.log = scratch / "log"
        self.staged = scratch / "staged"
        make_directory(user, self.staged)
        self.changes = scratch / "changes"
        self.server = None

    def options(self):
        shared = ["-o", "allow_other"] if self.user.uid is not None else []
        return ["--driver", self.driver, *shared, "-o", f"staging={self.staged}"]

    def start(self):
        interpreter, environment = self.user.python()
        command = [interpreter, "-m", "joinfs", "mount", "-f", *self.options(), *self.stores, str(self.mountpoint)]
        with self.log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, cwd="/", **self.user.options()
            )
        self.server = Server(process, self.mountpoint, self.log)
        self.server.wait_until_mounted()

    def load(self, changes, moment):
        """Have changes carried out, kill the server after ``moment`` of them, or in the midst of the next; answer how many were."""
        self.changes.write_text("".join(json.dumps(change) + "\n" for change in changes))
        self.changes.chmod(0o644)
        with subprocess.Popen(
            [self.user.python()[0], "-c", LOADER, self.changes], cwd=self.mountpoint, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **({} if self.user.uid is None else self.user.options()),
        ) as loader:  # fmt: skip
            done = [loader.stdout.readline() for _ in range(int(moment) + 1)]
            assert b"" not in done, loader.stderr.read()
            end = time.monotonic() + moment % 1 * LONGEST
            while time.monotonic() < end:  # sleeping takes longer than most changes
                pass
            self.server.process.kill()
            self.server.process.wait(TIMEOUT)
            said = loader.stdout.read()  # what is buffered, too: communicate() would pass over that
            errors = loader.stderr.read()
        assert loader.returncode == 1, "all was done before the server was killed"
        assert any(words in errors for words in (b"not connected", b"abort", b"No such device", b"Input/output")), errors.decode()
        return len(done) - 1 + len(said.splitlines())

    def clean_up(self):
        subprocess.run(["umount", "-l", self.mountpoint], check=False, capture_output=True, timeout=TIMEOUT)
        if self.server is not None:
            self.server.process.kill()
            self.server.process.wait(TIMEOUT)


@pytest.mark.timeout(120 + 10 * KILLS)
def test_a_server_that_is_killed_has_lost_nothing(user, driver, upper, scratch):
    lower = scratch / "lower"
    for name in ("a", "d/b", "d/c", "d/e/f", "g/h"):
        make_directory(user, (lower / name).parent)
        (lower / name).write_bytes(name.encode() * 5000)
    if user.uid is not None:
        for path in lower.rglob("*"):
            os.chown(path, user.uid, user.uid)
    before = Model(look(lower)).seen()
    kills = Kills(user, driver, scratch, [upper, str(lower)])
    chance = random.Random(20261127)
    model = Model(look(lower))
    try:
        for _ in range(KILLS):
            model = one_kill(kills, chance, model)
        checked = user.joinfs("check", *kills.stores)
        assert (checked.returncode, checked.stdout) == (0, "")
    finally:
        kills.clean_up()
    assert Model(look(lower)).seen() == before


def one_kill(kills, chance, model):
    """Kill the server once while it is changed; answer what the mount has afterwards, which is checked."""
    planned = copy.deepcopy(model)
    changes = []
    for _ in range(CHANGES):
        changes.append(planned.change(chance))
        planned.apply(changes[-1])
    kills.start()
    seen = Model(look(kills.mountpoint)).seen()
    assert seen == model.seen(), difference(seen, model.seen(), {}, ["remounted"])
    done = kills.load(changes, chance.random() * (CHANGES - 50))
    kills.clean_up()
    for change in changes[:done]:
        model.apply(change)
    kills.start()
    model = settled(Model(look(kills.mountpoint)).seen(), model, changes[done])
    assert kills.server.stop() == 0, kills.log.read_text()
    model.open = None
    return model


def test_what_was_being_written_is_kept_and_told_of(user, driver, scratch):
    was_handed_on = user.uid is None or driver == "fusepy"  # else the kernel had it still
    kills = Kills(user, driver, scratch, [f"sqlite:{scratch}/upper.db"])
    changes = [["create", "whole", "whole"], ["begin", "open", "synced"], ["write", "open", " not"], ["write", "open", " synced"]]
    (scratch / "into").mkdir()
    if user.uid is not None:
        os.chown(scratch / "into", user.uid, user.uid)
    try:
        kills.start()
        assert kills.load([*changes, ["wait"]], len(changes)) == len(changes)
        again = user.joinfs("mount", *kills.options(), *kills.stores, kills.mountpoint)  # where the dead mount is still
        assert (again.returncode, "a file that was being written" in again.stderr) == (0, was_handed_on)
        assert {path.name: path.read_text() for path in kills.mountpoint.iterdir()} == {"whole": "whole", "open": "synced"}
        assert user.joinfs("umount", kills.mountpoint).returncode == 0
    finally:
        kills.clean_up()
    where = ["-o", f"staging={kills.staged}"]
    listed = user.joinfs("recover", *where)
    assert ("'open', 17 bytes" in listed.stdout, len(listed.stdout.splitlines())) == (was_handed_on, 1)
    assert user.joinfs("recover", *where, "--into", scratch / "into", "upper.db").returncode == 0
    assert {path.name: path.read_text() for path in (scratch / "into").iterdir()} == ({"open": "synced not synced"} if was_handed_on else {})
    assert user.joinfs("recover", *where).stdout == "nothing to recover\n"
