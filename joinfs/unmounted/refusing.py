"""Errors of stores, as those that Python's own files raise."""

import contextlib
import os
from collections.abc import Iterator

from joinfs.errors import JoinfsError, errno_of


@contextlib.contextmanager
def as_oserror(path: str) -> Iterator[None]:
    """Have a ``KeyError`` or ``JoinfsError`` be the ``OSError`` of its number, with the same sentence.

    ``FileNotFoundError``, ``FileExistsError``, ``IsADirectoryError``, ``NotADirectoryError`` and ``PermissionError``
    are such. A store that takes no writes is ``OSError`` with ``EROFS``.
    """
    try:
        yield
    except (KeyError, JoinfsError) as error:
        number = errno_of(error)
        sentence = os.strerror(number) if isinstance(error, KeyError) else str(error)
        raise OSError(number, sentence, path or None) from error
