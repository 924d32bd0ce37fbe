"""Running a command in a copy-on-write view: what it writes goes into a store of its own, and is kept, committed or discarded afterwards.

The view is mounted by ``inside``, a process in a mount namespace of its own, and served from here, where the directory that it is mounted over is
still what it was. So it can be mounted over one of the stores that it shows, such as the current directory.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from joinfs import inside
from joinfs.config import MountOptions, parse_store
from joinfs.drivers.devfuse import DevfuseDriver
from joinfs.errors import UsageError
from joinfs.joined.difference import Change, diff
from joinfs.joined.store import JoinedStore
from joinfs.mounting import mount, open_join, operations_of
from joinfs.mountpoint import check_upper_apart, leaves, own_directory, state_place
from joinfs.stores import Store, open_store
from joinfs.stores.directory import DirectoryStore

DATABASES = (".db", ".sqlite", ".sqlite3")


class Ran(NamedTuple):
    """How a command went.

    Attributes:
        code: Its exit code, or 128 and the number of the signal that ended it.
        changes: What it changed.
        join: The view, connected until the end of the ``with`` block.
        upper: What opens the store that took the changes.
        remark: What the user should know, if anything.
    """

    code: int
    changes: list[Change]
    join: JoinedStore
    upper: str
    remark: str = ""


@contextlib.contextmanager
def run(command: Sequence[str], stores: Sequence[str | Store] = (".",), *, keep: str | None = None, place: str = ".") -> Iterator[Ran]:
    """Run a command in a view of some stores, and yield how it went, for the length of a ``with`` block.

    The stores are not changed. What the command writes is in a store of its own, which is there until the end of the block; there it
    can be looked at (``ran.join``) and committed (``joinfs.commit(ran.join)``), and after it is gone, unless ``keep`` says where it stays. If the
    block is left by an exception, it stays where it is, with ``.kept`` at the end of its name.

    Args:
        command: The program and its arguments.
        stores: Stores, or their paths or URLs; the first has priority.
        keep: The store that takes the changes, made if it is not there: a path or URL. A path that ends in ``.db`` is an SQLite file, another
            one a directory.
        place: Where the view is mounted, which the command alone sees, and the directory in which it is run.

    Raises:
        UsageError: A store or the place is not there.
        MountError: The machine does not let us mount.
        StoreError, OSError: Something could not be written at the end; what could not is kept staged.
    """
    if not command:
        raise UsageError("say which command to run, after '--'")
    if not os.path.isdir(place):
        raise UsageError(f"{place} is not a directory")
    opened = [store if isinstance(store, Store) else open_join((parse_store(store),)).layers[0] for store in stores]
    with _upper(keep, opened) as (upper, url):
        join = JoinedStore([upper, *opened])
        check_upper_apart(join)
        with join:
            code, remark = _served(join, os.path.abspath(place), command)
            yield Ran(code, list(diff(join)), join, url, remark)


@contextlib.contextmanager
def _upper(keep: str | None, lowers: Sequence[Store]) -> Iterator[tuple[Store, str]]:
    """The store that takes the changes, and what opens it; it goes at the end, with all that is in it, unless it is to be kept."""
    if keep is not None:
        made = ":" not in keep and not os.path.lexists(keep) and not keep.endswith(DATABASES)
        url = keep if ":" in keep else _url_of(os.path.abspath(keep))
        try:
            yield open_store(url, connect=False), url
        finally:
            if made and os.path.isdir(keep) and not os.listdir(keep):
                os.rmdir(keep)
        return
    place = _fresh_place(lowers)
    try:
        yield DirectoryStore(place), place
    except BaseException:  # nobody has said that they are not wanted
        if os.path.isdir(place) and os.listdir(place):
            kept(place)
        raise
    finally:
        if os.path.isdir(place):
            _remove(place)


def kept(place: str) -> str:
    """Have a store that has taken changes stay; answer where it is then."""
    new = f"{place}.kept"
    os.rename(place, new)
    return new


def _url_of(path: str) -> str:
    if not os.path.lexists(path) and not path.endswith(DATABASES):
        os.mkdir(path)
    return f"sqlite:{path}" if path.endswith(DATABASES) else f"dir:{path}" if os.path.isdir(path) else path


def _fresh_place(lowers: Sequence[Store]) -> str:
    """A new directory that is in none of the stores."""
    real = [os.path.realpath(path) for lower in lowers for leaf in leaves(lower) if (path := getattr(leaf, "path", None)) is not None]
    for place in (state_place("runs"), os.path.join(tempfile.gettempdir(), f"joinfs-runs-{os.geteuid()}"), f"/dev/shm/joinfs-runs-{os.geteuid()}"):
        if place is not None and not any(f"{os.path.realpath(place)}/".startswith(path.rstrip("/") + "/") for path in real):
            new = os.path.join(own_directory(Path(place)), secrets.token_hex(6))
            os.mkdir(new, 0o755)
            return new
    raise UsageError("the stores have every directory in them that could take the changes; say where with --keep PATH")


def _remove(place: str) -> None:
    """Remove a directory with all that is in it, whatever its modes are."""

    def allow(path: str) -> None:
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path)
        else:
            os.unlink(path)

    if sys.version_info >= (3, 12):
        shutil.rmtree(place, onexc=lambda _, path, __: allow(path))
    else:
        shutil.rmtree(place, onerror=lambda _, path, __: allow(path))


# -------------------------------------------------------------------- the view


def _served(join: JoinedStore, place: str, command: Sequence[str]) -> tuple[int, str]:
    """Run a command in a mount of its own; the exit code, and a remark."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with its:
            program = [sys.executable, "-I", inside.__file__, str(its.fileno()), place, *command]
            process = subprocess.Popen(program, pass_fds=[its.fileno()], cwd=place)
        message, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
        if not descriptors:
            process.wait()
            return _in_sight(join, command, message.decode(errors="replace"))
        with _patient(process), _answered(join, place, descriptors[0]):
            ours.sendall(b"\0")
            return process.wait(), ""


@contextlib.contextmanager
def _answered(join: JoinedStore, place: str, device: int) -> Iterator[None]:
    """Answer the kernel for as long as it is mounted, which the other process ends."""
    driver = DevfuseDriver(mounter=lambda *_: device)
    options = MountOptions()
    failed: list[BaseException] = []
    with operations_of(join, place, options, driver) as operations:

        def serve() -> None:
            try:
                driver.serve(operations, place, options, lambda: None)
            except BaseException as error:  # handed to the thread that waits
                failed.append(error)

        thread = threading.Thread(target=serve, name="joinfs run", daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _patient(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """What the terminal sends is for the command; what ends us is handed on to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    saved = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    saved |= {number: signal.signal(number, lambda number, _: process.send_signal(number)) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def _in_sight(join: JoinedStore, command: Sequence[str], why: str) -> tuple[int, str]:
    """Run a command in a mount that others see too, where this machine allows no other."""
    place = tempfile.mkdtemp(prefix="joinfs-run-")
    try:
        with mount(join, place):
            process = subprocess.Popen(command, cwd=place)
            with _patient(process):
                code = process.wait()
    except FileNotFoundError:
        return inside.NOT_FOUND, f"there is no command {command[0]}"
    finally:
        os.rmdir(place)
    return code if code >= 0 else 128 - code, f"it was run in {place}, as this machine allows no private mount ({why})"

