"""The scripts of a ``RedisStore``, which are in the ``.lua`` files beside this one; ``redis_common.lua`` says what the keys are.

Each of what a store asks and does is one run of a script, which is one step to all: to other clients, and to the server when it
dies. What is wrong is found out before anything is changed.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from joinfs.errors import (
    AccessDenied,
    CorruptStore,
    DirectoryNotEmpty,
    IsADirectory,
    KeyExists,
    NoSuchAttribute,
    NotADirectory,
    StoreUnavailable,
)

CHUNK = 4 << 20
# What writers of this version of joinfs write, and readers of it know.
FORMAT = b"joinfs 1"


class Script(NamedTuple):
    """A script.

    Attributes:
        text: What the server is given once.
        digest: What it is called by after that.
        reads: Whether it only reads, and so runs on a replica too.
    """

    text: bytes
    digest: str
    reads: bool

    def command(self, tag: str, *arguments: Any) -> tuple[Any, ...]:
        """Answer the command that runs it on the store of a tag."""
        return ("EVALSHA_RO" if self.reads else "EVALSHA", self.digest, 1, tag, *arguments)


def _script(flags: str, name: str) -> Script:
    here = Path(__file__).parent
    text = f"#!lua{flags}\n".encode() + (here / "redis_common.lua").read_bytes() + (here / name).read_bytes()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest(), "no-writes" in flags)


READING = _script(" flags=no-writes", "redis_reading.lua")
WRITING = _script("", "redis_writing.lua")
# The same, also when the server is full: for what makes room.
FREEING = _script(" flags=allow-oom", "redis_writing.lua")
SCRIPTS = (READING, WRITING, FREEING)


def checked(answer: Any, *keys: str) -> list[Any]:
    """Answer what a script answered after ``ok``.

    Args:
        answer: All of it.
        keys: What it was asked about; of two, the answer says which one is wrong, or it is the second that is in the way.

    Raises:
        KeyError, KeyExists, NotADirectory, IsADirectory, DirectoryNotEmpty, NoSuchAttribute: As they say.
        CorruptStore: There is what no joinfs writes.
        StoreUnavailable: It came too late to be done.
        AccessDenied: The user may not do all that is needed.
    """
    word: bytes = answer[0]
    rest: list[Any] = answer[1:]
    if word == b"ok":
        return rest
    first, last = keys[0], keys[-1]
    if word == b"missing":
        raise KeyError(last if rest == [b"2"] else first)
    raise _wrong(word, rest, last)


def _wrong(word: bytes, rest: list[Any], key: str) -> Exception:
    known = {
        b"exists": KeyExists(f"{key!r} is there already"),
        b"notdir": NotADirectory(f"{key!r} is there or below something, and that is not a directory"),
        b"isdir": IsADirectory(f"{key!r} is a directory"),
        b"notempty": DirectoryNotEmpty(f"{key!r} has entries"),
        b"noattr": NoSuchAttribute(f"{key!r} has no such attribute"),
        b"late": StoreUnavailable(f"{key!r} was not written: it took so long that the server had given up waiting"),
        b"denied": AccessDenied(f"{key} does not let this user do all that a store needs: {b' '.join(rest).decode()} is lacking in its ACL"),
        b"rootless": CorruptStore("the root of the store is gone: somebody has flushed the database; connect again to begin anew"),
        b"damaged": CorruptStore(f"{key!r} is damaged: node {b' '.join(rest[:1]).decode(errors='replace')} lacks something"),
    }
    return known.get(word) or CorruptStore(f"{key!r}: a script answers {word!r}")
