"""A directory of small files that may all be gone at any time, shared by who likes to: what a cache has on disk.

| path | what |
| --- | --- |
| ``joinfs-cache-1/XX/REST`` | something, under the hexadecimal digits of its name: a head (``_HEAD``) and the data |
| ``joinfs-cache-1/new/*`` | what is being written; it is renamed when it is whole |

The head has the name and a checksum, so whatever was torn, damaged or put there by others is simply not there. There are no locks and
no index: several processes may write, read and make room at once. When something was last used is its mtime, to a minute.
"""

import contextlib
import errno
import itertools
import logging
import os
import stat as stat_module
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator

from joinfs.errors import UsageError

log = logging.getLogger(__name__)

# The magic number, the name, bytes of data, and the CRC-32 of name and data.
_HEAD = struct.Struct("<16s32sII")
_MAGIC = b"joinfs cache 1\n\0"
_INSIDE = "joinfs-cache-1"
_NEW = "new"
_SHARDS = [f"{number:02x}" for number in range(256)]
# Seconds after which use is noted again.
TOUCH = 60.0
# Seconds for which nothing is written after that failed.
PAUSE = 10.0
# Seconds after which nobody is writing any more what was begun.
_ABANDONED = 600.0
# Room is looked after whenever this part of it was written to; there is to be room for as much as several processes write meanwhile.
_STEP = 1 / 20
_HIGH, _LOW = 0.9, 0.8


class CacheDirectory:
    """What a cache has on disk. Nothing here fails because of the disk: what cannot be read is not there, what cannot be written is left out.

    Args:
        path: The directory; made when it is opened.
        size: Bytes that it may take, whoever writes to it.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path, self._size = path, size
        self._root = -1
        self._lock = threading.Lock()
        self._begun = f"{os.urandom(8).hex()}-"
        self._numbers = itertools.count(1)
        self._paused_until = 0.0
        self._is_warned = False
        self._written = 0
        self._wake = threading.Event()
        self._keeper: threading.Thread | None = None

    def open(self) -> None:
        """Begin.

        Raises:
            UsageError: The directory is another user's, or others may write to it.
        """
        try:
            self._root = self._opened_root()
        except OSError as error:
            self._pause(error)
        self._wake.set()
        self._keeper = threading.Thread(target=self._keep_house, args=(self._wake,), name="joinfs makes room", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Let go of the directory."""
        keeper, wake = self._keeper, self._wake
        self._keeper, self._wake = None, threading.Event()
        wake.set()
        if keeper is not None:
            keeper.join()
        with self._lock:
            root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    # ---------------------------------------------------------------- the things in it

    def get(self, name: bytes) -> bytes | None:
        """Answer what was put under a name, of 32 bytes, if it is there and as it was."""
        try:
            file = os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._root)
        except OSError:
            return None
        try:
            return self._read(file, name)
        except OSError as error:
            log.debug("%s: %s", self.path, error)
            return None
        finally:
            os.close(file)

    def _read(self, file: int, name: bytes) -> bytes | None:
        told = os.fstat(file)
        head = os.pread(file, _HEAD.size, 0)
        data = os.pread(file, max(told.st_size - _HEAD.size, 0), _HEAD.size)
        if head != _head(name, data):
            self.drop(name)
            return None
        if time.time() - told.st_mtime > TOUCH:
            with contextlib.suppress(OSError):
                os.utime(file)
        return data

    def has(self, name: bytes) -> bool:
        """Whether there is something under a name; it may turn out to be damaged."""
        try:
            os.stat(_path(name), dir_fd=self._root, follow_symlinks=False)
        except OSError:
            return False
        return True

    def put(self, name: bytes, data: bytes) -> None:
        """Keep something, if there is room."""
        if len(data) > self._size // 4 or time.monotonic() < self._paused_until:
            return
        try:
            self._write(name, data)
        except OSError as error:
            self._pause(error)
            return
        self._written += len(data) + _HEAD.size
        if self._written > self._size * _STEP:
            self._wake.set()

    def drop(self, name: bytes) -> None:
        """Throw something away, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(_path(name), dir_fd=self._root)

    def _write(self, name: bytes, data: bytes) -> None:
        begun = f"{_NEW}/{self._begun}{next(self._numbers)}"
        file = self._create(begun)
        try:
            if os.writev(file, [_head(name, data), data]) != _HEAD.size + len(data):
                raise OSError(errno.ENOSPC, "no room is left")
            self._move(begun, _path(name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(begun, dir_fd=self._root)
            raise
        finally:
            os.close(file)

    def _create(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600, dir_fd=self._root)
        except OSError:  # it was deleted under way, or could not be opened when we began
            self._open_again()
            return os.open(path, flags, 0o600, dir_fd=self._root)

    def _move(self, begun: str, path: str) -> None:
        try:
            os.rename(begun, path, src_dir_fd=self._root, dst_dir_fd=self._root)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path.partition("/")[0], 0o700, dir_fd=self._root)
            os.rename(begun, path, src_dir_fd=self._root, dst_dir_fd=self._root)

    # ---------------------------------------------------------------- the directory itself

    def _opened_root(self) -> int:
        os.makedirs(self.path, 0o700, exist_ok=True)
        self._check_ours(os.stat(self.path), self.path)
        inside = os.path.join(self.path, _INSIDE)
        with contextlib.suppress(FileExistsError):
            os.mkdir(inside, 0o700)
        root = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._check_ours(os.fstat(root), inside)
            with contextlib.suppress(FileExistsError):
                os.mkdir(_NEW, 0o700, dir_fd=root)
        except BaseException as error:
            if isinstance(error, OSError):
                return root  # to be read, at least
            os.close(root)
            raise
        return root

    def _check_ours(self, told: os.stat_result, path: str) -> None:
        if told.st_uid != os.geteuid():
            raise UsageError(f"{path} belongs to another user, so it is no place for a cache of ours")
        if stat_module.S_IMODE(told.st_mode) & 0o022:
            raise UsageError(f"others may write to {path}, so it is no place for a cache; 'chmod 700' makes it one")

    def _open_again(self) -> None:
        """Make the directory once more; whoever is reading in the old one meanwhile finds nothing."""
        with self._lock:
            if self._keeper is None:
                raise OSError(errno.EBADF, "it is closed")
            try:
                root = self._opened_root()
            except UsageError as error:
                raise OSError(errno.EACCES, str(error)) from error
            if self._root < 0:
                self._root = root
                return
            os.dup2(root, self._root, inheritable=False)
            os.close(root)

    def _pause(self, error: OSError) -> None:
        self._paused_until = time.monotonic() + PAUSE
        self._wake.set()
        level = logging.DEBUG if self._is_warned else logging.WARNING
        self._is_warned = True
        log.log(level, "%s: nothing more is kept for now: %s", self.path, error.strerror or error)

    # ---------------------------------------------------------------- making room

    def _keep_house(self, wake: threading.Event) -> None:
        while wake.wait() and self._wake is wake:
            wake.clear()
            self._written = 0
            try:
                self._make_room()
            except OSError as error:
                log.debug("%s: %s", self.path, error)

    def _make_room(self) -> None:
        """Throw away what was not used for longest, if there is too much. Takes two looks, so that it need not remember every file."""
        self._clear_abandoned()
        used: Counter[int] = Counter()
        for _, told in self._files():
            used[int(told.st_mtime)] += _room(told)
        total = sum(used.values())
        if total <= self._size * _HIGH:
            return
        too_much = total - self._size * _LOW
        for path, told in self._files(last_used=_moment(used, too_much)):
            if too_much <= 0:
                return
            with contextlib.suppress(FileNotFoundError):  # others make room as well
                os.unlink(path, dir_fd=self._root)
            too_much -= _room(told)

    def _files(self, last_used: float = float("inf")) -> Iterator[tuple[str, os.stat_result]]:
        """Yield what there is that was not used after a moment."""
        for shard in _SHARDS:
            if self._keeper is None:
                return
            for name in self._names(shard):
                with contextlib.suppress(FileNotFoundError):
                    told = os.stat(f"{shard}/{name}", dir_fd=self._root, follow_symlinks=False)
                    if int(told.st_mtime) <= last_used:
                        yield f"{shard}/{name}", told

    def _clear_abandoned(self) -> None:
        for name in self._names(_NEW):
            with contextlib.suppress(FileNotFoundError):
                told = os.stat(f"{_NEW}/{name}", dir_fd=self._root, follow_symlinks=False)
                if time.time() - told.st_mtime > _ABANDONED:
                    os.unlink(f"{_NEW}/{name}", dir_fd=self._root)

    def _names(self, shard: str) -> list[str]:
        try:
            directory = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        except OSError:
            return []
        try:
            return os.listdir(directory)
        finally:
            os.close(directory)


def _path(name: bytes) -> str:
    digits = name.hex()
    return f"{digits[:2]}/{digits[2:]}"


def _head(name: bytes, data: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, name, len(data), zlib.crc32(data, zlib.crc32(name)))


def _room(told: os.stat_result) -> int:
    return max(told.st_blocks * 512, told.st_size)


def _moment(used: "Counter[int]", too_much: float) -> int:
    """The moment until which so many bytes were last used."""
    for moment in sorted(used):
        too_much -= used[moment]
        if too_much <= 0:
            return moment
    return max(used)
