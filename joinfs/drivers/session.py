"""The kernel's requests, read, handed to what answers them, and answered.

Any number of threads do this, and one of them at a time leads: it reads the next request. What can be answered
at once it answers itself, and goes on to lead. Before what may have to wait, for a slow store or for a disk, it
lets another thread lead; so nothing that is quick waits for something slow, and as long as nothing is slow,
one thread does it all.

Whether a slow store has to be waited for is seen only when it is: much of what is asked is known here, and to wake another thread
takes several times as long as to answer that. So a deputy looks whether the leader is stuck in something, and lets another lead then;
and before the next requests of that kind another leads from the beginning.

See Also:
    fuse(4), for the errors of reading and writing the device.
"""

import errno
import logging
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from joinfs.drivers import wire
from joinfs.drivers.inbox import ENDED, Inbox
from joinfs.drivers.kernel_verbs import MAY_TAKE_LONG, KernelVerbs
from joinfs.drivers.trace import Trace
from joinfs.errors import JoinfsError, errno_of
from joinfs.filesystem.lapsing import Lapsing
from joinfs.filesystem.operations import Caller
from joinfs.filesystem.tally import Tally

log = logging.getLogger(__name__)

MOST_THREADS = 100
# After so many seconds in one request a leader is stuck; so many requests of the kind are not the leader's then.
STUCK = 0.001
NOT_THE_LEADERS = 30
# So often the deputy finds that nothing is asked, before it waits to be woken.
_QUIET = 50
# After so many seconds it is looked again whether who was interrupted is being ended.
_LOOKS_AGAIN = 0.1
# After so many seconds the kernel is told once more what it did not know of; an answer about that may have been on its way.
_TELLS_AGAIN = (0.2, 2.0)
# Notifications that are told again at a time; others' changes that are more are of what nobody looks at.
_MOST_AGAIN = 10_000
# These are never waited for.
_AT_ONCE = frozenset({"forget", "batch_forget", "interrupt", "init", "destroy"})
# These change nothing: who does not wait for the answer any more need not get it.
_WITHOUT_EFFECT = frozenset(
    {"lookup", "getattr", "statx", "readlink", "read", "readdir", "readdirplus", "getxattr", "listxattr", "access", "lseek", "statfs"}
)


class _Asked(NamedTuple):
    """One request."""

    request: wire.Request
    unique: int
    node: int
    caller: Caller
    arguments: tuple[Any, ...]


class Session:
    """One mount, from INIT to its end.

    Args:
        device: The descriptor of the mount.
        may_wait: Whether any request may have to wait for the store.
        is_thread_safe: Whether requests may be answered side by side.
        tally: Where requests are counted.
        trace: Where they are recorded, if they are to be.

    Attributes:
        has_epochs: Whether the kernel can be told at once to look up every name anew.
    """

    def __init__(self, device: int, may_wait: bool, is_thread_safe: bool, tally: Tally, trace: Trace | None = None) -> None:
        self._device = device
        self._inbox = Inbox(device)
        self._is_thread_safe = is_thread_safe
        self._tally = tally
        self._trace = trace
        self._lead = threading.Lock()
        self._lock = threading.Lock()
        self._following = 0
        self._threads: list[threading.Thread] = []
        # The thread that leads, and what it answers; and what others answer.
        self._leader = 0
        self._leads_in: _Asked | None = None
        self._in_hand: dict[int, _Asked] = {}
        # How many requests of a verb are still not the leader's; and whether the deputy looks.
        self._stuck_in: dict[str, int] = {}
        self._has_deputy = may_wait and is_thread_safe
        self._looked_after = threading.Event()
        self._ended = False
        self._notifying = threading.Lock()
        self._is_silent = False
        self._again: dict[bytes, int] = {}
        self._later = [Lapsing(self._tell_again, seconds) for seconds in _TELLS_AGAIN]
        self.has_epochs = False
        self._requests: dict[int, wire.Request] = {}
        self._verbs: KernelVerbs

    # ---------------------------------------------------------------- the beginning

    def negotiate(self, wanted: Callable[[wire.Init], wire.Init]) -> wire.Init | None:
        """Answer INIT, and answer what was agreed on; None if the mount went away.

        Args:
            wanted: Makes what we want of what the kernel offers.
        """
        view = memoryview(bytearray(wire.BUFFER_SIZE))
        while size := self._inbox.read(view, True):
            header = wire.IN_HEADER.unpack_from(view)
            _, opcode, unique, *_ = header
            if opcode != wire.INIT:
                self._fail(unique, errno.EIO)
                continue
            try:
                request = wire.requests(wire.Init(0))[opcode]
                major, minor, readahead, offered = wire.arguments(request, view[wire.IN_HEADER.size : size])
            except wire.Malformed:
                self._fail(unique, errno.EPROTO)
                return None
            if major > wire.MAJOR:
                self._reply(unique, wire.other_major())
                continue
            if major < wire.MAJOR or minor < wire.OLDEST_MINOR:
                self._fail(unique, errno.EPROTO)
                log.error("the kernel's FUSE protocol is %s.%s; this driver needs 7.31 (Linux 5.4)", major, minor)
                return None
            agreed = wanted(wire.Init(offered))
            self.has_epochs = minor >= wire.EPOCH_MINOR
            self._requests = wire.requests(agreed)
            self._reply(unique, wire.init(wire.Agreement(min(minor, wire.NEWEST_MINOR), agreed, readahead)))
            return agreed
        return None

    def serve(self, verbs: KernelVerbs) -> None:
        """Answer requests until the mount is gone, and all that were read have been answered."""
        self._verbs = verbs
        if self._has_deputy:
            deputy = threading.Thread(target=self._look_after, name="joinfs deputy", daemon=True)
            deputy.start()
            self._threads.append(deputy)
        self._work()
        self._looked_after.set()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Have ``serve`` return after the next request that comes, whatever there still is of the mount.

        Not from a thread that answers requests.
        """
        with self._notifying:  # what the kernel is being told may need answers of ours, which it still gets
            self._is_silent = True
        self._ended = True

    def notify(self, message: bytes) -> None:
        """Tell the kernel something unasked. Not from a thread that answers requests: the kernel may wait for those.

        What it does not know it cannot forget, and yet it may get to know it from an answer that is on its way. So it is told again.
        """
        if self._notify(message) == errno.ENOENT and len(self._again) < _MOST_AGAIN and message not in self._again:
            self._again[message] = 0
            self._later[0].put(message)

    def _tell_again(self, message: bytes) -> None:
        times = self._again[message] = self._again[message] + 1
        if self._notify(message) == errno.ENOENT and times < len(self._later):
            self._later[times].put(message)
        else:
            del self._again[message]

    def _notify(self, message: bytes) -> int:
        """Tell the kernel something, and answer its errno; 0 if it took it, or is gone."""
        try:
            with self._notifying:
                if not self._is_silent:
                    os.write(self._device, message)
        except OSError as error:
            # It does not know the node or the name; or the mount is going.
            if error.errno not in ENDED | {errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY}:
                log.warning("the kernel does not take a notification: %s", error)
            return error.errno or 0
        return 0

    def give(self, make: Callable[[], list[bytes]]) -> None:
        """Tell the kernel something that holds only until it is told otherwise, from a thread that answers requests.

        Args:
            make: Makes the messages; not called if somebody is telling the kernel something
                now. What others tell it comes after this, also if it happens before the message is sent.
        """
        if not self._notifying.acquire(blocking=False):  # who has it may be waiting for an answer of ours
            return
        try:
            for message in [] if self._is_silent else make():
                os.write(self._device, message)
        except OSError as error:
            log.debug("the kernel does not take what it is given: %s", error)
        finally:
            self._notifying.release()

    def close(self) -> None:
        """Let go of the device, when nobody tells the kernel anything any more: another file may get its number."""
        for later in self._later:
            later.close()
        with self._notifying:
            self._is_silent = True
            os.close(self._device)

    # ---------------------------------------------------------------- reading

    def _work(self) -> None:
        """Lead whenever nobody does, until the end."""
        self._verbs.begin()
        view = memoryview(bytearray(wire.BUFFER_SIZE))
        while not self._ended:
            with self._lock:
                self._following += 1
            self._lead.acquire()
            with self._lock:
                self._following -= 1
            if self._ended or not self._lead_on(view):
                self._ended = True
                self._lead.release()

    def _lead_on(self, view: memoryview) -> bool:
        """Read and answer until something has to wait, or may, and then let another lead. False at the end."""
        self._leader = me = threading.get_ident()
        while size := self._inbox.read(view, not self._in_hand):
            asked = self._asked(view[:size])
            if asked is None:
                continue
            self._leads_in = asked
            if self._waits(asked.request.verb, asked.arguments):
                self._relieve(asked)
            elif self._has_deputy and not self._looked_after.is_set():
                self._looked_after.set()
            if asked.request.verb == "interrupt":
                self._interrupt(*asked.arguments)
            else:
                self._answer(asked, size)
            if not self._leads_still(asked, me):
                return True
            if self._ended:
                break
        return False

    def _leads_still(self, asked: "_Asked", me: int) -> bool:
        """Whether the calling thread leads, after it has answered a request."""
        if not self._has_deputy:  # nobody else relieves it
            return self._leader == me
        with self._lock:
            if self._leader == me:
                self._leads_in = None
                return True
        # It may have been relieved when it had just answered; who was told meanwhile that it is interrupted has sent what the kernel does not take.
        self._in_hand.pop(asked.unique, None)
        return False

    def _asked(self, message: memoryview) -> "_Asked | None":
        """What is asked in a message. None if it is nothing that we know, or not of its shape, which is answered here."""
        size = len(message)
        if size < wire.IN_HEADER.size:
            return None
        length, opcode, unique, node, uid, gid, pid, extensions = wire.IN_HEADER.unpack_from(message)
        request = self._requests.get(opcode)
        if request is None:
            self._fail(unique, errno.ENOSYS)
            return None
        try:
            if length != size or wire.IN_HEADER.size + extensions * 8 > size:
                raise wire.Malformed(f"it is {size} bytes long, and says {length} and {extensions} extensions")
            arguments = request.parse(message[wire.IN_HEADER.size : size - extensions * 8])
        except (wire.Malformed, struct.error) as error:
            log.warning("a malformed request, %s: %s", request.verb, error)
            if request.replies:
                self._fail(unique, errno.EINVAL)
            return None
        return _Asked(request, unique, node, Caller(uid, gid, pid), arguments)

    def _waits(self, verb: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the leader is not to answer this."""
        if verb in _AT_ONCE or not self._is_thread_safe:
            return False
        if more := self._stuck_in.get(verb, 0):
            self._stuck_in[verb] = more - 1
            return True
        return verb in MAY_TAKE_LONG and self._verbs.may_take_long(verb, arguments)

    def hand_over(self) -> None:
        """Have another thread read requests from now on, if the calling one does: it will have to wait."""
        asked = self._leads_in
        if asked is not None and self._leader == threading.get_ident() and self._is_thread_safe:
            self._relieve(asked)

    def _relieve(self, asked: "_Asked") -> bool:
        """Have another thread lead than the one that leads and answers this; False if it does that no more."""
        with self._lock:
            if self._leads_in is not asked:
                return False
            self._in_hand[asked.unique] = asked
            self._leads_in, self._leader = None, 0
            needs_another = not self._following and len(self._threads) < MOST_THREADS
        if needs_another:
            thread = threading.Thread(target=self._work, name="joinfs requests", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the others go on when they are done
                log.warning("no further thread can answer requests: %s", error)
            else:
                self._threads.append(thread)
        self._lead.release()
        return True

    def _look_after(self) -> None:
        """Relieve a leader that is stuck, as long as anything is asked, and wait until something is."""
        before, quiet = None, 0
        while not self._ended:
            asked = self._leads_in
            if asked is not None and asked is before and self._relieve(asked):
                self._stuck_in[asked.request.verb] = NOT_THE_LEADERS
            before, quiet = asked, 0 if asked is not None else quiet + 1
            if quiet > _QUIET:
                self._looked_after.clear()
                if self._leads_in is None and not self._ended:
                    self._looked_after.wait()
                quiet = 0
            time.sleep(STUCK)

    # ---------------------------------------------------------------- answering

    def _answer(self, asked: "_Asked", size: int) -> None:
        request, unique, node, caller, arguments = asked
        place = "" if self._trace is None else self._trace.place(node)
        begun = time.perf_counter_ns()
        reply, number = b"", 0
        try:
            reply = getattr(self._verbs, request.verb)(node, caller, *arguments)
        except (KeyError, JoinfsError, OSError) as error:
            number = errno_of(error)
        except Exception as error:
            log.exception("%s failed", request.verb)
            number = errno_of(error)
        if self._leader != threading.get_ident() and self._in_hand.pop(unique, None) is None:
            self._verbs.take_back(request.verb, reply)
        elif number and request.replies:
            self._fail(unique, number)
        elif request.replies and not self._reply(unique, reply):
            self._verbs.take_back(request.verb, reply)
        took = time.perf_counter_ns() - begun
        self._tally.add(request.verb, took, size, len(reply or b""))
        if self._trace is not None:
            self._trace.add(request.verb, place, arguments, caller.pid, number or reply, took)

    def _reply(self, unique: int, reply: bytes) -> bool:
        """Send an answer; False if nobody waits for it any more."""
        length = wire.OUT_HEADER.size + len(reply)
        header = wire.OUT_HEADER.pack(length, 0, unique)
        try:
            if length > 1 << 14:
                os.writev(self._device, [header, reply])
            else:
                os.write(self._device, header + reply)
        except OSError as error:
            if error.errno not in ENDED | {errno.ENOENT}:
                log.error("the kernel does not take an answer: %s", error)
                self._fail(unique, errno.EIO)
            return False
        return True

    def _fail(self, unique: int, number: int) -> None:
        try:
            os.write(self._device, wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -number, unique))
        except OSError as error:
            if error.errno not in ENDED | {errno.ENOENT}:
                log.error("the kernel does not take an error: %s", error)

    def _interrupt(self, unique: int) -> None:
        """Who waits for a request was sent a signal: if that ends it, what has no effect need not be waited for."""
        asked = self._in_hand.get(unique)
        if asked is not None and asked.request.verb in _WITHOUT_EFFECT and not self._ended_for(asked):
            threading.Thread(target=self._until_ended_for, args=(asked,), name="joinfs interrupted", daemon=True).start()

    def _ended_for(self, asked: _Asked) -> bool:
        """Answer a request, if it is not answered yet, of which nobody will see that it was interrupted."""
        if is_being_killed(asked.caller.pid) and self._in_hand.pop(asked.unique, None) is not None:
            self._fail(asked.unique, errno.EINTR)
        return asked.unique not in self._in_hand

    def _until_ended_for(self, asked: _Asked) -> None:
        """The kernel tells of the first signal alone, and not of which it is."""
        while not self._ended_for(asked):
            time.sleep(_LOOKS_AGAIN)


def is_being_killed(thread: int) -> bool:
    """Whether a thread has been sent a signal that ends its process; so it seems of one that cannot be seen from here."""
    try:
        with open(f"/proc/{thread}/status") as status:
            pending = [line for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
    except OSError:
        return True
    return any(int(line.split()[1], 16) >> (signal.SIGKILL - 1) & 1 for line in pending)
