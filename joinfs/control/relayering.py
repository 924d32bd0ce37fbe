"""Requests that change what a mount is joined of, while it is mounted: stores added and taken out, and snapshots."""

import os
from collections.abc import Callable, Iterator

from joinfs.config import parse_store
from joinfs.control.requests import Answer, Request, Subject, layer_called
from joinfs.errors import UsageError
from joinfs.joined import open_store
from joinfs.mountpoint import check_apart, leaves, locked
from joinfs.stores import Store


def add_layer(request: Request) -> Iterator[Answer]:
    """Join one more store, ``store``, as number ``at``; as the last unless that is given."""
    join = request.subject.join
    at = request.arguments.get("at")
    place = len(join.layers) if at is None else int(at)
    if not 1 <= place <= len(join.layers):
        raise UsageError(f"stores can be added at 1 to {len(join.layers)}; the first one takes the writes: see joinfs snapshot")
    new = _opened(request.subject, str(request.arguments["store"]), read_only=True)
    _replace(request.subject, [*join.layers[:place], new, *join.layers[place:]])
    yield {"layer": place, "name": new.name}


def remove_layer(request: Request) -> Iterator[Answer]:
    """Join one store less: the one that is called ``layer``, or has that number."""
    join = request.subject.join
    gone = layer_called(join, str(request.arguments["layer"]))
    if gone is None or gone is join.layers[0]:
        raise UsageError(f"{join.layers[0].name} takes the writes, and cannot be taken out")
    _replace(request.subject, [layer for layer in join.layers if layer is not gone])
    yield {"name": gone.name}


def snapshot(request: Request) -> Iterator[Answer]:
    """Let the first store be as it is, and put a new one, ``upper``, before it, which takes the writes from now on."""
    subject, join = request.subject, request.subject.join
    frozen = join.layers[0]
    if not frozen.capabilities.writable or subject.facts.get("read_only"):
        raise UsageError(f"{join.name} takes no writes, so there is nothing that a snapshot would keep")
    url = request.arguments.get("upper") or _beside(frozen)
    subject.flush()
    new = _opened(subject, str(url), read_only=False)
    if not new.capabilities.writable:
        raise UsageError(f"{new.name} takes no writes")
    if any(True for _ in new.list("")):
        raise UsageError(f"{new.name} has something in it already; a snapshot needs an empty store")
    subject.closing.enter_context(locked(new))
    _replace(subject, [new, *join.layers])
    if subject.operations is not None:
        subject.operations.stage_for(new.name)
    yield {"frozen": frozen.name, "upper": new.name, "layers": [layer.name for layer in join.layers]}


def _opened(subject: Subject, text: str, read_only: bool) -> Store:
    """A store, connected for as long as the mount is there."""
    spec = parse_store(text)
    store = open_store(spec.url, connect=False, read_only=read_only)
    store.name = spec.name or store.name
    mountpoint = subject.facts.get("mountpoint")
    if mountpoint is not None:
        check_apart(store, str(mountpoint))
    if store.capabilities.slow and not subject.join.capabilities.slow:
        raise UsageError(f"{store.name} may be slow to answer, for which others have more threads from the beginning; unmount, and mount with it")
    if not store.capabilities.thread_safe:
        raise UsageError(f"{store.name} may not be called by several threads at once; unmount, and mount with it")
    subject.closing.enter_context(store)
    return store


def _replace(subject: Subject, layers: list[Store]) -> None:
    paths = [os.path.realpath(path) for layer in layers for leaf in leaves(layer) if (path := getattr(leaf, "path", None)) is not None]
    if len(set(paths)) < len(paths):
        raise UsageError("that store is joined already")
    operations = subject.operations
    if operations is None:
        raise UsageError("the stores of a join that is not mounted are those that you name; name others")
    with operations.standing_still():
        subject.join.replace_layers(layers)


def _beside(store: Store) -> str:
    """A URL for a new store of the same kind, beside one."""
    path = getattr(store, "path", None)
    kind = type(store).__name__
    if kind == "MemoryStore":
        return "memory:"
    if path is None or kind not in {"DirectoryStore", "SQLiteStore"}:
        raise UsageError(f"say which store is to take the writes from now on, as there can be none beside {store.name}: --upper STORE")
    base, ending = (os.path.abspath(path), "") if kind == "DirectoryStore" else os.path.splitext(os.path.abspath(path))
    number = 1
    while os.path.lexists(f"{base}.{number}{ending}"):
        number += 1
    new = f"{base}.{number}{ending}"
    if kind == "DirectoryStore":
        os.mkdir(new, os.stat(path).st_mode & 0o777)
    scheme = "dir" if kind == "DirectoryStore" else "sqlite"
    return f"{scheme}:{new}"


REQUESTS: dict[str, Callable[[Request], Iterator[Answer]]] = {
    "add_layer": add_layer,
    "remove_layer": remove_layer,
    "snapshot": snapshot,
}
