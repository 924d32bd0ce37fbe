"""Getting hold of the kernel's end of a mount: mount(2) for root, fusermount for everyone else.

See Also:
    fuse(4); fusermount3(1); ``fuse_kern_mount`` in libfuse's lib/mount.c for how its helper is spoken to.
"""

import array
import contextlib
import ctypes
import errno
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from joinfs.config import MountOptions
from joinfs.errors import MountError
from joinfs.mountpoint import DEVICE, fusermount

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 1, 2, 4, 8, 1024
_libc = ctypes.CDLL(None, use_errno=True)


def mounted(mountpoint: str, options: MountOptions) -> int:
    """Mount, and answer the descriptor on which the kernel's requests are read and answered.

    Raises:
        MountError: It could not be mounted.
    """
    return _by_root(mountpoint, options) if os.geteuid() == 0 else _by_helper(mountpoint, options)


def read_ahead(mountpoint: str, kibibytes: int) -> None:
    """Have the kernel read ahead by so much in a mount: it begins with what suits disks. Root only; others do without."""
    place = _octal(mountpoint)  # which is its real path; to ask for that now would wait for ourselves
    with contextlib.suppress(OSError):
        for line in reversed(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()):
            _, _, device, _, mounted_on, *_ = line.split(" ")
            if mounted_on == place:
                Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(kibibytes))
                return


def _octal(path: str) -> str:
    """A path as mountinfo spells it; see proc(5)."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)


def _by_root(mountpoint: str, options: MountOptions) -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{DEVICE} cannot be opened: {error.strerror}") from None
    allow_other = options.allow_other is None or options.allow_other
    data = [f"fd={device}", "rootmode=40000", "user_id=0", f"group_id={os.getegid()}", "default_permissions"]
    data += ["allow_other"] if allow_other else []
    wanted = {
        _RDONLY: options.read_only,
        _NOSUID: not options.suid,
        _NODEV: not options.dev,
        _NOEXEC: not options.exec,
        _NOATIME: not options.atime,
    }
    flags = sum(flag for flag, given in wanted.items() if given)
    source = options.fsname.encode()
    if _libc.mount(source, os.fsencode(mountpoint), b"fuse.joinfs", flags, ",".join(data).encode()) != 0:
        number = ctypes.get_errno()
        os.close(device)
        raise MountError(_why_not(mountpoint, number))
    return device


def _why_not(mountpoint: str, number: int) -> str:
    if number == errno.EPERM:
        return f"the kernel does not let us mount on {mountpoint}: a container needs the capability CAP_SYS_ADMIN for that"
    if number == errno.ENODEV:
        return "the kernel has no FUSE: load its module with: modprobe fuse"
    return f"{mountpoint} cannot be mounted on: {os.strerror(number)}"


def _by_helper(mountpoint: str, options: MountOptions) -> int:
    program = fusermount()
    if program is None:
        raise MountError("mounting without root needs fusermount; install it with: apt-get install fuse3")
    words = ["default_permissions", "subtype=joinfs", f"fsname={options.fsname}"]
    wanted = {
        "ro": options.read_only,
        "noexec": not options.exec,
        "noatime": not options.atime,
        "allow_other": bool(options.allow_other),
    }
    words += [word for word, given in wanted.items() if given]
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, its:
        command = [program, "-o", ",".join(words), "--", mountpoint]
        environment = {**os.environ, "_FUSE_COMMFD": str(its.fileno())}
        done = subprocess.run(
            command, env=environment, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no reason was given"]
            raise MountError(f"{mountpoint} cannot be mounted on: {said[-1]}")
        return _received(ours)


def _received(sock: socket.socket) -> int:
    """The descriptor that the helper sends; SCM_RIGHTS in unix(7)."""
    size = array.array("i").itemsize
    _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(size))
    descriptors = _descriptors(ancillary)
    if not descriptors:
        raise MountError("fusermount has mounted and sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> "array.array[int]":
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found
