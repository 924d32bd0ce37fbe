"""Where something in a join comes from: each store that holds it, and what hides it there."""

from typing import NamedTuple

from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import is_reserved
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, ancestors, directory_key, split


class Held(NamedTuple):
    """What one of the stores has at a key.

    Attributes:
        layer: The store's number; 0 is the first.
        store: Its name.
        key: The key there, spelled as its kind is.
        stat: The attributes there.
        hidden_by: The number of the store that hides it; None if it is seen, or is part of what is seen.
        how: What hides it there, for people.
    """

    layer: int
    store: str
    key: str
    stat: Stat
    hidden_by: int | None = None
    how: str = ""


def whereabouts(join: JoinedStore, key: str) -> list[Held]:
    """Answer what each store of a join has at a key, which may be spelled as either kind; nothing if none has anything.

    Raises:
        NotConnected, StoreUnavailable, CorruptStore: As for reading.
    """
    bare = key.removesuffix("/")
    if any(is_reserved(name) for name in bare.split("/")):
        return []
    suffixes = [JoinedStore(join.layers[number:]) for number in range(len(join.layers))]
    found = []
    for number, layer in enumerate(join.layers):
        held = _held(layer, number, _key_in(join, number, bare))
        if held is not None:
            found.append(_hidden(held, suffixes[:number], bare))
    return found


def _key_in(join: JoinedStore, number: int, bare: str) -> str:
    """What a key of a join is called in one of its layers, which differs below a directory that was renamed."""
    above, name = split(bare)
    try:
        prefixes = {part.layer: part.prefix for part in join._merge.parts(above)}
    except KeyError:
        return bare
    return prefixes.get(number, above) + name


def _held(layer: Store, number: int, bare: str) -> Held | None:
    """What one of the stores has at a key."""
    try:
        stat = layer.lookup(bare) if bare else layer.stat(ROOT)
    except KeyError:
        return None
    return Held(number, layer.name, directory_key(bare) if stat.is_directory else bare, stat)


def _hidden(held: Held, above: list[JoinedStore], bare: str) -> Held:
    """The same with what hides it, the nearest store above first."""
    for number in reversed(range(len(above))):
        if not _shows(above[number], held, held.layer - number, bare):
            return held._replace(hidden_by=number, how=_how(above[number], bare))
    return held


def _shows(join: JoinedStore, held: Held, layer: int, bare: str) -> bool:
    """Whether a join shows what layer number ``layer`` of it holds at a key, or has it share in what it shows."""
    try:
        if held.stat.is_directory:
            return any(part.layer == layer and part.prefix == held.key for part in join._merge.parts(directory_key(bare)))
        found = join._merge.find(bare)
    except KeyError:
        return False
    return found.layer == layer and found.key == held.key


def _how(join: JoinedStore, bare: str) -> str:
    """What in the first store of a join hides what the others have at a key."""
    layer = join.layers[0]
    try:
        stat = layer.lookup(bare) if bare else layer.stat(ROOT)
    except KeyError:
        return _how_above(join, bare)
    if not stat.is_directory:
        return "it has a whiteout there" if stat.kind == 0o020000 and stat.rdev == 0 else "it has a file there"
    return "its directory there is opaque, or is another one that was renamed"


def _how_above(join: JoinedStore, bare: str) -> str:
    for directory in reversed([*ancestors(bare)]):
        try:
            stat = join.layers[0].lookup(directory.removesuffix("/"))
        except KeyError:
            continue
        if not stat.is_directory:
            return f"it has a file at {directory.removesuffix('/')!r}"
        above = join._merge.first_part(directory).marks
        return f"its directory {directory!r} is opaque" if above.opaque else "it has a whiteout there"
    return f"it has a whiteout of {split(bare)[1]!r}, or of a directory that it is in"
