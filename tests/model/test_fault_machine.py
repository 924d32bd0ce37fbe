"""A state machine drives a file system over stores that fail, wait and break off.

No wrong byte is ever read, and no acknowledged write is lost. SEMANTICS.md, Staged writes; Errors; Crashes.
"""

import contextlib
import errno
import io
import itertools
import os
import stat as stat_module
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from joinfs.errors import JoinfsError, OutOfSpace, StoreUnavailable, errno_of
from joinfs.filesystem.operations import ROOT, Caller, Operations, Settings
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.testing import Fault, FaultyStore
from joinfs.testing.faulty import never

NAMES = ["a", "b", "c", "d"]
PATHS = st.sampled_from([*NAMES, *(f"x/{name}" for name in NAMES)])
CALLER = Caller(os.geteuid(), os.getegid())
FULL, AWAY, BROKEN = OutOfSpace("full"), StoreUnavailable("away"), OSError(errno.EREMOTEIO, "broken")
FAULTS = st.sampled_from(
    [Fault(FULL), Fault(AWAY), Fault(BROKEN), Fault(FULL, late=True), Fault(BROKEN, late=True), Fault(most=0), Fault(most=5), Fault(delay=0.001)]
)
# What an operation may say of these, of breaking off, and of how things are.
TOLD = {errno.ENOSPC, errno.EIO, errno.EREMOTEIO, errno.ECONNRESET, errno.EUCLEAN}
USUAL = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}


class Once:
    """A schedule: from the n-th call of one of the stores on, so many calls go wrong."""

    def __init__(self, first, count, fault):
        self.first, self.last, self.fault = first, first + count, fault
        self.calls = 0
        self.hits = 0

    def __call__(self, method):
        self.calls += 1
        if not self.first <= self.calls - 1 < self.last:
            return None
        self.hits += 1
        return self.fault


SCHEDULES = st.one_of(st.just(None), st.tuples(st.integers(0, 12), st.sampled_from([1, 1, 2, 100]), FAULTS, st.integers(0, 1)))


class FaultMachine(RuleBasedStateMachine):
    """For each path: what it may have now, None for nothing there."""

    upper_kind = "memory"

    @initialize()
    def mount(self):
        self.closing = contextlib.ExitStack()
        scratch = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        lower = MemoryStore()
        lower.connect()
        self.tokens = itertools.count()
        self.may = {}
        for path in (*NAMES[:2], *(f"x/{name}" for name in NAMES[1:3])):
            content = self.token() * 3
            lower.set(path, (io.BytesIO(content), {"from": "lower"}))
            self.may[path] = {content}
        self.lower, self.upper = FaultyStore(lower, never), FaultyStore(self.make_upper(scratch), never)
        self.upper.connect()
        self.closing.callback(self.upper.disconnect)
        self.begin()

    def make_upper(self, scratch):
        if self.upper_kind == "directory":
            (scratch / "upper").mkdir()
            return DirectoryStore(scratch / "upper")
        return SQLiteStore(scratch / "upper.db") if self.upper_kind == "sqlite" else MemoryStore()

    def begin(self):
        self.fs = Operations(JoinedStore([self.upper, self.lower]), Settings(entry_ttl=0.0))
        self.handles = {}

    def token(self):
        return f"<{next(self.tokens)}>".encode() * 5

    def states(self, path):
        return self.may.get(path, {None})

    @contextlib.contextmanager
    def going_wrong(self, schedule):
        """Have calls of a store go wrong meanwhile; what is told of it must be exact."""
        planned = None
        if schedule is not None:
            first, count, fault, which = schedule
            planned = Once(first, count, fault)
            (self.upper, self.lower)[which].schedule = planned
        try:
            yield
        except (JoinfsError, OSError, KeyError) as error:
            self.failed = error
        finally:
            self.upper.schedule = self.lower.schedule = never
        if self.failed:
            allowed = USUAL | (TOLD if planned is not None and planned.hits else set())
            assert errno_of(self.failed) in allowed, repr(self.failed)

    def attempt(self, schedule, function, *arguments):
        """Answer ``(succeeded, answer)``."""
        self.failed, answer = None, None
        with self.going_wrong(schedule):
            answer = function(*arguments)
        return self.failed is None, answer

    def place(self, path):
        *above, name = path.split("/")
        return self.fs.walk(above), name

    # ---------------------------------------------------------------- what is done

    def put(self, path, data):
        parent, name = self.place(path)
        try:
            handle = self.fs.open(self.fs.walk(path.split("/")), os.O_WRONLY | os.O_TRUNC)
        except KeyError:
            _, handle = self.fs.create(parent, name, stat_module.S_IFREG | 0o644, os.O_WRONLY, CALLER)
        self.write_and_close(handle, data)

    def write_and_close(self, handle, data):
        try:
            self.fs.write(handle, 0, data)
            self.fs.flush(handle)
        finally:
            with contextlib.suppress(JoinfsError, OSError):
                self.fs.release(handle)

    @rule(path=PATHS, schedule=SCHEDULES, size=st.sampled_from([1, 3]))
    def write(self, path, schedule, size):
        data = self.token() * size
        succeeded, _ = self.attempt(schedule, self.put, path, data)
        self.may[path] = {data} if succeeded else self.states(path) | {data, b""}

    def add(self, path, data):
        handle = self.fs.open(self.fs.walk(path.split("/")), os.O_WRONLY | os.O_APPEND)
        self.write_and_close(handle, data)

    @rule(path=PATHS, schedule=SCHEDULES)
    def append(self, path, schedule):
        data = self.token()
        succeeded, _ = self.attempt(schedule, self.add, path, data)
        longer = {old + data for old in self.states(path) if old is not None}
        self.may[path] = longer if succeeded else self.states(path) | longer

    def take(self, path):
        handle = self.fs.open(self.fs.walk(path.split("/")), os.O_RDONLY)
        try:
            return self.fs.read(handle, 0, 1000)
        finally:
            self.fs.release(handle)

    @rule(path=PATHS, schedule=SCHEDULES)
    def read(self, path, schedule):
        succeeded, data = self.attempt(schedule, self.take, path)
        if succeeded:
            assert data in self.states(path), (path, data, self.states(path))

    @rule(path=PATHS, schedule=SCHEDULES)
    def unlink(self, path, schedule):
        succeeded, _ = self.attempt(schedule, lambda: self.fs.unlink(*self.place(path)))
        self.may[path] = {None} if succeeded else self.states(path) | {None}

    @rule(old=PATHS, new=PATHS, schedule=SCHEDULES)
    def rename(self, old, new, schedule):
        if old == new:
            return
        succeeded, _ = self.attempt(schedule, lambda: self.fs.rename(*self.place(old), *self.place(new)))
        moved = self.states(old) - {None}
        self.may[new] = moved if succeeded else self.states(new) | moved
        self.may[old] = {None} if succeeded else self.states(old) | {None}

    @rule(path=PATHS, schedule=SCHEDULES, mode=st.sampled_from([0o600, 0o640]))
    def chmod(self, path, schedule, mode):
        self.attempt(schedule, lambda: self.fs.setattr(self.fs.walk(path.split("/")), mode=mode))

    @rule(path=PATHS, schedule=SCHEDULES, size=st.sampled_from([0, 4]))
    def truncate(self, path, schedule, size):
        succeeded, _ = self.attempt(schedule, lambda: self.fs.setattr(self.fs.walk(path.split("/")), size=size))
        cut = {old[:size].ljust(size, b"\0") for old in self.states(path) if old is not None}
        self.may[path] = cut if succeeded else self.states(path) | cut

    # ---------------------------------------------------------------- a file that stays open

    @rule(path=PATHS, schedule=SCHEDULES)
    def open(self, path, schedule):
        if path in self.handles:
            return
        succeeded, handle = self.attempt(schedule, lambda: self.fs.open(self.fs.walk(path.split("/")), os.O_RDWR))
        if succeeded:
            self.handles[path] = handle

    @rule(path=PATHS, schedule=SCHEDULES, end=st.sampled_from(["flush", "fsync", "nothing"]))
    def write_on(self, path, schedule, end):
        """Through a handle; what was written is read there, whatever becomes of it in the store."""
        if path not in self.handles:
            return
        handle, data = self.handles[path], self.token()
        node = self.fs.node_of(handle)
        succeeded, _ = self.attempt(schedule, self.fs.write, handle, 0, data)
        if succeeded:
            assert self.fs.read(handle, 0, len(data)) == data
        if not self.fs._nodes[node].is_unlinked:
            now = self.fs._nodes[node].path()  # it may have been renamed
            changed = {data + old[len(data) :] for old in self.states(now) if old is not None}
            self.may[now] = changed if succeeded else self.states(now) | changed
        if end != "nothing":
            self.attempt(schedule, getattr(self.fs, end), handle)

    @rule(path=PATHS, schedule=SCHEDULES)
    def release(self, path, schedule):
        if path in self.handles:
            self.attempt(schedule, self.fs.release, self.handles.pop(path))

    # ---------------------------------------------------------------- what must hold

    @invariant()
    def nothing_else_is_seen(self):
        if not hasattr(self, "fs"):
            return
        for path in [*NAMES, *(f"x/{name}" for name in NAMES)]:
            try:
                seen = self.take(path)
            except KeyError:
                seen = None
            assert seen in self.states(path), (path, seen, self.states(path))
            self.may[path] = {seen}
        for directory, prefix in ((ROOT, ""), (self.fs.walk(["x"]), "x/")):
            listed = {entry.name for entry in self.fs.readdir(directory, 0)} - {".", "..", "x"}
            assert listed == {name for name in NAMES if self.states(prefix + name) != {None}}

    @rule()
    def mount_again(self):
        """Once nothing goes wrong any more everything gets into the stores, and is what was seen."""
        for handle in self.handles.values():
            with contextlib.suppress(JoinfsError, OSError):
                self.fs.release(handle)
        self.fs.close()
        self.begin()
        self.nothing_else_is_seen()

    def teardown(self):
        if hasattr(self, "fs"):
            self.mount_again()
            self.fs.close()
            assert all(store.schedule is never for store in (self.upper, self.lower))
            self.closing.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("upper", ["memory", "sqlite", "directory"])
def test_nothing_is_lost_or_wrong_over_stores_that_fail(upper):
    class Machine(FaultMachine):
        upper_kind = upper

    examples = int(os.environ.get("JOINFS_EXAMPLES", "100"))
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True),
    )
