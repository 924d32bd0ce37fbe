"""What can be asked of a join, and how it is answered: names and arguments in, dictionaries out, all of them what JSON can say."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from joinfs.errors import MountError, StoreError, UsageError
from joinfs.filesystem.operations import Operations
from joinfs.joined.commit import commit
from joinfs.joined.difference import Change, Difference, diff
from joinfs.joined.discard import discard
from joinfs.joined.layer_export import export
from joinfs.joined.patch import patch
from joinfs.joined.store import JoinedStore
from joinfs.joined.whereabouts import Held, whereabouts
from joinfs.mountpoint import locked
from joinfs.stores import Store
from joinfs.stores.keys import is_directory_key

Answer = dict[str, Any]
Request = Callable[["Subject", Answer, BinaryIO | None], Iterator[Answer]]


@dataclass
class Subject:
    """The join that is asked.

    Attributes:
        join: Connected.
        operations: The file system over it, if it is mounted.
        facts: What there is to know about the mount.
        since: When it was mounted; seconds since the epoch.
    """

    join: JoinedStore
    operations: Operations | None = None
    facts: Answer = field(default_factory=dict)
    since: float = field(default_factory=time.time)

    @contextlib.contextmanager
    def changing(self, *others: Store) -> Iterator[None]:
        """Around changes of the first store, and of others, that are not made through the join: nobody else makes any meanwhile.

        Raises:
            StoreLocked: Somebody else writes to one of them.
            MountError: Files are open for writing in the mount.
        """
        with contextlib.ExitStack() as held:
            if self.operations is None:
                held.enter_context(locked(self.join))
            else:
                held.enter_context(self.operations.standing_still())
            for other in others:
                held.enter_context(locked(other))
            yield

    def flush(self) -> None:
        """Put what is staged into the first store."""
        if self.operations is not None:
            self.operations.syncfs()


def ask(subject: Subject, name: str, arguments: Answer, file: BinaryIO | None = None) -> Iterator[Answer]:
    """Yield what is answered to a request.

    Args:
        subject: Who is asked.
        name: One of ``REQUESTS``.
        arguments: As that one has them.
        file: Where data is written that is asked for.

    Raises:
        UsageError: There is no such request.
        JoinfsError, OSError: It cannot be answered; what was yielded until then is right.
    """
    if name not in REQUESTS:
        raise UsageError(f"{name!r} is nothing that this version of joinfs can be asked")
    yield from REQUESTS[name](subject, arguments, file)


def layer_called(join: JoinedStore, text: str | None) -> Store | None:
    """Answer the store of a join that is called so, or has that number; 0 is the first.

    Raises:
        UsageError: There is none, or several are called so.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit() and int(text) < len(join.layers):
        return join.layers[int(text)]
    found = [layer for layer in join.layers if layer.name == text]
    if len(found) != 1:
        names = ", ".join(f"{number} ({layer.name})" for number, layer in enumerate(join.layers))
        raise UsageError(f"{'several stores are' if found else 'no store is'} called {text!r}; there are {names}")
    return found[0]


def _diff(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    subject.flush()
    return (_told(change) for change in diff(subject.join, arguments.get("paths", ())))


def _patch(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    subject.flush()
    return ({"text": text} for text in patch(Difference(subject.join), arguments.get("paths", ())))


def _commit(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    into = layer_called(subject.join, arguments.get("into")) or subject.join.layers[min(1, len(subject.join.layers) - 1)]
    is_real = not arguments.get("dry_run")
    subject.flush()
    with subject.changing(into) if is_real and into is not subject.join.layers[0] else contextlib.nullcontext():
        changes = commit(subject.join, into, arguments.get("paths", ()), force=bool(arguments.get("force")), dry_run=not is_real)
    return (_told(change) for change in changes)


def _discard(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    is_real = not arguments.get("dry_run")
    subject.flush()
    with subject.changing() if is_real else contextlib.nullcontext():
        changes = discard(subject.join, arguments.get("paths", ()), dry_run=not is_real)
    return (_told(change) for change in changes)


def _export(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    if file is None:
        raise UsageError("there is no file to write the archive to")
    subject.flush()
    left_out = export(subject.join, file, str(arguments.get("form", "tar")), everything=bool(arguments.get("everything")))
    file.flush()
    return ({"left_out": key} for key in left_out)


def _which(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    key = str(arguments["key"])
    found = whereabouts(subject.join, key)
    if not found:
        raise UsageError(f"none of the stores has {key!r}")
    return (_told_held(held) for held in found)


def _query(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    return ({"key": key, "metadata": metadata} for key, metadata in subject.join.query(**arguments["fields"]))


def _check(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    return ({"wrong": sentence} for sentence in subject.join.check())


def _layers(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    for number, layer in enumerate(subject.join.layers):
        can = layer.capabilities
        yield {"layer": number, "name": layer.name, "writable": can.writable, "kind": type(layer).__name__, "size": size_of(layer)}


def _status(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    usage = subject.join.usage()
    yield {
        **subject.facts,
        "seconds": round(time.time() - subject.since),
        "layers": list(_layers(subject, {}, None)),
        "bytes_free": usage.blocks_available * usage.block_size,
        **({} if subject.operations is None else subject.operations.figures()),
    }


def _flush(subject: Subject, arguments: Answer, file: BinaryIO | None) -> Iterator[Answer]:
    if subject.operations is None:
        raise UsageError("nothing is staged: what is not mounted is written at once")
    subject.operations.syncfs()
    return iter(())


def size_of(layer: Store) -> int | None:
    """How many bytes the file or files of a store take, where that is quickly said; None where it is not."""
    path = getattr(layer, "path", None)
    with contextlib.suppress(OSError):
        import os  # noqa: PLC0415

        if path is not None and os.path.isfile(path):
            return os.path.getsize(path)
    return None


def _told(change: Change) -> Answer:
    told: Answer = {"kind": change.kind, "key": change.key, "size": change.size, "old_size": change.old_size}
    if change.old is not None:
        told["old"] = change.old
    if change.details:
        told["details"] = list(change.details)
    return told


def _told_held(held: Held) -> Answer:
    stat = held.stat
    kind = "directory" if is_directory_key(held.key) else "symlink" if stat.is_symlink else "file" if stat.is_file else "special"
    told: Answer = {"layer": held.layer, "store": held.store, "key": held.key, "kind": kind, "size": stat.size, "mtime": stat.mtime / 1e9}
    if held.hidden_by is not None:
        told.update(hidden_by=held.hidden_by, how=held.how)
    return told


REQUESTS: dict[str, Request] = {
    "check": _check,
    "commit": _commit,
    "diff": _diff,
    "discard": _discard,
    "export": _export,
    "flush": _flush,
    "layers": _layers,
    "patch": _patch,
    "query": _query,
    "status": _status,
    "which": _which,
}

__all__ = ["REQUESTS", "MountError", "StoreError", "Subject", "ask"]
