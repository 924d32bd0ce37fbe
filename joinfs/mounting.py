"""The composition root: opens stores, joins them, mounts the result, and takes it all down again."""

import contextlib
import fcntl
import gc
import hashlib
import logging
import logging.handlers
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Self

from joinfs.config import MountConfig, MountOptions, StoreSpec, option_text, parse_options, parse_store
from joinfs.config_file import absolute
from joinfs.control.annexing import annexed
from joinfs.control.requests import Subject
from joinfs.control.server import listening
from joinfs.drivers import Driver, pick
from joinfs.errors import JoinfsError, MountError, UsageError
from joinfs.filesystem.operations import Operations, Settings
from joinfs.filesystem.staging import Staging, left_in
from joinfs.joined import open_store
from joinfs.joined.store import JoinedStore
from joinfs.mountpoint import (
    check_apart,
    check_machine,
    check_mounted,
    check_mountpoint,
    check_upper_apart,
    leaves,
    locked,
    note_of,
    staging_place,
    state_place,
    unmount,
)
from joinfs.notifying import notify
from joinfs.stores import Store, without_cache

log = logging.getLogger(__name__)

STARTED = b"ready"
SYSLOG = "syslog"


def open_join(specs: tuple[StoreSpec, ...], options: MountOptions | None = None, read_only: bool = False) -> JoinedStore:
    """Answer the join of some stores; not connected yet.

    Raises:
        UsageError: One of them is not there, or of no known kind.
    """
    stores = []
    for spec in specs:
        # A store in memory is new, and so is nobody's to keep from being written.
        store = open_store(spec.url, connect=False, read_only=read_only and spec.url != "memory:")
        store.name = spec.name or store.name
        stores.append(store)
    how = options or MountOptions()
    return JoinedStore(stores, directory_ttl=how.lower_ttl, whiteouts=how.whiteouts, metacopy=how.metacopy)


def with_upper(config: MountConfig, upper: str | None) -> MountConfig:
    """Answer the same with a store before the others, if one is wanted, or needed because none of them takes writes and can be had.

    Args:
        config: What is to be mounted.
        upper: A store's URL or path; ``auto`` for an SQLite file in the user's state directory, called after the other stores. None is
            "if it is needed".

    Raises:
        UsageError: A store is not there; or there can be no such file.
    """
    if upper not in {None, "auto"}:
        return replace(config, stores=(parse_store(upper or ""), *config.stores))
    if upper is None and (config.options.read_only or _takes_writes(config.stores)):
        return config
    path = _place_of_upper(config.stores)
    if path is None and upper is None:
        return config  # which then takes no changes
    if path is None:
        raise UsageError("there is no directory of yours for an SQLite file to take the changes; say where with --upper sqlite:FILE")
    return replace(config, stores=(StoreSpec(f"sqlite:{path}"), *config.stores))


def _takes_writes(specs: tuple[StoreSpec, ...]) -> bool:
    return any(open_store(spec.url, connect=False).capabilities.writable for spec in specs)


def _place_of_upper(lowers: tuple[StoreSpec, ...]) -> str | None:
    """Where an SQLite file for changes to some stores is, whose name is made of theirs; None if it cannot be anywhere."""
    place = state_place("uppers")
    if place is None:
        return None
    urls = [without_cache(absolute(spec.url, os.getcwd())) for spec in lowers]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", os.path.basename(urls[0].rstrip("/")))[:40].strip("-.") or "upper"
    digest = hashlib.blake2b("\0".join(urls).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return os.path.join(place, f"{name}-{digest}.db")


# -------------------------------------------------------------------- in this process


@contextlib.contextmanager
def mount(store: Store, mountpoint: str | os.PathLike[str], *, driver: str = "auto", **options: object) -> Iterator[str]:
    """Mount a store for the length of a ``with`` block, served by a thread of this process.

    What Python writes to ``store`` meanwhile shows in the mount. Whatever keeps this process from running
    Python while it waits for the mount waits for ever, as it is this process that answers: so do not
    map files of the mount into memory here (``mmap``, ``numpy.memmap``, loading an extension module),
    but in another process, or mount with the command. Starting processes is safe: for the length of
    the block ``subprocess`` uses fork(2), not vfork(2).

    Args:
        store: Any store; connected for as long if it is not.
        mountpoint: A directory.
        driver: ``auto``, ``devfuse`` or ``fusepy``.
        **options: As for ``-o``: ``ro=True``, ``passthrough=False`` (for ``-o nopassthrough``), ``attr_timeout=0``, ...

    Yields:
        The real path of the mountpoint.

    Raises:
        UsageError: The mountpoint or an option is no good.
        MountError: The machine would not mount; or, at the end, the mount is in use, and stays.
        StoreError, OSError: At the end: something could not be committed.
    """
    for name in options.keys() & {"whiteouts", "metacopy"}:
        raise UsageError(f"{name} is for the join: JoinedStore(stores, {name}=...)")
    texts = [option_text(name, value) for name, value in options.items()]
    config = MountConfig(stores=(), mountpoint=os.fspath(mountpoint), options=parse_options(texts), driver=driver)
    place = check_mountpoint(config.mountpoint)
    check_machine(config.options.allow_other)
    check_apart(store, place)
    check_upper_apart(store)
    with contextlib.ExitStack() as closing:
        if not store.is_connected():
            closing.enter_context(store)
        serving = pick(config.driver)
        operations = closing.enter_context(operations_of(store, place, config.options, serving))
        closing.enter_context(_plain_forks)
        closing.enter_context(_asked(store, operations, place, config.driver, config.options.read_only))
        closing.enter_context(_served_by_thread(serving, operations, place, config.options))
        yield place


class _PlainForks:
    """Keeps ``subprocess`` from using vfork(2), which stops us until the new process has executed its program.

    That program, its working directory, or a file that is closed on the way may be in the mount, and then
    the new process waits for us. See "Disabling use of vfork() or posix_spawn()" in the documentation of
    subprocess.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved: dict[str, bool] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                for name in ("_USE_VFORK", "_USE_POSIX_SPAWN"):
                    self._saved[name] = getattr(subprocess, name, False)
                    setattr(subprocess, name, False)

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for name, value in self._saved.items():
                    setattr(subprocess, name, value)


_plain_forks = _PlainForks()


@contextlib.contextmanager
def _served_by_thread(driver: Driver, operations: Operations, mountpoint: str, options: MountOptions) -> Iterator[None]:
    started, failed = threading.Event(), list[BaseException]()

    def serve() -> None:
        try:
            driver.serve(operations, mountpoint, options, started.set)
        except BaseException as error:  # handed to the thread that waits
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=serve, name=f"joinfs {mountpoint}", daemon=True)
    thread.start()
    started.wait()
    if failed:
        raise failed[0]
    try:
        yield
    finally:
        if thread.is_alive():
            unmount(mountpoint)
        thread.join()


@contextlib.contextmanager
def operations_of(store: Store, mountpoint: str, options: MountOptions, driver: Driver) -> Iterator[Operations]:
    """The file system over a connected store, held for one writer; what is staged is committed at the end."""
    with contextlib.nullcontext() if options.read_only else locked(store):
        staging = _staging(store, mountpoint, options)
        operations = Operations(store, Settings(read_only=options.read_only, idle_nodes=driver.idle_nodes, staging=staging))
        try:
            yield operations
        finally:
            operations.close()


def _staging(store: Store, mountpoint: str, options: MountOptions) -> Staging:
    """Where staged data is kept: where it outlives us, if the store does."""
    upper = next(leaves(store))
    if options.read_only or not upper.capabilities.persistent:
        return Staging()
    place = options.staging or staging_place()
    if place is None:
        log.warning("what is being written when the server ends is lost then: no directory can be made for it; give one with -o staging=DIR")
    return Staging(place, upper.name, mountpoint)


def _told_of_left(store: Store, options: MountOptions) -> str:
    """A sentence on what earlier servers have left of what was written to the first store; none if that is nothing."""
    upper = next(leaves(store))
    place = options.staging or staging_place()
    count = sum(left.store == upper.name for left in left_in(place)) if place is not None else 0
    if not count:
        return ""
    where = f" -o staging={place}" if options.staging else ""
    files = "a file that was" if count == 1 else f"{count} files that were"
    return f"{files} being written to {upper.name} when its server ended: what was not put into the store is kept; see: joinfs recover{where}"


# -------------------------------------------------------------------- as a server


def serve(config: MountConfig, on_ready: Callable[[str], None]) -> None:
    """Open the stores, mount their join, and serve until somebody unmounts it.

    ``on_ready`` is called when the mount answers, with what the user should know, if anything.

    Returns when everything is committed.

    Raises:
        JoinfsError, OSError: It could not be mounted; or, at the end, something could not be committed.
    """
    _prepare_process()
    mountpoint = check_mountpoint(config.mountpoint)
    join = open_join(config.stores, config.options)
    check_apart(join, mountpoint)
    check_upper_apart(join)
    check_machine(config.options.allow_other)
    driver = pick(config.driver)
    with _note(mountpoint) as note, join, operations_of(join, mountpoint, config.options, driver) as operations, _LibfuseSaid() as said:
        remark = _told_of_left(join, config.options)
        if remark:
            log.warning("%s", remark)

        def ready() -> None:
            note.was_mounted = True
            said.give_back()
            on_ready(remark)
            notify(f"READY=1\nSTATUS=mounted on {mountpoint}")

        try:
            with _asked(join, operations, config.mountpoint, config.driver, config.options.read_only):
                driver.serve(operations, mountpoint, config.options, ready)
            if config.options.stats:
                _tell_requests(operations)
            notify("STOPPING=1\nSTATUS=committing")
        except MountError as error:
            raise MountError(f"{error}: {said.text()}" if said.text() else str(error)) from error


def _tell_requests(operations: Operations) -> None:
    table = operations.tally.table()
    sys.stderr.write(f"{table}\n")
    log.info("requests:\n%s", table)


@contextlib.contextmanager
def _asked(store: Store, operations: Operations, mountpoint: str, driver: str, read_only: bool) -> Iterator[None]:
    """Answer what is asked of the mount of a join by others than the kernel, and have ``.joinfs/`` in it."""
    # What may not be called by several threads is called by those alone that answer the kernel.
    if not isinstance(store, JoinedStore) or not store.capabilities.thread_safe:
        yield
        return
    subject = Subject(store, operations, {"mountpoint": mountpoint, "driver": driver, "read_only": read_only})
    note = note_of(mountpoint)
    with subject.closing, contextlib.ExitStack() as ending:
        try:
            ending.enter_context(listening(subject, note.with_name(f"{note.name}.socket")))
        except OSError as error:
            log.warning("commands that ask a mount, such as joinfs diff, get no answer here: %s", error)
        ending.enter_context(annexed(subject))
        yield


def _prepare_process() -> None:
    """Have a process that does nothing but serve do that well."""
    # There may be millions of nodes, none of them garbage: looking through them all again and again would stop us for long.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # Who computes lets those who have a quick answer go first.
    sys.setswitchinterval(0.0005)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Note:
    """What a running mount leaves where ``end`` finds it: a file, locked for as long as the server lives."""

    was_mounted = False


@contextlib.contextmanager
def _note(mountpoint: str) -> Iterator[_Note]:
    """Hold the mount's note; what goes wrong after it was mounted is left in it, for who unmounts."""
    path, note = note_of(mountpoint), _Note()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield note
        except (JoinfsError, OSError) as error:
            file.write(f"{error}\n" if note.was_mounted else "")
            raise
        finally:
            path.unlink(missing_ok=True)


class _LibfuseSaid:
    """Keeps what libfuse writes to standard error while it mounts, to be told in one sentence."""

    def __enter__(self) -> Self:
        sys.stderr.flush()
        self._kept = tempfile.TemporaryFile()
        self._saved = os.dup(2)
        self._taken = True
        os.dup2(self._kept.fileno(), 2)
        return self

    def give_back(self) -> None:
        """Let standard error be what it was."""
        if self._taken:
            self._taken = False
            os.dup2(self._saved, 2)

    def text(self) -> str:
        """The last line that was written."""
        self._kept.seek(0)
        lines = self._kept.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def __exit__(self, *exc_info: object) -> None:
        self.give_back()
        os.close(self._saved)
        self._kept.close()


def start(config: MountConfig) -> str:
    """Start a server in the background and return when its mount answers, with what the user should know, if anything.

    Raises:
        MountError: It did not come up; the sentence is the server's.
    """
    receiving, sending = os.pipe()
    if os.fork() == 0:
        os.close(receiving)
        _become_server(config, sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as told:
        answer = told.read()
    os.wait()
    if not answer.startswith(STARTED):
        raise MountError(answer.decode(errors="replace").strip() or "the server died before it could mount")
    return answer.removeprefix(STARTED).decode(errors="replace")


def _become_server(config: MountConfig, sending: int) -> None:
    """Leave the terminal and its session behind, and serve. Never returns."""
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def tell(message: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(sending, message)
            os.close(sending)

    def ready(remark: str) -> None:
        os.chdir("/")  # not before: stores may have been given by relative paths
        tell(STARTED + remark.encode())

    status = 1
    try:
        log_to(config)
        serve(config, ready)
        status = 0
    except (JoinfsError, OSError) as error:
        log.error("%s", error)
        tell(str(error).encode())
    except BaseException:
        log.exception("the server failed")
        tell(b"the server failed; --log-file FILE shows how")
    finally:
        logging.shutdown()
        os._exit(status)


def log_to(config: MountConfig) -> None:
    """Write the log to where it is to go: a file, which may be moved away by who rotates it, ``syslog``, or standard error.

    Raises:
        UsageError: It cannot be written there.
    """
    place = config.log_file
    try:
        handler = _handler(place)
    except OSError as error:
        raise UsageError(f"the log file {place} cannot be written: {error.strerror}") from None
    logger = logging.getLogger("joinfs")
    logger.setLevel(config.log_level.upper())
    logger.addHandler(handler)


def _handler(place: str | None) -> logging.Handler:
    handler: logging.Handler
    if place == SYSLOG:
        os.stat("/dev/log")  # the handler would drop what nobody takes
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.ident = "joinfs: "
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        return handler
    handler = logging.StreamHandler() if place is None else logging.handlers.WatchedFileHandler(place)
    is_journal = place is None and "JOURNAL_STREAM" in os.environ  # which has times of its own, and wants to know how bad it is
    handler.setFormatter(_ForJournal() if is_journal else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


class _ForJournal(logging.Formatter):
    """Lines with a level before them, as sd-daemon(3) has it."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6 if record.levelno >= logging.INFO else 7
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


def end(mountpoint: str) -> None:
    """Unmount, and return when the server has committed everything and has gone.

    Raises:
        UsageError: There is no mount.
        MountError: It is in use; or the server could not commit everything.
    """
    check_mounted(mountpoint)
    note = note_of(mountpoint)
    with contextlib.ExitStack() as closing:
        held = None
        with contextlib.suppress(FileNotFoundError):
            held = closing.enter_context(note.open())
        unmount(mountpoint)
        if held is None:
            return
        fcntl.flock(held, fcntl.LOCK_EX)
        failure = held.read().strip()
    if failure:
        raise MountError(f"not everything could be committed, and what could not is kept: {failure}; see: joinfs recover")
