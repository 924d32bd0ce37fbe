"""The join that a command is about: stores that are named, or a mount; and keys in it.

Stores are named as for ``joinfs mount``, in the same order. Keys follow a ``--``; or they are paths in a mount, which say which mount as well.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from joinfs.commands import reading_arguments
from joinfs.commands.output import Progress
from joinfs.config import MountConfig, MountOptions, StoreSpec, parse_store
from joinfs.config_file import load_config
from joinfs.control import client
from joinfs.control.requests import Subject, ask, told_progress
from joinfs.errors import InvalidKey, UsageError
from joinfs.events import StoreProgressEndEvent, StoreProgressEvent
from joinfs.joined.store import JoinedStore
from joinfs.mounting import open_join
from joinfs.mountpoint import leaves
from joinfs.stores.keys import check_key

JOIN_HELP = "the stores, as for mount, in the same order; or a mountpoint, or paths in a mount"


def add_join(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which join."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file that names the stores; see joinfs mount --help")
    parser.add_argument("stores", metavar="STORE|MOUNTPOINT", nargs="*", help=JOIN_HELP)


class Join(NamedTuple):
    """The join that a command is about: ``mounted``, or of the stores of ``config``; ``keys`` are what was said of it."""

    mounted: client.Mounted | None
    config: MountConfig | None
    keys: tuple[str, ...]

    def ask(
        self, name: str, arguments: dict[str, Any], file: BinaryIO | None = None, progress: Progress | None = None, writes: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield what is answered to a request: by the server of the mount, or by the stores themselves.

        Args:
            name, arguments, file, progress: As for ``control.client.ask``.
            writes: Whether the stores are to take writes.
        """
        if self.mounted is not None:
            yield from client.ask(self.mounted, name, arguments, file, progress)
            return
        with self.opened(writes, progress) as join:
            yield from ask(Subject(join), name, arguments, file)

    @contextlib.contextmanager
    def opened(self, writes: bool = False, progress: Progress | None = None) -> Iterator[JoinedStore]:
        """Connect the stores, for the length of a ``with`` block.

        Raises:
            UsageError: It is mounted, or a store is not there.
        """
        if self.config is None:
            assert self.mounted is not None, "it is one or the other"
            join = open_join((StoreSpec(f"dir:{self.mounted.mountpoint}"),))
        else:
            join = open_join(self.config.stores, self.config.options, read_only=not writes)
        with _heard(join, progress), join:
            yield join


def chosen(given: argparse.Namespace) -> Join:
    """Answer the join, and the keys in it, that the arguments say.

    Raises:
        Misuse: They say none, or make no sense.
    """
    with reading_arguments():
        return _chosen(given)


def _chosen(given: argparse.Namespace) -> Join:
    keys = tuple(_key(text) for text in given.rest or ())
    if given.config is not None:
        if given.stores:
            raise UsageError("give stores or --config FILE, not both")
        return Join(None, load_config(given.config), keys)
    if not given.stores:
        raise UsageError("say which stores, or which mount; joinfs COMMAND --help shows how")
    mounted = [client.mount_with(text) for text in given.stores if "/" in text or os.path.lexists(text)]
    if len(mounted) == len(given.stores) and all(place is not None for place in mounted):
        return _mounted([place for place in mounted if place is not None], keys)
    specs = tuple(parse_store(text) for text in given.stores)
    return Join(None, MountConfig(stores=specs, mountpoint="", options=MountOptions()), keys)


def _mounted(places: Sequence[tuple[client.Mounted, str]], keys: tuple[str, ...]) -> Join:
    if len({mounted.mountpoint for mounted, _ in places}) > 1:
        raise UsageError("the paths are in different mounts; give those of one at a time")
    found = tuple(key for _, key in places if key)
    if found and keys:
        raise UsageError("give paths in the mount, or keys after '--', not both")
    if len(found) < len(places):  # the mountpoint itself is among them
        found = ()
    return Join(places[0][0], None, keys or found)


def _key(text: str) -> str:
    bare = text.strip("/") if text != "." else ""
    try:
        check_key(bare)
    except InvalidKey as error:
        raise UsageError(str(error)) from None
    return bare


@contextlib.contextmanager
def _heard(join: JoinedStore, progress: Progress | None) -> Iterator[None]:
    """Have how far long work is be told, on the join and on what it is joined of."""
    if progress is None:
        yield
        return
    hear: Callable[[StoreProgressEvent], object] = lambda event: _tell(event, progress)  # noqa: E731
    managers = {id(store.event_manager): store.event_manager for store in (join, *leaves(join))}.values()
    for manager in managers:
        manager.connect(StoreProgressEvent, hear, {"key": ""})
    try:
        yield
    finally:
        for manager in managers:
            manager.disconnect(StoreProgressEvent, hear)


def _tell(event: StoreProgressEvent, progress: Progress) -> None:
    if not isinstance(event, StoreProgressEndEvent):
        progress(told_progress(event))
