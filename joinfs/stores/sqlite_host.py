"""What the host says of a database's medium. SQLite tells of most that goes wrong there only that it did."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator

from joinfs.errors import OutOfSpace, ReadOnly, StoreUnavailable
from joinfs.stores.sqlite_schema import explained

# As much as a small write needs.
PROBE = bytes(64 << 10)
_CLASSES = {errno.ENOSPC: OutOfSpace, errno.EROFS: ReadOnly}


@contextlib.contextmanager
def explained_exactly(path: str, name: str) -> Iterator[None]:
    """As ``explained``, around writes: an error of the medium has the number that the host gives it (EROFS, EDQUOT, EPERM)."""
    try:
        with explained(name):
            yield
    except StoreUnavailable as error:
        if not isinstance(error.__cause__, sqlite3.Error):
            raise
        found = _asked(path)
        if found is None:
            raise
        cls = _CLASSES.get(found.errno or 0)
        message = f"{name}: the medium of the database takes no writes: {found.strerror}"
        raise (OSError(found.errno, message) if cls is None else cls(message)) from error


def _asked(path: str) -> OSError | None:
    """What the host says if something is written beside a database, and to its log; never to the database, whose locks that would drop."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path + "-wal", os.O_WRONLY | os.O_APPEND))
        probe = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_WRONLY, 0o600)
        try:
            left = memoryview(PROBE)
            while left:
                left = left[os.write(probe, left) :]
        finally:
            os.close(probe)
    except OSError as error:
        return None if error.errno in {errno.EOPNOTSUPP, errno.EISDIR, errno.EIO} else error
    return None


class Place:
    """The file that a database was when it was opened."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._file = self._now()

    def check(self) -> None:
        """Raise ``StoreUnavailable`` if the file is no longer there: what is written to it now would be lost."""
        if self._now() != self._file:
            raise StoreUnavailable(f"{self._name}: the database was deleted, moved or replaced while it was open; put it back, or open it again")

    def _now(self) -> tuple[int, int] | None:
        try:
            native = os.stat(self._path)
        except OSError:
            return None
        return native.st_dev, native.st_ino
