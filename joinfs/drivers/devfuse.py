"""The driver that speaks the kernel's protocol itself, on Linux.

What is agreed on in INIT: listings with attributes, so that a walk is one request for many names; no open
or close of directories; caches that are kept as long as nobody tells us of a change; and, for root, files
that the kernel reads and writes past us (passthrough), else its write cache.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

from joinfs.config import MountOptions
from joinfs.drivers.device import mounted, read_ahead
from joinfs.drivers.kernel_verbs import KernelVerbs
from joinfs.drivers.passthrough import Backings
from joinfs.drivers.session import Session
from joinfs.drivers.trace import Trace, tracing
from joinfs.drivers.wire import MOST_BYTES, Init, delete, inc_epoch, inval_entry, inval_inode
from joinfs.errors import JoinfsError
from joinfs.filesystem.operations import Operations
from joinfs.mountpoint import unmount
from joinfs.stores.beneath import sync_filesystem

log = logging.getLogger(__name__)

WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.NO_OPENDIR_SUPPORT
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
    | Init.INIT_EXT
    | Init.DIRECT_IO_ALLOW_MMAP
    | Init.DONT_MASK
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class DevfuseDriver:
    """The driver, as ``drivers.Driver`` has it.

    Args:
        mounter: Mounts, and answers the descriptor of the device; who mounts otherwise than we do unmounts, too.
    """

    idle_nodes = 0

    def __init__(self, mounter: Callable[[str, MountOptions], int] = mounted) -> None:
        self._mounter = mounter

    def serve(
        self, operations: Operations, mountpoint: str, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        with tracing(operations, options, "devfuse") as trace:
            self._serve(operations, mountpoint, options, on_ready, trace)

    def _serve(
        self, operations: Operations, mountpoint: str, options: MountOptions, on_ready: Callable[[], None], trace: Trace | None
    ) -> None:
        device = self._mounter(mountpoint, options)
        session = Session(device, operations.may_wait, operations.is_thread_safe, operations.tally, trace)
        try:
            with _ended_by_signals(session, mountpoint):
                agreed = session.negotiate(lambda offered: offered & _wanted(operations, options, offered))
                if agreed is not None:
                    if agreed & Init.POSIX_ACL:
                        operations.have_acls()
                    read_ahead(mountpoint, MOST_BYTES >> 10)
                    on_ready()
                    backings = Backings(device) if agreed & Init.PASSTHROUGH else None
                    with _told(operations, session, bool(agreed & Init.WRITEBACK_CACHE)):
                        give = None if operations.may_wait else session.give
                        operations.before_waiting(session.hand_over)
                        session.serve(KernelVerbs(operations, options, agreed, backings, give))
        except BaseException:
            if self._mounter is mounted:
                with contextlib.suppress(JoinfsError):
                    unmount(mountpoint, lazy=True)
            raise
        finally:
            session.close()


def _wanted(operations: Operations, options: MountOptions, offered: Init) -> Init:
    wanted = WANTED
    if operations.can_have_acls:
        wanted |= Init.POSIX_ACL
    if os.geteuid() == 0 and offered & Init.PASSTHROUGH and options.passthrough:
        return wanted | Init.PASSTHROUGH
    # Either, not both: the kernel's write cache would not know of what is written past us.
    return wanted | Init.WRITEBACK_CACHE


@contextlib.contextmanager
def _told(operations: Operations, session: Session, writes_back: bool) -> Iterator[None]:
    """Hand on to the kernel what others change."""

    class Kernel:
        keeps_sizes = writes_back

        def entry_changed(self, parent: int, name: str) -> None:
            session.notify(inval_entry(parent, name))

        def entry_gone(self, parent: int, name: str, node: int) -> None:
            session.notify(delete(parent, node, name))

        def names_changed(self, names: Iterable[tuple[int, str]]) -> None:
            if session.has_epochs:
                session.notify(inc_epoch())
            for parent, name in () if session.has_epochs else names:
                session.notify(inval_entry(parent, name))

        def node_changed(self, node: int, data: bool) -> None:
            session.notify(inval_inode(node, data))

    operations.tell(Kernel())
    try:
        yield
    finally:
        operations.tell(None)


@contextlib.contextmanager
def _ended_by_signals(session: Session, mountpoint: str) -> Iterator[None]:
    """Have the signals that end a program end the mount, in the main thread; elsewhere they are somebody else's.

    A thread of its own waits for them. A handler in Python would run in the main thread alone, which may be waiting
    while the kernel gives the signal to another, and which may hold what it takes to start a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(sending, False)
    thread = threading.Thread(target=_end_at_signal, args=(receiving, session, mountpoint), name="joinfs end", daemon=True)
    thread.start()
    saved_descriptor = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    # Not SIG_IGN: that would be inherited by the programs that we start.
    saved = {number: signal.signal(number, lambda _number, _frame: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(saved_descriptor)
        os.close(sending)  # which ends the thread, and that closes its end


def _end_at_signal(receiving: int, session: Session, mountpoint: str) -> None:
    with os.fdopen(receiving, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in _SIGNALS:
                _end(session, mountpoint)


def _end(session: Session, mountpoint: str) -> None:
    """Have what the kernel's caches hold written to us, then take the mount away, whoever uses it."""
    try:
        place = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_filesystem(place)
            unmount(mountpoint, lazy=True)
            session.stop()
            os.statvfs(place)  # files that are open there keep the mount alive: so it is asked for something
        finally:
            os.close(place)
    except (JoinfsError, OSError) as error:
        log.info("%s: %s", mountpoint, error)
