"""Asking a mount: the other end of the socket."""

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from joinfs import errors, mountpoint
from joinfs.errors import Conflict, JoinfsError, MountError
from joinfs.mountpoint import note_of
from joinfs.stores.beneath import sync_filesystem

# Requests on how things are, for which nothing need be put anywhere first.
ASKS_ABOUT_NOW = {"layers", "status"}
_USER = re.compile(r"(?:^|,)user_id=([0-9]+)")


class Mounted(NamedTuple):
    """A mount of joinfs: where it is, and whose."""

    mountpoint: str
    uid: int


def mounts() -> list[Mounted]:
    """Answer every mount of joinfs that there is, in the order in which they were made."""
    ours = ((mount.mountpoint, _USER.search(mount.options)) for mount in mountpoint.mounts() if mount.kind == mountpoint.FSTYPE)
    return [Mounted(place, int(user[1])) for place, user in ours if user is not None]


def mount_with(path: str) -> tuple[Mounted, str] | None:
    """Answer the mount that a path is in, and the key that it has there; None if it is in none. Symlinks at its end are not followed."""
    above, name = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(above), name) if name else os.path.realpath(above)
    candidates = [(mounted, place) for mounted in mounts() for place in {real, os.path.realpath(path)} if _is_in(place, mounted.mountpoint)]
    if not candidates:
        return None
    mounted, place = max(candidates, key=lambda candidate: len(candidate[0].mountpoint))
    return mounted, os.path.relpath(place, mounted.mountpoint) if place != mounted.mountpoint else ""


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def ask(
    mounted: Mounted,
    name: str,
    arguments: dict[str, Any],
    file: BinaryIO | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield what the server of a mount answers to a request.

    Args:
        mounted: The mount.
        name: One of ``requests.REQUESTS``.
        arguments: As that one has them.
        file: Where data is written that is asked for; the server writes to it.
        progress: Called with ``message``, ``done`` and ``total`` now and then.

    Raises:
        MountError: No server answers, or it has gone before it was done.
        JoinfsError, OSError, KeyError: What the server raised.
    """
    if name not in ASKS_ABOUT_NOW:
        _write_back(mounted.mountpoint)
    with _connected(mounted) as connection:
        line = json.dumps({"ask": name, "arguments": arguments}).encode() + b"\n"
        sent = socket.send_fds(connection, [line], [] if file is None else [file.fileno()])
        if sent < len(line):
            connection.sendall(line[sent:])
        with connection.makefile("rb") as lines:
            for line in lines:
                told = json.loads(line)
                if "answer" in told:
                    yield told["answer"]
                elif "progress" in told and progress is not None:
                    progress(told["progress"])
                elif "error" in told:
                    raise raised(told["error"])
                elif "end" in told:
                    return
    raise MountError(f"the server of {mounted.mountpoint} ended before it was done; its log says why")


def _write_back(mountpoint: str) -> None:
    """Have the kernel hand on what it caches of what was written."""
    with contextlib.suppress(OSError):  # whoever may ask the server need not be let in by the kernel
        descriptor = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _connected(mounted: Mounted) -> Iterator[socket.socket]:
    if os.geteuid() not in {0, mounted.uid}:
        raise MountError(f"{mounted.mountpoint} is a mount of another user, who alone, or root, can ask for this")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        for path in socket_paths(mounted):
            try:
                connection.connect(str(path))
            except OSError:
                continue
            yield connection
            return
    raise MountError(f"no server answers for {mounted.mountpoint}; if it has died: joinfs umount {mounted.mountpoint}")


def socket_paths(mounted: Mounted) -> list[Path]:
    """Where the socket of a mount can be, most likely first."""
    name = note_of(mounted.mountpoint).name + ".socket"
    if mounted.uid == os.geteuid():
        return [note_of(mounted.mountpoint).with_name(name)]
    return [Path(f"/run/user/{mounted.uid}/joinfs") / name, Path(f"/tmp/joinfs-{mounted.uid}") / name]


def raised(told: dict[str, Any]) -> Exception:
    """The error that a server has told, as an exception of the same class."""
    kind, text = str(told.get("kind")), str(told.get("text"))
    if kind == "OSError":
        return OSError(told.get("errno"), text, told.get("path"))
    if kind == "KeyError":
        return KeyError(text)
    if kind == "Conflict":
        return Conflict(text, told.get("reasons"))
    cls = getattr(errors, kind, None)
    return cls(text) if isinstance(cls, type) and issubclass(cls, JoinfsError) else JoinfsError(text)

