"""A state machine drives a join, and the file system over one, against the reference model.

Edits behind the join's back and remounts included. SEMANTICS.md, Reading; Writing; Deleting; Renaming; Transactions.
"""

import contextlib
import copy
import io
import os
import signal
import stat as stat_module
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from joinfs.errors import InvalidKey
from joinfs.filesystem.operations import ROOT, Caller, Operations, Settings
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
from joinfs.testing import DictStore
from joinfs.testing.model import Entry, Tree, parent_of

NAMES = st.sampled_from(["a", "b", "c", "d", "\udcff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DATA = st.binary(max_size=40)
METADATA = st.dictionaries(st.sampled_from(["k", "l"]), st.text(max_size=5).filter(lambda t: "\0" not in t), max_size=2)
LAYER = st.dictionaries(PATHS, st.one_of(st.none(), DATA), max_size=8)
MODES = st.sampled_from([0o700, 0o750, 0o755, 0o777])  # an ordinary user must be able to go on after them


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, DATA),
        st.tuples(st.just("unlink"), PATHS),
        st.tuples(st.just("remove_directory"), PATHS),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("change_mode"), PATHS, MODES),
        st.tuples(st.just("set_metadata"), PATHS, METADATA),
    ),
    max_size=4,
)


class RollBack(Exception):
    """What makes a transaction fail."""


def layer_entries(choice):
    """A layer that can be: every parent a directory, the shorter path winning a conflict."""
    entries = {}
    for path in sorted(choice):
        above = [path[:i] for i, letter in enumerate(path) if letter == "/"]
        if any(p in entries and not entries[p].is_directory for p in above):
            continue
        for p in above:
            entries.setdefault(p, Entry(None, {}, 0o755))
        data = choice[path]
        entries.setdefault(path, Entry(data, {} if data is None else {"from": path}, 0o755 if data is None else 0o644))
    return entries


def make_layer(entries):
    store = MemoryStore()
    store.connect()
    for path in sorted(entries):
        entry = entries[path]
        kind = stat_module.S_IFDIR if entry.is_directory else stat_module.S_IFREG
        key = path + "/" if entry.is_directory else path
        data = None if entry.is_directory else io.BytesIO(entry.data)
        store.put(key, new_stat(kind | entry.mode), data, entry.metadata)
    return store


class StoreActor:
    """Acts on the join through the methods of Store."""

    def __init__(self, join):
        self.join = join

    def key(self, path):
        return path + "/" if self.join.lookup(path).is_directory else path

    def need_parent(self, path):
        above = parent_of(path)
        if above:
            self.join.lookup(above)

    def write(self, path, data):
        self.need_parent(path)
        self.join.set_data(path, io.BytesIO(data))

    def make_directory(self, path):
        self.need_parent(path)
        self.join.put(path + "/", new_stat(stat_module.S_IFDIR | 0o755))

    def unlink(self, path):
        self.join.delete(path)

    def remove_directory(self, path):
        self.join.delete(path + "/")

    def change_mode(self, path, mode):
        self.join.set_stat(self.key(path), mode=mode)

    def set_metadata(self, path, metadata):
        self.join.set_metadata(self.key(path), metadata)

    def rename(self, old, new):
        key = self.key(old)
        self.need_parent(new)
        self.join.rename(key, new + "/" if key.endswith("/") else new)

    def exchange(self, first, second):
        self.join.exchange(self.key(first), self.key(second))

    def seen(self, prefix=""):
        found = {}
        for name, stat in self.join.list(prefix):
            path = prefix + name
            key = path + "/" if stat.is_directory else path
            data = None if stat.is_directory else self.join.to_bytes(key)
            found[path] = (data, self.join.get_metadata(key), stat_module.S_IMODE(stat.mode))
            if stat.is_directory:
                found |= self.seen(path + "/")
        return found

    def close(self):
        pass


class FilesystemActor:
    """Acts on the join through the verbs of the file system, without a kernel."""

    def __init__(self, join):
        self.operations = Operations(join, Settings(entry_ttl=0.0))
        self.caller = Caller()

    def place(self, path):
        *above, name = path.split("/")
        return self.operations.walk(above), name

    def write(self, path, data):
        parent, name = self.place(path)
        try:
            handle = self.operations.open(self.operations.walk(path.split("/")), os.O_WRONLY | os.O_TRUNC)
        except KeyError:
            _, handle = self.operations.create(parent, name, stat_module.S_IFREG | 0o644, os.O_WRONLY, self.caller)
        try:
            self.operations.write(handle, 0, data)
            self.operations.flush(handle)
        finally:
            self.operations.release(handle)

    def make_directory(self, path):
        self.operations.mkdir(*self.place(path), 0o755, self.caller)

    def unlink(self, path):
        self.operations.unlink(*self.place(path))

    def remove_directory(self, path):
        self.operations.rmdir(*self.place(path))

    def change_mode(self, path, mode):
        self.operations.setattr(self.operations.walk(path.split("/")), mode=mode)

    def set_metadata(self, path, metadata):
        node = self.operations.walk(path.split("/"))
        self.operations.setxattr(node, "user.k", b"")  # so that it is a change, and copies up, whatever was there
        for name in self.operations.listxattr(node):
            self.operations.removexattr(node, name)
        for name, text in metadata.items():
            self.operations.setxattr(node, f"user.{name}", text.encode())

    def rename(self, old, new):
        self.operations.walk(old.split("/"))
        self.operations.rename(*self.place(old), *self.place(new))

    def exchange(self, first, second):
        self.operations.rename(*self.place(first), *self.place(second), flags=2)

    def listed(self, node):
        """The entries of a directory, three at a time, each counted once."""
        entries, offset = [], 0
        while page := self.operations.readdirplus(node, offset, lambda name: 1, 3):
            entries += page
            offset = page[-1].offset
        return [entry for entry in entries if entry.name not in {".", ".."}]

    def seen(self, node=ROOT, prefix=""):
        found = {}
        for child in self.listed(node):
            data = None
            if stat_module.S_ISREG(child.stat.mode):
                opened = self.operations.open(child.node, os.O_RDONLY)
                data = self.operations.read(opened, 0, 1000)
                self.operations.release(opened)
            names = self.operations.listxattr(child.node)
            metadata = {n[5:]: self.operations.getxattr(child.node, n).decode("utf-8", "surrogateescape") for n in names}
            found[prefix + child.name] = (data, metadata, stat_module.S_IMODE(child.stat.mode))
            if data is None:
                found |= self.seen(child.node, prefix + child.name + "/")
            self.operations.forget(child.node)
        return found

    def close(self):
        self.operations.close()


class JoinMachine(RuleBasedStateMachine):
    actor_class = StoreActor
    upper_kind = "memory"

    @initialize(layers=st.lists(LAYER, min_size=1, max_size=3))
    def join_them(self, layers):
        self.closing = contextlib.ExitStack()
        self.scratch = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        self.contents = [layer_entries(layer) for layer in layers]
        self.lowers = [make_layer(entries) for entries in self.contents]
        self.upper = self.make_upper()
        self.upper.connect()
        self.closing.callback(self.upper.disconnect)
        self.model = Tree.merged(self.contents)
        self.model.metacopy = self.upper_kind == "metacopy"
        self.actor = self.make_actor()
        self.added = 0

    def make_upper(self):
        if self.upper_kind in {"memory", "metacopy"}:
            return MemoryStore()
        if self.upper_kind == "sqlite":
            return SQLiteStore(self.scratch / "upper.db")
        if self.upper_kind == "flat":
            return DictStore({})
        (self.scratch / "upper").mkdir()
        return DirectoryStore(self.scratch / "upper")

    def make_actor(self):
        return self.actor_class(self.make_join())

    def make_join(self):
        return JoinedStore([self.upper, *self.lowers], whiteouts="overlay" if self.upper_kind == "overlay" else "oci")

    def both(self, action, *arguments):
        """Do it to the model and to the join: both do it, or both refuse for the same reason."""
        expected = self.outcome(getattr(self.model, action), *arguments)
        actual = self.outcome(getattr(self.actor, action), *arguments)
        # Which of two things that are wrong is told first is nobody's promise.
        if isinstance(expected, Exception) and isinstance(actual, Exception):
            return
        assert actual == expected, (action, arguments, actual, expected)

    @staticmethod
    def outcome(function, *arguments):
        from joinfs.errors import JoinfsError

        try:
            function(*arguments)
        except (KeyError, JoinfsError) as error:
            return error
        return None

    @rule(path=PATHS, data=DATA)
    def write(self, path, data):
        self.both("write", path, data)

    @rule(path=PATHS)
    def make_directory(self, path):
        if path not in self.model.entries:
            self.both("make_directory", path)

    @rule(path=PATHS)
    def unlink(self, path):
        self.both("unlink", path)

    @rule(path=PATHS)
    def remove_directory(self, path):
        self.both("remove_directory", path)

    @rule(path=PATHS, mode=MODES)
    def change_mode(self, path, mode):
        self.both("change_mode", path, mode)

    @rule(path=PATHS, metadata=METADATA)
    def set_metadata(self, path, metadata):
        self.both("set_metadata", path, metadata)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old, new):
        self.both("rename", old, new)

    @rule(first=PATHS, second=PATHS)
    def exchange(self, first, second):
        if first != second and self.upper_kind != "flat":
            self.both("exchange", first, second)

    @rule(steps=STEPS, more=STEPS, fails=st.booleans(), part_fails=st.booleans())
    def transaction(self, steps, more, fails, part_fails):
        """Several changes at once, or none of them; a part of them may be undone alone."""
        if self.actor_class is not StoreActor or self.upper_kind == "flat":
            return
        self.together(fails, [*steps, lambda: self.together(part_fails, more), *more])

    def together(self, fails, steps):
        before = copy.deepcopy(self.model)
        with contextlib.suppress(RollBack), self.actor.join.transaction("several"):
            for step in steps:
                step() if callable(step) else self.both(*step)
            if fails:
                raise RollBack
        if fails:
            self.model = before

    @rule(steps=STEPS)
    def crash(self, steps):
        """The process ends in the midst of a transaction: nothing of it was."""
        if self.upper_kind not in {"directory", "overlay", "sqlite"}:
            return
        self.actor.close()
        self.upper.disconnect()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                self.upper.connect()
                join = self.make_join()
                with join.transaction("never ends"):
                    actor = StoreActor(join)
                    with contextlib.suppress(RollBack), join.transaction("a part"):
                        for action, *arguments in steps:
                            self.outcome(getattr(actor, action), *arguments)
                        raise RollBack
                    for action, *arguments in steps:
                        self.outcome(getattr(actor, action), *arguments)
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        self.upper.connect()
        self.actor = self.make_actor()

    @rule()
    def remount(self):
        self.actor.close()
        self.actor = self.make_actor()

    @rule(data=DATA, choice=st.randoms(use_true_random=False))
    def edit_behind_its_back(self, data, choice):
        files = [(n, p) for n, entries in enumerate(self.contents) for p, e in entries.items() if not e.is_directory]
        if files:
            number, path = choice.choice(files)
            self.contents[number][path].data = data
            self.lowers[number].set_data(path, io.BytesIO(data))
            self.model.edited_below(number + 1, path, data)

    @rule(data=DATA, choice=st.randoms(use_true_random=False))
    def add_behind_its_back(self, data, choice):
        directories = [
            (n, p) for n, entries in enumerate(self.contents) for p, e in [("", Entry(None)), *entries.items()] if e.is_directory
        ]
        number, directory = choice.choice(directories)
        self.added += 1
        path = f"{directory}/late{self.added}".lstrip("/")
        entry = Entry(data, {}, 0o644)
        self.contents[number][path] = entry
        self.lowers[number].set(path, (io.BytesIO(data), {}))
        self.model.added_below(number + 1, directory, f"late{self.added}", entry)

    @invariant()
    def what_is_seen_is_what_the_model_says(self):
        expected = {p: (e.data, e.metadata, e.mode) for p, e in self.model.entries.items()}
        assert self.actor.seen() == expected

    @invariant()
    def queries_find_what_is_seen(self):
        if self.actor_class is not StoreActor:
            return
        files = {path: entry.metadata for path, entry in self.model.entries.items() if not entry.is_directory}
        assert sorted(self.actor.join.query()) == sorted(files.items())
        for name, value in {item for metadata in files.values() for item in metadata.items()}:
            wanted = [path for path in files if files[path].get(name) == value]
            assert sorted(self.actor.join.query_keys(**{name: value})) == sorted(wanted)

    @invariant()
    def the_lower_stores_are_as_they_were(self):
        for entries, lower in zip(self.contents, self.lowers, strict=True):
            raw = {p: (v[0], v[2]) for p, v in StoreActor(lower).seen().items()}
            assert raw == {p: (e.data, e.mode) for p, e in entries.items()}

    def teardown(self):
        if hasattr(self, "closing"):
            self.actor.close()
            self.closing.close()


@pytest.mark.parametrize("actor", [StoreActor, FilesystemActor])
@pytest.mark.parametrize("upper", ["memory", "metacopy", "directory", "overlay", "sqlite", "flat"])
@pytest.mark.timeout(600)
def test_the_join_is_what_the_model_says(upper, actor, monkeypatch):
    if upper == "metacopy":  # of any file
        monkeypatch.setattr("joinfs.joined.steps.LARGE", 0)
    machine = type("Machine", (JoinMachine,), {"upper_kind": upper, "actor_class": actor})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("JOINFS_EXAMPLES", "60")), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_model_refuses_to_move_a_directory_into_itself():
    tree = Tree({"a": Entry(None)})
    with pytest.raises(InvalidKey):
        tree.rename("a", "a/b")
