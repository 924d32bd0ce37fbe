"""What can be wrong with a mountpoint, or with stores for it, before anything is mounted; and unmounting."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat as stat_module
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from joinfs.errors import MountError, StoreLocked, UsageError
from joinfs.stores import Store
from joinfs.stores.views import View

DEVICE = "/dev/fuse"
FUSE_CONF = "/etc/fuse.conf"
FSTYPE = "fuse.joinfs"
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_libc = ctypes.CDLL(None, use_errno=True)


def check_mountpoint(path: str) -> str:
    """Answer the real path of a directory that can be mounted on.

    Raises:
        UsageError: It is not there, not a directory, or a mount already.
    """
    try:
        os.statvfs(path)  # attributes may be known of a mount whose server has died
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UsageError(f"the mountpoint {path} does not exist; make it with: mkdir -p {path}") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return _cleaned_up(path)
        raise UsageError(f"the mountpoint {path} cannot be reached: {error.strerror}") from None
    if not stat_module.S_ISDIR(mode):
        raise UsageError(f"the mountpoint {path} is not a directory")
    if os.path.ismount(path):
        raise UsageError(f"{path} is a mount already; unmount it first with: joinfs umount {path}")
    return os.path.realpath(path)


def _cleaned_up(path: str) -> str:
    """Take away what is left of a mount of ours whose server died, and answer the real path of the mountpoint then."""
    try:
        check_mounted(path)
        unmount(path, lazy=True)
    except (UsageError, MountError) as error:
        raise UsageError(f"{path} is the rest of a mount whose server died, and cannot be cleaned up: {error}") from None
    return check_mountpoint(path)


def check_machine(allow_other: bool | None) -> None:
    """Raise ``MountError`` if this machine does not let us mount at all."""
    if not os.path.exists(DEVICE):
        raise MountError(f"there is no {DEVICE}: load the kernel's module with 'modprobe fuse', or give the container the device")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountError(f"you may not open {DEVICE}; have root run: chmod 666 {DEVICE}")
    if os.geteuid() != 0 and fusermount() is None:
        raise MountError("mounting without root needs fusermount; install it with: apt-get install fuse3")
    if allow_other and os.geteuid() != 0 and not _user_allow_other():
        raise MountError(f"-o allow_other without root needs the line 'user_allow_other' in {FUSE_CONF}")


def _user_allow_other() -> bool:
    with contextlib.suppress(OSError):
        return "user_allow_other" in Path(FUSE_CONF).read_text().split()
    return False


def fusermount() -> str | None:
    """The set-user-ID program that mounts and unmounts for ordinary users."""
    path = os.pathsep.join([os.environ.get("PATH", ""), _SYSTEM_PATH])
    return shutil.which("fusermount", path=path) or shutil.which("fusermount3", path=path)


# -------------------------------------------------------------------- stores


def leaves(store: Store) -> Iterator[Store]:
    """The stores that a store is joined of, or a view of, in their order; else itself."""
    if isinstance(store, View):
        yield from leaves(store.store)
        return
    for layer in getattr(store, "layers", ()) or (store,):
        if layer is store:
            yield store
        else:
            yield from leaves(layer)


def caches(store: Store) -> Iterator[str]:
    """The directories in which what was read of a store, or of those that it is made of, is kept."""
    path = getattr(store, "path_of_cache", None)
    if path is not None:
        yield path
    inner = (store.store,) if isinstance(store, View) else getattr(store, "layers", ())
    for one in inner:
        if one is not store:
            yield from caches(one)


def check_apart(store: Store, mountpoint: str) -> None:
    """Raise ``UsageError`` if the mountpoint is inside a layer, or a layer inside the mountpoint."""
    for leaf in leaves(store):
        place = getattr(leaf, "path", None)
        if place is None:
            continue
        real = os.path.realpath(place)
        if os.path.commonpath([real, mountpoint]) in {real, mountpoint}:
            raise UsageError(
                f"the mountpoint {mountpoint} and the store {leaf.name} are inside each other; mount somewhere else"
            )
    for cache in caches(store):
        real = os.path.realpath(cache)
        if os.path.commonpath([real, mountpoint]) in {real, mountpoint}:
            raise UsageError(f"the mountpoint {mountpoint} and the cache {cache} are inside each other; mount somewhere else")


def check_upper_apart(store: Store) -> None:
    """Raise ``UsageError`` if what is written to the first store of a join would change another one."""
    upper, *lowers = leaves(store)
    place = getattr(upper, "path", None)
    if place is None or not upper.capabilities.writable:
        return
    real = os.path.realpath(place)
    for lower in lowers:
        other = os.path.realpath(getattr(lower, "path", os.devnull))
        nested = os.path.isdir(real) and os.path.isdir(other) and os.path.commonpath([real, other]) in {real, other}
        if other == real or nested:
            raise UsageError(f"the first store {upper.name} takes the writes, and {lower.name} is in the same place; give it another place")


@contextlib.contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold the first store of a join for one writer.

    The lock is flock(2) on the medium itself, so it holds whatever path it was reached by, and is gone
    when its holder is.

    Raises:
        StoreLocked: Another mount writes to it.
    """
    upper = next(leaves(store))
    path = getattr(upper, "path", None)
    if path is None or not upper.capabilities.writable:
        yield
        return
    lock = _lock_on(path)
    if not lock.take():
        _let_go(lock)
        raise StoreLocked(f"another mount writes to {upper.name}; unmount that, or mount with another first store")
    try:
        yield
    finally:
        lock.give_back()
        _let_go(lock)


class _Lock:
    """A lock on a file or directory. The descriptor of a file stays open.

    Whoever closes a descriptor of a file drops all the locks of fcntl(2) that its process has on it, and those are what keeps the
    processes that use an SQLite database from harming each other. See "How To Corrupt An SQLite Database File", 2.2.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_directory = stat_module.S_ISDIR(os.fstat(descriptor).st_mode)
        self.users = 0
        self._is_held = False
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Take it, if nobody has it, in this process or another."""
        with self._guard:
            if self._is_held:
                return False
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._is_held = True
            return True

    def give_back(self) -> None:
        """Let others have it."""
        with self._guard:
            self._is_held = False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


# By device and inode number.
_locks: dict[tuple[int, int], _Lock] = {}
_locking = threading.Lock()


def _lock_on(path: str) -> _Lock:
    with _locking:
        native = os.stat(path)
        place = native.st_dev, native.st_ino
        if place not in _locks:
            _locks[place] = _Lock(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        _locks[place].users += 1
        return _locks[place]


def _let_go(lock: _Lock) -> None:
    with _locking:
        lock.users -= 1
        if lock.is_directory and not lock.users:
            for place in [place for place, known in _locks.items() if known is lock]:
                del _locks[place]
            lock.close()


# -------------------------------------------------------------------- unmounting


def runtime_directory() -> Path:
    """Where a running mount leaves its note; made if need be.

    Raises:
        MountError: It is somebody else's.
    """
    if os.geteuid() == 0:
        place = Path("/run/joinfs")
    elif os.environ.get("XDG_RUNTIME_DIR"):
        place = Path(os.environ["XDG_RUNTIME_DIR"]) / "joinfs"
    else:
        place = Path(f"/tmp/joinfs-{os.geteuid()}")  # the owner is checked below
    own_directory(place)
    return place


def staging_place() -> str | None:
    """Where staged data is kept so that it outlives its server; made if need be. None if it cannot be there."""
    return state_place("staged")


def state_place(name: str) -> str | None:
    """Where something of the user's is kept that lasts; made if need be. None if it cannot be there.

    ``/var/lib/joinfs/NAME`` for root, and ``joinfs/NAME`` in ``$XDG_STATE_HOME`` (``~/.local/state``) for others.
    """
    state = "/var/lib" if os.geteuid() == 0 else os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    place = Path(state) / "joinfs" / name
    try:
        return own_directory(place)
    except (OSError, MountError):
        return None


def own_directory(place: Path) -> str:
    """Answer a directory that is ours alone, made if need be.

    Raises:
        MountError: It is somebody else's.
        OSError: It cannot be made.
    """
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.lstat().st_uid != os.geteuid() or not stat_module.S_ISDIR(place.lstat().st_mode):
        raise MountError(f"{place} belongs to somebody else; remove it")
    return str(place)


def note_of(mountpoint: str) -> Path:
    """The note of the mount at ``mountpoint``: locked while its server lives; what it says went wrong at the end."""
    name = hashlib.blake2b(os.fsencode(os.path.realpath(mountpoint)), digest_size=16).hexdigest()
    return runtime_directory() / name


class MountInfo(NamedTuple):
    """A line of proc(5)'s mountinfo: where a mount is, its kind, and the options of its file system."""

    mountpoint: str
    kind: str
    options: str


def mounts() -> list[MountInfo]:
    """Answer every mount that there is, in the order in which they were made."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        found.append(MountInfo(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]), kind, options))
    return found


def check_mounted(mountpoint: str) -> None:
    """Raise ``UsageError`` unless there is a mount of joinfs, working or not."""
    place = os.path.realpath(mountpoint)
    kind = next((mount.kind for mount in reversed(mounts()) if mount.mountpoint == place), None)
    if kind is None:
        raise UsageError(f"{mountpoint} is not a mount")
    if kind != FSTYPE:
        raise UsageError(f"{mountpoint} is a mount of {kind}, not of joinfs; unmount it with: umount {mountpoint}")


def unmount(mountpoint: str, lazy: bool = False) -> None:
    """Take a mount away.

    Args:
        lazy: Take it out of sight at once, also while it is in use.

    Raises:
        UsageError: There is no mount.
        MountError: It is in use, or not ours to unmount.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), 2 if lazy else 0) != 0:
            raise _unmount_error(mountpoint, ctypes.get_errno())
        return
    program = fusermount()
    if program is None:
        raise MountError("unmounting without root needs fusermount; install it with: apt-get install fuse3")
    command = [program, "-u", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        busy = "busy" in done.stderr
        raise _unmount_error(mountpoint, errno.EBUSY if busy else errno.EINVAL)


def _unmount_error(mountpoint: str, number: int) -> Exception:
    if number == errno.EBUSY:
        return MountError(f"{mountpoint} is in use; close what is open there (see: fuser -vm {mountpoint}) and try again")
    if number in {errno.EINVAL, errno.ENOENT}:
        return UsageError(f"{mountpoint} is not a mount of yours")
    return MountError(f"{mountpoint} could not be unmounted: {os.strerror(number)}")
