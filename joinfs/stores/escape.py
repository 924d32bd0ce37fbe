"""Spelling keys that no file can have, so that nothing of a foreign medium is hidden, lost, or leads out.

An ordinary component is spelled as it is. One that is empty, ``.``, ``..``, has a NUL, is longer than 255
bytes or begins with ``%%`` is spelled ``%%`` and then itself, with ``%25`` for ``%``, ``%00`` for NUL and
``%2E`` for the dots of ``.`` and ``..``. What is too long goes on in the next component: ``%+`` at the
end says so, and each further one begins with ``%%`` as well. A value that has the name of a directory
beside it ends in ``%=``.

A spelling that this does not produce stands for nothing, so keys and spellings are one to one.
"""

import re

from joinfs.errors import InvalidKey
from joinfs.stores.keys import MAX_NAME, is_encodable

MARK = "%%"
MORE = "%+"
VALUE = "%="
_PIECE = re.compile(r"%[0-9A-F]{2}|[^%]", re.DOTALL)
_ROOM = MAX_NAME - len(MARK) - len(MORE) - len(VALUE)


def escape(key: str, beside_directory: bool = False) -> str:
    """Answer the spelling of a medium's key, without a ``/`` at its end.

    Args:
        key: Any text.
        beside_directory: It is a value, and other keys begin with it and ``/``.
    """
    *above, last = key.split("/")
    return "/".join([*(_escape(part) for part in above), _escape(last, beside_directory)])


def unescape(spelling: str) -> tuple[str, bool]:
    """Answer ``(key, beside_directory)`` such that ``escape`` gives the spelling.

    Raises:
        InvalidKey: There is none.
    """
    parts, pending, beside = [], "", False
    for component in spelling.split("/"):
        if not component.startswith(MARK):
            parts.append(component)
            continue
        body = component.removeprefix(MARK)
        if body.endswith(MORE):
            pending += body.removesuffix(MORE)
            continue
        beside = body.endswith(VALUE)
        parts.append(_unquote(pending + body.removesuffix(VALUE)))
        pending = ""
    key = "/".join(parts)
    if pending or not is_encodable(key) or escape(key, beside) != spelling:
        raise InvalidKey(f"{spelling!r} spells no key; names that begin with '%%' are for escaped ones")
    return key, beside


def is_piece(spelling: str) -> bool:
    """Whether a directory is only the beginning of a name that is too long for one component."""
    last = spelling.removesuffix("/").rpartition("/")[2]
    return last.startswith(MARK) and last.endswith(MORE)


def _is_ordinary(part: str) -> bool:
    if part in {"", ".", ".."} or part.startswith(MARK) or "\0" in part:
        return False
    return len(part.encode("utf-8", "surrogateescape")) <= MAX_NAME


def _escape(part: str, beside: bool = False) -> str:
    if not beside and _is_ordinary(part):
        return part
    quoted = part.replace("%", "%25").replace("\0", "%00")
    if part in {".", ".."}:
        quoted = part.replace(".", "%2E")
    pieces = _cut(quoted)
    return "/".join(f"{MARK}{piece}{MORE}" for piece in pieces[:-1]) + ("/" if pieces[1:] else "") + (
        f"{MARK}{pieces[-1]}{VALUE if beside else ''}"
    )


def _cut(quoted: str) -> list[str]:
    """Pieces that fit, cut between characters."""
    pieces, room = [""], _ROOM
    for piece in _PIECE.findall(quoted):
        size = len(piece.encode("utf-8", "surrogateescape"))
        if size > room:
            pieces.append("")
            room = _ROOM
        pieces[-1] += piece
        room -= size
    return pieces


def _unquote(quoted: str) -> str:
    return re.sub(r"%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), quoted)
