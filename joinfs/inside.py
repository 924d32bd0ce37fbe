"""The process that stands between ``joinfs run`` and its command: it mounts where only the command sees it, and waits.

It imports nothing of joinfs, and is started by its path, as what the command is run in may hold anything. Over the socket
that it is given it sends the descriptor of /dev/fuse, or a sentence on why there is none, and waits for a byte, which says that
somebody answers there.

Root needs a mount namespace. Everybody else needs a user namespace as well, in which nobody is root but the mount is allowed; the user and
group are the same inside. Processes that the command leaves behind are ended with it: what they write could not be told of.

See Also:
    unshare(2), user_namespaces(7), mount_namespaces(7), fuse(4), PR_SET_CHILD_SUBREAPER in prctl(2).
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
_RECURSIVE_PRIVATE, _NOSUID, _NODEV, _DETACH = 1 << 14 | 1 << 18, 2, 4, 2
_SUBREAPER = 36
# Seconds that what the command has left gets to end by itself.
PATIENCE = 3.0
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_libc = ctypes.CDLL(None, use_errno=True)


def main(number: int, place: str, command: Sequence[str]) -> int:
    """Mount at ``place`` for a command, run it there, and answer its exit code, or 128 and the number of the signal that ended it."""
    with socket.socket(fileno=number) as told:
        try:
            device = _mounted(os.path.realpath(place))
        except OSError as error:
            told.sendall(f"{error.strerror}: {error.filename}".encode("utf-8", "surrogateescape"))
            return 1
        socket.send_fds(told, [b"\0"], [device])
        os.close(device)
        if not told.recv(1):  # nobody answers
            return 1
    os.chdir(place)  # what is mounted there, and not what was below
    code = _run(command)
    _end_all()
    os.chdir("/")
    if _libc.umount2(os.fsencode(place), 0) != 0:
        _libc.umount2(os.fsencode(place), _DETACH)
    return code


def _mounted(place: str) -> int:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _check(_libc.unshare(NEW_MOUNTS), "a mount namespace")
    else:
        _check(_libc.unshare(NEW_MOUNTS | NEW_USER), "a user namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _check(_libc.mount(None, b"/", None, _RECURSIVE_PRIVATE, None), "making mounts private")
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)  # in the namespace that mounts, which the kernel insists on
    others = ",allow_other" if user == 0 else ""
    data = f"fd={device},rootmode=40000,user_id={user},group_id={group},default_permissions{others}".encode()
    _check(_libc.mount(b"joinfs", os.fsencode(place), b"fuse.joinfs", _NOSUID | _NODEV, data), f"mounting on {place}")
    return device


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _run(command: Sequence[str]) -> int:
    _libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        _execute(command)
    for number in (signal.SIGINT, signal.SIGQUIT):  # the terminal sends them to the command too, which decides
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _execute(command: Sequence[str]) -> None:
    """Become the command. Never returns."""
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - which is asked for
    except OSError as error:
        if isinstance(error, FileNotFoundError) or ("/" not in command[0] and shutil.which(command[0]) is None):
            sys.stderr.write(f"joinfs: there is no command {command[0]}\n")
            sys.stderr.flush()
            os._exit(NOT_FOUND)
        sys.stderr.write(f"joinfs: {command[0]} cannot be run: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(NOT_EXECUTABLE)


def _end_all() -> None:
    """End the processes that the command has left."""
    until = time.monotonic() + PATIENCE
    for number in (signal.SIGTERM, signal.SIGKILL):
        while children := _children():
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if number == signal.SIGTERM and time.monotonic() > until:
                break
            time.sleep(0.02)


def _children() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
