"""A session whose kernel is this test, at the other end of a pair of sockets: for what no kernel sends.

SEMANTICS.md, Errors; Threads; Waiting.
"""

import contextlib
import errno
import fcntl
import io
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import termios
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joinfs.config import MountOptions
from joinfs.drivers import session, wire
from joinfs.drivers.devfuse import WANTED
from joinfs.drivers.kernel_verbs import KernelVerbs
from joinfs.drivers.session import NOT_THE_LEADERS, STUCK, Session
from joinfs.drivers.wire import Init
from joinfs.filesystem.operations import ROOT, Operations
from joinfs.filesystem.tally import Tally
from joinfs.stores.memory import MemoryStore

PATIENCE = 20
IN_HEADER, OUT_HEADER = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
LOOKUP, FORGET, GETATTR, MKDIR, WRITE, LISTXATTR, INIT, INTERRUPT, BATCH_FORGET, READDIRPLUS = 1, 2, 3, 9, 16, 23, 26, 36, 42, 44
WITHOUT_ANSWER = {FORGET, INTERRUPT, BATCH_FORGET}
OPCODES = [*range(1, 64), 4096, 0xFFFFFFFF]
UNKNOWN = [7, 19, 31, 32, 33, 37, 39, 40, 41, 48, 49, 54, 4096, 1 << 20, 0xFFFFFFFF]  # among them the locks, IOCTL, POLL


class Kernel:
    """The kernel's end."""

    def __init__(self, sock):
        self.sock = sock
        self.unique = 1
        sock.settimeout(PATIENCE)

    def send(self, opcode, body=b"", node=ROOT, *, length=None, extensions=0, caller=None):
        """Send a request, and answer its number."""
        self.unique += 2
        size = IN_HEADER.size + len(body) if length is None else length
        header = IN_HEADER.pack(size, opcode, self.unique, node, os.geteuid(), os.getegid(), caller or os.getpid(), extensions, 0)
        until(lambda: self._sent(header + body))
        return self.unique

    def _sent(self, message):
        try:
            return self.sock.send(message) == len(message)
        except OSError as error:  # there are moments without so much memory in one piece
            if error.errno != errno.ENOBUFS:
                raise
            return False

    def receive(self):
        """Answer the next reply: to which request, its errno, and the rest."""
        message = self.sock.recv(1 << 21)
        length, error, unique = OUT_HEADER.unpack_from(message)
        assert length == len(message)
        return unique, -error, message[OUT_HEADER.size :]

    def ask(self, opcode, body=b"", node=ROOT, **more):
        """Send a request and answer its reply, which is the next that comes."""
        unique = self.send(opcode, body, node, **more)
        answered, error, reply = self.receive()
        assert answered == unique
        return error, reply

    def rest(self):
        """Send nothing more, and answer all replies that come until the session has ended.

        A socket that was found empty, and then gets a message and the end, may tell of the end first (unix(7)'s SOCK_SEQPACKET, not
        blocking); so the end is sent when all messages have been taken.
        """
        until(lambda: self._untaken() == 0)
        self.sock.shutdown(socket.SHUT_WR)
        replies = []
        while True:
            message = self.sock.recv(1 << 21)
            if not message:
                return replies
            replies.append(OUT_HEADER.unpack_from(message))

    def _untaken(self):
        """How much of what was sent the session has not read, if only whether it is nothing."""
        return struct.unpack("=i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]

    def init(self, minor=45, offered=WANTED, readahead=131_072):
        body = struct.pack("=IIII", 7, minor, readahead, offered & 0xFFFFFFFF)
        if minor >= 36:
            body += struct.pack("=I44x", offered >> 32)
        error, reply = self.ask(INIT, body, 0)
        assert error == 0
        return reply

    def is_served(self):
        """Whether a plain question is answered as it has to be."""
        error, reply = self.ask(GETATTR, struct.pack("=IIQ", 0, 0, 0))
        return error == 0 and stat.S_ISDIR(struct.unpack_from("=I", reply, 16 + 60)[0])


class Served:
    """A session and the thread that serves it."""

    def __init__(self, ours, operations, may_wait=False):
        self.operations = operations
        self.session = Session(ours.fileno(), may_wait, operations.is_thread_safe, operations.tally)
        self.agreed = []
        self.failed = []
        self.thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        self.thread.start()

    def _serve(self, ours):
        try:
            agreed = self.session.negotiate(lambda offered: offered & WANTED)
            self.agreed.append(agreed)
            if agreed is not None:
                self.session.serve(KernelVerbs(self.operations, MountOptions(), agreed, None))
        except BaseException as error:
            self.failed.append(error)
        finally:
            ours.close()

    def end(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.failed == []


@contextlib.contextmanager
def serving(store=None, *, may_wait=False, init=True):
    """Give the kernel's end and the session; at the end the kernel goes away, and the session must end."""
    with store or MemoryStore() as connected:
        operations = Operations(connected)
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        served = Served(ours, operations, may_wait)
        kernel = Kernel(theirs)
        try:
            if init:
                kernel.init()
            yield kernel, served
        finally:
            theirs.close()
            served.end()
            operations.close()


def until(holds):
    """Wait for what is told by no event."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


# -------------------------------------------------------------------- the beginning


@pytest.mark.parametrize(("minor", "spoken"), [(31, 31), (40, 40), (45, 45), (60, 45)])
def test_the_older_minor_version_is_spoken_with_what_both_know(minor, spoken):
    offered = (WANTED | Init.PASSTHROUGH | 1 << 60) if minor >= 36 else WANTED & 0xFFFFFFFF & ~Init.INIT_EXT
    with serving(init=False) as (kernel, served):
        reply = kernel.init(minor, offered)
        major, answered, readahead, low = struct.unpack_from("=IIII", reply)
        (high,) = struct.unpack_from("=I", reply, 32)
        assert (major, answered, readahead) == (7, spoken, 131_072)
        assert low | high << 32 == offered & WANTED
        assert kernel.is_served()
        assert served.agreed == [offered & WANTED]
        assert served.session.has_epochs == (minor >= 44)


def test_nothing_is_agreed_on_that_was_not_offered():
    with serving(init=False) as (kernel, _served):
        reply = kernel.init(45, Init.ASYNC_READ | Init.INIT_EXT)
        assert struct.unpack_from("=I", reply, 12) == (Init.ASYNC_READ | Init.INIT_EXT,)
        assert kernel.is_served()


def test_setxattr_has_the_shape_that_was_agreed_on():
    for offered, head in ((WANTED, "=IIII"), (WANTED & ~Init.SETXATTR_EXT, "=II")):
        with serving(init=False) as (kernel, _served):
            kernel.init(45, offered)
            numbers = (3, 0, 0, 0)[: len(head) - 1]
            assert kernel.ask(21, struct.pack(head, *numbers) + b"user.a\0one") == (0, b"")
            assert kernel.ask(22, struct.pack("=II", 100, 0) + b"user.a\0") == (0, b"one")


def test_a_kernel_with_a_newer_major_version_is_told_ours_and_begins_anew():
    with serving(init=False) as (kernel, served):
        error, reply = kernel.ask(INIT, struct.pack("=IIIII44x", 8, 3, 0, 0, 0), 0)
        assert (error, struct.unpack_from("=II", reply)) == (0, (7, 45))
        assert served.agreed == []
        kernel.init()
        assert kernel.is_served()


@pytest.mark.parametrize("version", [(7, 30), (7, 0), (6, 99)])
def test_a_kernel_that_is_too_old_is_refused(version):
    with serving(init=False) as (kernel, served):
        error, _ = kernel.ask(INIT, struct.pack("=IIII", *version, 0, 0), 0)
        assert error == errno.EPROTO
        served.thread.join(PATIENCE)
        assert served.agreed == [None]


def test_what_comes_before_init_is_refused():
    with serving(init=False) as (kernel, _served):
        assert kernel.ask(GETATTR, struct.pack("=IIQ", 0, 0, 0)) == (errno.EIO, b"")
        kernel.init()
        assert kernel.is_served()


def test_the_mount_may_go_away_before_it_began():
    with serving(init=False) as (kernel, served):
        kernel.sock.close()
        served.thread.join(PATIENCE)
        assert served.agreed == [None]


# -------------------------------------------------------------------- requests that are not as they should be


@pytest.mark.parametrize("opcode", UNKNOWN)
def test_what_is_not_known_is_answered_as_such(opcode):
    with serving() as (kernel, _served):
        assert kernel.ask(opcode, b"whatever") == (errno.ENOSYS, b"")
        assert kernel.is_served()


def test_what_is_not_of_its_shape_is_refused_and_no_more():
    with serving() as (kernel, _served):
        for opcode, body in ((LOOKUP, b"endless"), (LOOKUP, b""), (GETATTR, b"short"), (WRITE, struct.pack("=QQIIQII", 1, 0, 99, 0, 0, 0, 0))):
            assert kernel.ask(opcode, body) == (errno.EINVAL, b"")
        assert kernel.ask(LOOKUP, b"name\0", length=1000) == (errno.EINVAL, b"")
        assert kernel.ask(LOOKUP, b"name\0", length=41) == (errno.EINVAL, b"")
        assert kernel.is_served()


def test_a_header_that_is_cut_off_cannot_be_answered():
    with serving() as (kernel, _served):
        kernel.sock.send(b"\x01" * 39)
        assert kernel.is_served()
        assert kernel.rest() == []


def test_a_request_that_is_larger_than_any_may_be_is_refused():
    with serving() as (kernel, _served):
        try:
            kernel.sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        except PermissionError:
            pytest.skip("needs root: sends a packet of that size")
        assert kernel.ask(LOOKUP, b"n" * (wire.BUFFER_SIZE + 1000) + b"\0") == (errno.EINVAL, b"")
        assert kernel.is_served()


def test_extensions_of_a_request_are_not_taken_for_what_is_in_it():
    with serving() as (kernel, served):
        groups = struct.pack("=IIII", 16, 32, 1, 0)  # struct fuse_ext_header, and a fuse_supp_groups of one group
        error, _ = kernel.ask(MKDIR, struct.pack("=II", 0o755, 0) + b"d\0" + bytes(6) + groups, extensions=len(groups) // 8)
        assert error == 0
        assert served.operations.walk(["d"])


def test_more_extensions_than_the_request_is_long_are_malformed():
    with serving() as (kernel, _served):
        kernel.ask(MKDIR, b"\0" * 8 + b"made by nobody\0")
        assert kernel.ask(MKDIR, b"", extensions=0xFFFF) == (errno.EINVAL, b"")


def test_a_node_that_is_not_there_is_an_error_of_who_asks():
    with serving() as (kernel, _served):
        assert kernel.ask(GETATTR, struct.pack("=IIQ", 0, 0, 0), node=4711) == (errno.ENOENT, b"")
        assert kernel.ask(LOOKUP, b"name\0", node=0) == (errno.ENOENT, b"")
        assert kernel.is_served()


def replies_to(opcode, body, node=ROOT):
    """Everything that is answered to one request, and that all is well after it."""
    with serving() as (kernel, served):
        asked = kernel.send(opcode, body, node)
        after = kernel.send(GETATTR, struct.pack("=IIQ", 0, 0, 0))
        replies = kernel.rest()
        served.end()
    assert [(error, unique) for _, error, unique in replies if unique == after] == [(0, after)]
    assert {unique for _, _, unique in replies} <= {asked, after}
    return [-error for _, error, unique in replies if unique == asked]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(opcode=st.sampled_from([opcode for opcode in OPCODES if opcode not in WITHOUT_ANSWER]), body=st.binary(max_size=200))
def test_whatever_comes_is_answered_once(opcode, body):
    assert len(replies_to(opcode, body)) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(opcode=st.sampled_from(sorted(WITHOUT_ANSWER)), body=st.binary(max_size=64))
def test_what_expects_no_answer_gets_none(opcode, body):
    assert replies_to(opcode, body) == []


def test_what_is_forgotten_is_not_answered():
    with serving() as (kernel, served):
        _, reply = kernel.ask(MKDIR, struct.pack("=II", 0o755, 0) + b"d\0")
        (node,) = struct.unpack_from("=Q", reply)
        kernel.ask(LOOKUP, b"d\0")
        assert served.operations._nodes[node].lookups == 2
        kernel.send(FORGET, struct.pack("=Q", 1), node)
        kernel.send(BATCH_FORGET, struct.pack("=IIQQ", 1, 0, node, 1), 0)
        kernel.send(INTERRUPT, struct.pack("=Q", 12_345))
        assert kernel.is_served()
        assert served.operations._nodes[node].lookups == 0
        assert kernel.rest() == []


def test_a_batch_of_forgets_is_done_whatever_is_in_it():
    with serving() as (kernel, served):
        _, reply = kernel.ask(MKDIR, struct.pack("=II", 0o755, 0) + b"d\0")
        (node,) = struct.unpack_from("=Q", reply)
        served.operations._nodes[node].lookups += 1  # stays in the table
        kernel.send(BATCH_FORGET, struct.pack("=IIQQQQ", 2, 0, 4711, 1, node, 1), 0)
        kernel.send(GETATTR, struct.pack("=IIQ", 0, 0, 0))
        kernel.rest()
        assert served.operations._nodes[node].lookups == 1


# -------------------------------------------------------------------- waiting


class SlowStore(MemoryStore):
    """Looking up what is called ``slow...``, making it, and listing below it waits for ``go``."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)

    def _wait_if_slow(self, key):
        if "slow" in key and not self.go.is_set():
            self.waiting.release()
            assert self.go.wait(PATIENCE)

    def lookup(self, key):
        self._wait_if_slow(key)
        return super().lookup(key)

    def make(self, key, stat, target=b""):
        self._wait_if_slow(key)
        return super().make(key, stat, target)

    def list(self, directory, *arguments, **keywords):
        if directory:
            self._wait_if_slow(directory)
        return super().list(directory, *arguments, **keywords)

    def is_waited_for(self, times=1):
        return all(self.waiting.acquire(timeout=PATIENCE) for _ in range(times))


@pytest.fixture
def slow():
    store = SlowStore()
    with store:
        for name in ("slow", "quick", *(f"slow{number}" for number in range(8))):
            store.set(name, (io.BytesIO(name.encode()), {}))
        store.set("d slow/x", (io.BytesIO(b"x"), {}))
        store.set("d slow/y", (io.BytesIO(b"y"), {}))
    yield store
    store.go.set()


def lookups_of(operations, *path):
    """How often the kernel knows what is at a path; None if there is no node of it."""
    with operations._nodes.lock:
        node = operations._nodes.at("/".join(path))
        return None if node is None else node.lookups


@pytest.fixture
def stopped():
    """A process that waits, and sees no signal while it does."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def test_what_is_interrupted_is_answered_at_once_and_not_again(slow, stopped):
    stopped.kill()
    stopped.wait(PATIENCE)
    with serving(slow, may_wait=True) as (kernel, served):
        asked = kernel.send(LOOKUP, b"slow\0", caller=stopped.pid)
        assert slow.is_waited_for()
        kernel.send(INTERRUPT, struct.pack("=Q", asked))
        assert kernel.receive() == (asked, errno.EINTR, b"")
        slow.go.set()
        until(lambda: lookups_of(served.operations, "slow") == 0)
        assert kernel.is_served()
        assert kernel.rest() == []


def test_who_is_sent_a_signal_that_does_not_end_it_waits_until_one_does(slow, stopped):
    stopped.send_signal(signal.SIGALRM)  # which ends it, when it goes on
    with serving(slow, may_wait=True) as (kernel, _served):
        asked = kernel.send(LOOKUP, b"slow\0", caller=os.getpid())
        another = kernel.send(LOOKUP, b"slow1\0", caller=stopped.pid)
        assert slow.is_waited_for(2)
        kernel.send(INTERRUPT, struct.pack("=Q", asked))
        kernel.send(INTERRUPT, struct.pack("=Q", another))
        assert kernel.is_served()
        stopped.kill()
        assert kernel.receive() == (another, errno.EINTR, b"")
        slow.go.set()
        assert kernel.receive()[:2] == (asked, 0)


def test_nodes_of_a_listing_that_was_interrupted_are_not_known(slow, stopped):
    stopped.kill()
    stopped.wait(PATIENCE)
    with serving(slow, may_wait=True) as (kernel, served):
        slow.go.set()
        error, reply = kernel.ask(LOOKUP, b"d slow\0")
        assert error == 0
        (directory,) = struct.unpack_from("=Q", reply)
        slow.go.clear()
        asked = kernel.send(READDIRPLUS, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0), directory, caller=stopped.pid)
        assert slow.is_waited_for()
        kernel.send(INTERRUPT, struct.pack("=Q", asked))
        assert kernel.receive() == (asked, errno.EINTR, b"")
        slow.go.set()
        until(lambda: [lookups_of(served.operations, "d slow", name) for name in ("x", "y")] == [0, 0])
        assert kernel.is_served()
        assert kernel.rest() == []


def test_what_has_an_effect_is_not_interrupted(slow):
    with serving(slow, may_wait=True) as (kernel, served):
        asked = kernel.send(MKDIR, struct.pack("=II", 0o755, 0) + b"slowly\0")
        assert slow.is_waited_for()
        kernel.send(INTERRUPT, struct.pack("=Q", asked))
        assert kernel.is_served()
        slow.go.set()
        unique, error, reply = kernel.receive()
        assert (unique, error) == (asked, 0)
        assert lookups_of(served.operations, "slowly") == 1
        assert struct.unpack_from("=Q", reply) == (served.operations.walk(["slowly"]),)
        assert kernel.rest() == []


def test_an_interrupt_that_comes_late_or_of_nothing_is_no_matter(slow):
    with serving(slow, may_wait=True) as (kernel, served):
        error, _ = kernel.ask(LOOKUP, b"quick\0")
        assert error == 0
        kernel.send(INTERRUPT, struct.pack("=Q", kernel.unique))
        kernel.send(INTERRUPT, struct.pack("=Q", 0))
        assert kernel.is_served()
        assert kernel.rest() == []
        assert lookups_of(served.operations, "quick") == 1


def test_what_is_quick_does_not_wait_for_what_is_slow(slow):
    with serving(slow, may_wait=True) as (kernel, _served):
        asked = [kernel.send(LOOKUP, f"slow{number}\0".encode()) for number in range(8)]
        assert slow.is_waited_for(8)
        for _ in range(20):
            assert kernel.is_served()
        assert kernel.ask(LISTXATTR, struct.pack("=II", 0, 0))[0] == 0
        error, _ = kernel.ask(LOOKUP, b"quick\0")
        assert error == 0
        slow.go.set()
        assert sorted(kernel.receive()[:2] for _ in asked) == [(unique, 0) for unique in asked]
        assert kernel.is_served()


def threads_of(served):
    return [thread.name for thread in served.session._threads]


@pytest.fixture
def patient_deputy(monkeypatch):
    """A deputy that takes nothing for stuck that only has to wait for the processor."""
    monkeypatch.setattr(session, "STUCK", 0.3)


def test_what_is_known_of_a_slow_store_is_answered_without_another_thread(slow, patient_deputy):
    with serving(slow, may_wait=True) as (kernel, served):
        for _ in range(100):
            assert kernel.ask(LOOKUP, b"quick\0")[0] == 0
        assert threads_of(served) == ["joinfs deputy"]


def test_after_something_slow_the_next_of_its_kind_are_not_the_leaders_for_a_while(slow, patient_deputy):
    with serving(slow, may_wait=True) as (kernel, served):
        asked = kernel.send(LOOKUP, b"slow\0")
        until(lambda: served.session._stuck_in.get("lookup"))
        assert kernel.ask(LOOKUP, b"quick\0")[0] == 0
        assert served.session._stuck_in == {"lookup": NOT_THE_LEADERS - 1}
        for _ in range(2 * NOT_THE_LEADERS):
            assert kernel.ask(LOOKUP, b"quick\0")[0] == 0
        assert served.session._stuck_in == {"lookup": 0}
        slow.go.set()
        assert kernel.receive()[:2] == (asked, 0)


def test_all_is_answered_once_however_long_it_takes(slow):
    taking, asked = random.Random(1), []

    def lookup(key):
        asked.append(key)
        time.sleep(taking.choice([0, 0, STUCK / 2, STUCK, STUCK * 1.5, STUCK * 2]))  # what is just as long as the deputy waits
        return MemoryStore.lookup(slow, key)

    slow.lookup = lookup
    with serving(slow, may_wait=True) as (kernel, served):
        expected, answered = {}, {}

        def receive():
            unique, error, _ = kernel.receive()
            assert unique not in answered
            answered[unique] = error

        for number in range(1500):
            is_there = number % 5 == 0
            expected[kernel.send(LOOKUP, b"quick\0" if is_there else b"missing %d\0" % number)] = 0 if is_there else errno.ENOENT
            if len(expected) - len(answered) == 16 or number % 7 == 0:
                receive()
        while len(answered) < len(expected):
            receive()
        assert answered == expected
        assert lookups_of(served.operations, "quick") == 300
        assert len(asked) > 1000
        until(lambda: not served.session._in_hand)
        assert kernel.is_served()
        assert kernel.rest() == []


def test_a_store_that_is_not_safe_to_share_is_asked_one_thing_after_another(slow):
    slow.capabilities = slow.capabilities._replace(thread_safe=False)
    with serving(slow, may_wait=True) as (kernel, _served):
        first = kernel.send(LOOKUP, b"slow\0")
        assert slow.is_waited_for()
        second = kernel.send(GETATTR, struct.pack("=IIQ", 0, 0, 0))
        slow.go.set()
        assert [kernel.receive()[0] for _ in range(2)] == [first, second]


# -------------------------------------------------------------------- the end


def test_what_was_read_is_done_before_the_end(slow):
    with serving(slow, may_wait=True) as (kernel, served):
        asked = kernel.send(MKDIR, struct.pack("=II", 0o755, 0) + b"slowly\0")
        assert slow.is_waited_for()
        kernel.sock.shutdown(socket.SHUT_WR)
        slow.go.set()
        assert kernel.receive()[:2] == (asked, 0)
        served.end()
        assert slow.exists("slowly/")


def test_the_end_comes_when_the_kernel_goes_whatever_is_not_answered(slow):
    with serving(slow, may_wait=True) as (kernel, served):
        kernel.send(LOOKUP, b"slow\0")
        assert slow.is_waited_for()
        kernel.sock.close()
        slow.go.set()
        served.end()


def test_stopping_takes_effect_at_the_next_request():
    with serving() as (kernel, served):
        served.session.stop()
        kernel.send(GETATTR, struct.pack("=IIQ", 0, 0, 0))
        served.end()


# -------------------------------------------------------------------- notifications


class UnknownAtFirst(Session):
    """A session whose kernel does not know of what it is told, so many times."""

    def __init__(self, times):
        ours, self._theirs = socket.socketpair()
        super().__init__(ours.detach(), False, True, Tally())
        self.times, self.told = times, []

    def _notify(self, message):
        self.told.append(message)
        self.times -= 1
        return errno.ENOENT if self.times >= 0 else 0

    def close(self):
        super().close()
        self._theirs.close()


@pytest.mark.parametrize(("times", "count"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_what_the_kernel_did_not_know_of_is_told_again(monkeypatch, times, count):
    """An answer may have been on its way to it, with what is not so any more."""
    monkeypatch.setattr("joinfs.drivers.session._TELLS_AGAIN", (0.01, 0.02))
    session = UnknownAtFirst(times)
    try:
        session.notify(b"gone")
        until(lambda: not session._again)
        assert session.told == [b"gone"] * count
    finally:
        session.close()
