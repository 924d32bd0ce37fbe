"""Every exception has its errno. SEMANTICS.md, Errors."""

import errno

import pytest

from joinfs import errors


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (KeyError("a"), errno.ENOENT),
        (errors.ReadOnly("a"), errno.EROFS),
        (errors.OutOfSpace("a"), errno.ENOSPC),
        (errors.Unsupported("a"), errno.ENOTSUP),
        (errors.NotRepresentable("a"), errno.EILSEQ),
        (errors.NameTooLong("a"), errno.ENAMETOOLONG),
        (errors.CorruptStore("a"), errno.EUCLEAN),
        (errors.AccessDenied("a"), errno.EACCES),
        (PermissionError(errno.EACCES, "a"), errno.EACCES),
        (OSError(errno.EDQUOT, "a"), errno.EDQUOT),
        (OSError("without a number"), errno.EIO),
        (RuntimeError("a"), errno.EIO),
    ],
    ids=lambda thing: type(thing).__name__ if isinstance(thing, Exception) else errno.errorcode[thing],
)
def test_errno_of(error, number):
    assert errors.errno_of(error) == number


def test_every_error_of_ours_is_in_the_table():
    ours = {thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, errors.JoinfsError)}
    families = {errors.JoinfsError, errors.FilesystemError}
    assert ours - families <= set(errors.ERRNO)
