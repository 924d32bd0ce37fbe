"""What can be asked of a join, and how it is answered: names and arguments in, dictionaries out, all of them what JSON can say."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from joinfs.control.querying import matching, parse_field
from joinfs.errors import UsageError
from joinfs.events import StoreProgressEvent
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
from joinfs.stores.views import View

Answer = dict[str, Any]


@dataclass
class Subject:
    """The join that is asked.

    Attributes:
        join: Connected.
        operations: The file system over it, if it is mounted.
        facts: What there is to know about the mount.
        since: When it was mounted; seconds since the epoch.
        closing: Whatever is to be let go of when the mount has gone.
    """

    join: JoinedStore
    operations: Operations | None = None
    facts: Answer = field(default_factory=dict)
    since: float = field(default_factory=time.time)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

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


class Request(NamedTuple):
    """What is asked of whom; ``file`` is where data is written that is asked for."""

    subject: Subject
    arguments: Answer
    file: BinaryIO | None


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
    yield from REQUESTS[name](Request(subject, arguments, file))


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


def _diff(request: Request) -> Iterator[Answer]:
    request.subject.flush()
    return (told_change(change) for change in diff(request.subject.join, request.arguments.get("paths", ())))


def _patch(request: Request) -> Iterator[Answer]:
    request.subject.flush()
    return ({"text": text} for text in patch(Difference(request.subject.join), request.arguments.get("paths", ())))


def _commit(request: Request) -> Iterator[Answer]:
    into = layer_called(request.subject.join, request.arguments.get("into")) or request.subject.join.layers[min(1, len(request.subject.join.layers) - 1)]
    is_real = not request.arguments.get("dry_run")
    request.subject.flush()
    with request.subject.changing(into) if is_real and into is not request.subject.join.layers[0] else contextlib.nullcontext():
        changes = commit(request.subject.join, into, request.arguments.get("paths", ()), force=bool(request.arguments.get("force")), dry_run=not is_real)
    return (told_change(change) for change in changes)


def _discard(request: Request) -> Iterator[Answer]:
    is_real = not request.arguments.get("dry_run")
    request.subject.flush()
    with request.subject.changing() if is_real else contextlib.nullcontext():
        changes = discard(request.subject.join, request.arguments.get("paths", ()), dry_run=not is_real)
    return (told_change(change) for change in changes)


def _export(request: Request) -> Iterator[Answer]:
    if request.file is None:
        raise UsageError("there is no file to write the archive to")
    request.subject.flush()
    left_out = export(request.subject.join, request.file, str(request.arguments.get("form", "tar")), everything=bool(request.arguments.get("everything")))
    request.file.flush()
    return ({"left_out": key} for key in left_out)


def _which(request: Request) -> Iterator[Answer]:
    key = str(request.arguments["key"])
    found = whereabouts(request.subject.join, key)
    if not found:
        raise UsageError(f"none of the stores has {key!r}")
    return (_told_held(held) for held in found)


def _query(request: Request) -> Iterator[Answer]:
    join = request.subject.join
    fields = dict(parse_field(text) for text in request.arguments["fields"])
    for key in matching(join, fields):
        with contextlib.suppress(KeyError):  # it went away meanwhile
            yield {"key": key, "metadata": join.get_metadata(key)}


def _check(request: Request) -> Iterator[Answer]:
    return ({"wrong": sentence} for sentence in request.subject.join.check())


def _layers(request: Request) -> Iterator[Answer]:
    for number, layer in enumerate(request.subject.join.layers):
        can = layer.capabilities
        told = {"layer": number, "name": layer.name, "writable": can.writable, "kind": type(layer).__name__, "size": size_of(layer)}
        yield told | _on_disk(layer)


def _on_disk(layer: Store) -> Answer:
    """How often a layer's ``cache`` on disk was of use, and how many files are ``waiting`` there to be sent, if it has such."""
    figures = {name: value for name, value in layer.info().items() if name in {"cache", "waiting"}}
    return (_on_disk(layer.store) if isinstance(layer, View) else {}) | figures


def _status(request: Request) -> Iterator[Answer]:
    usage = request.subject.join.usage()
    yield {
        **request.subject.facts,
        "seconds": round(time.time() - request.subject.since),
        "layers": list(_layers(request)),
        "bytes": usage.blocks * usage.block_size,
        "bytes_free": usage.blocks_available * usage.block_size,
        **({} if request.subject.operations is None else request.subject.operations.figures()),
    }


def _flush(request: Request) -> Iterator[Answer]:
    if request.subject.operations is None:
        raise UsageError("nothing is staged: what is not mounted is written at once")
    request.subject.operations.syncfs()
    request.subject.join.drain()
    return iter(())


def size_of(layer: Store) -> int | None:
    """How many bytes the file or files of a store take, where that is quickly said; None where it is not."""
    path = getattr(layer, "path", None)
    try:
        return os.path.getsize(path) if path is not None and os.path.isfile(path) else None
    except OSError:
        return None


def told_progress(event: StoreProgressEvent) -> Answer:
    """How far long work is, as it is told."""
    return {"id": event.operation_id, "message": event.message, "done": event.done, "total": event.total}


def told_change(change: Change) -> Answer:
    """A change as it is answered."""
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


REQUESTS: dict[str, Callable[[Request], Iterator[Answer]]] = {
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
