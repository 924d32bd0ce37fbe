"""Exception families, and the one table from exception to errno.

A key that is not there is a ``KeyError``, as the JoinedStore reference says. Everything else that a
store or the file system can refuse is a ``JoinfsError``; its class says why, its text says what to do.
A driver turns either into the number that the kernel wants with :func:`errno_of`, and nothing else in
joinfs chooses an errno.

See Also:
    errno(3); SEMANTICS.md, Errors.
"""

import errno
from collections.abc import Mapping


class JoinfsError(Exception):
    """Anything that joinfs refuses, with a sentence that a user can act on."""


class UsageError(JoinfsError):
    """What was asked for cannot be done as asked: a bad URL, option or mountpoint. Nothing was changed."""


class MountError(JoinfsError):
    """The machine or the kernel would not mount (or unmount): no device, no libfuse, not allowed, busy."""


class StoreError(JoinfsError):
    """A store could not do what was asked. Unless a subclass says otherwise, the store is as it was."""


class NotConnected(StoreError):
    """The store is not connected; call ``connect()`` or use it in a ``with`` statement."""


class StoreUnavailable(StoreError):
    """The medium cannot be reached or read: it is gone, unreadable, or its server does not answer."""


class AccessDenied(StoreUnavailable):
    """The medium does not let us have this: credentials are missing or wrong, or do not allow it."""


class CorruptStore(StoreError):
    """The medium is damaged, or is not what its URL says it is (a foreign or newer schema included)."""


class StoreLocked(StoreError):
    """Another writer holds the store."""


class ReadOnly(StoreError):
    """A write to a store, or to a join whose first store, takes no writes."""


class Unsupported(StoreError):
    """The store cannot hold or do this at all (hard links, devices, foreign xattrs, local files, ...)."""


class InvalidKey(StoreError, ValueError):
    """A key that no store accepts: an empty, ``.`` or ``..`` component, a NUL, or a reserved name."""


class NameTooLong(InvalidKey):
    """A component of the key is longer than 255 bytes."""


class NotRepresentable(InvalidKey):
    """The name is not valid in the text encoding that the store needs."""


class KeyExists(StoreError):
    """The key is there already, and the call was not to replace it."""


class NotADirectory(StoreError):
    """A component of the key, or the key itself, is not a directory where one is needed."""


class IsADirectory(StoreError):
    """The key is a directory where a value is needed."""


class DirectoryNotEmpty(StoreError):
    """The directory still has entries."""


class OutOfSpace(StoreError):
    """The medium is full. What was there before is still there."""


class Conflict(StoreError):
    """What is to be committed was changed below as well. Nothing was committed.

    Attributes:
        reasons: Each key in conflict, with a sentence on why.
    """

    def __init__(self, text: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.reasons = dict(reasons or {})


class FilesystemError(JoinfsError):
    """A file system call that the rules of POSIX refuse, whatever the store."""


class InvalidArgument(FilesystemError):
    """An argument makes no sense for this call (EINVAL)."""


class BadHandle(FilesystemError):
    """The handle is not open, or not open for this (EBADF)."""


class PermissionDenied(FilesystemError):
    """The caller may not do this (EACCES)."""


class NotPermitted(FilesystemError):
    """Nobody may do this to this object (EPERM)."""


class NoSuchAttribute(FilesystemError):
    """The extended attribute is not there (ENODATA)."""


class ValueTooLarge(FilesystemError):
    """The extended attribute, or the file, would be larger than is allowed (E2BIG)."""


class NoSuchOffset(FilesystemError):
    """SEEK_DATA or SEEK_HOLE past the end of the file (ENXIO)."""


class StaleNode(FilesystemError, KeyError):
    """What a number stands for has been deleted or replaced by others (ESTALE: the kernel then looks its name up anew)."""


class FileTooLarge(FilesystemError):
    """A write or truncate past the largest size a file can have (EFBIG)."""


ERRNO: dict[type[BaseException], int] = {
    KeyError: errno.ENOENT,
    UsageError: errno.EINVAL,
    MountError: errno.EIO,
    StoreError: errno.EIO,
    NotConnected: errno.ENOTCONN,
    StoreUnavailable: errno.EIO,
    AccessDenied: errno.EACCES,
    CorruptStore: errno.EUCLEAN,
    StoreLocked: errno.EBUSY,
    Conflict: errno.EBUSY,
    ReadOnly: errno.EROFS,
    Unsupported: errno.ENOTSUP,
    InvalidKey: errno.EINVAL,
    NameTooLong: errno.ENAMETOOLONG,
    NotRepresentable: errno.EILSEQ,
    KeyExists: errno.EEXIST,
    NotADirectory: errno.ENOTDIR,
    IsADirectory: errno.EISDIR,
    DirectoryNotEmpty: errno.ENOTEMPTY,
    OutOfSpace: errno.ENOSPC,
    InvalidArgument: errno.EINVAL,
    BadHandle: errno.EBADF,
    PermissionDenied: errno.EACCES,
    NotPermitted: errno.EPERM,
    NoSuchAttribute: errno.ENODATA,
    ValueTooLarge: errno.E2BIG,
    NoSuchOffset: errno.ENXIO,
    FileTooLarge: errno.EFBIG,
    StaleNode: errno.ESTALE,
    MemoryError: errno.ENOMEM,
    RecursionError: errno.ELOOP,
}


def errno_of(error: BaseException) -> int:
    """Answer the errno that tells the kernel about ``error``; EIO if nothing more exact is known.

    An ``OSError`` keeps its own number; any other exception has that of its nearest class in ERRNO.
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    for cls in type(error).__mro__:
        if cls in ERRNO:
            return ERRNO[cls]
    return errno.EIO
