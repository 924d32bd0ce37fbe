"""What is remembered of directories, by key, and found also by what is below a key."""

from typing import Generic, TypeVar

from joinfs.stores.keys import ROOT, split

T = TypeVar("T")


class KeyTree(Generic[T]):
    """Things by directories' keys. Who changes it sees to it that nobody else does.

    Attributes:
        things: To look at.
    """

    def __init__(self) -> None:
        self.things: dict[str, T] = {}
        # The keys directly in a directory at which, or below which, there is something.
        self._inside: dict[str, set[str]] = {}

    def put(self, key: str, thing: T) -> None:
        """Have a thing at a key, in place of what is there."""
        self.things[key] = thing
        while key != ROOT:
            above = split(key)[0]
            inside = self._inside.setdefault(above, set())
            if key in inside:
                return
            inside.add(key)
            key = above

    def take(self, key: str) -> T | None:
        """Take out and answer what is at a key, if something is."""
        thing = self.things.pop(key, None)
        self._tidy(key)
        return thing

    def take_below(self, key: str) -> dict[str, T]:
        """Take out and answer what is at a key and below it."""
        taken: dict[str, T] = {}
        pending = [key]
        while pending:
            directory = pending.pop()
            pending += self._inside.pop(directory, ())
            if directory in self.things:
                taken[directory] = self.things.pop(directory)
        self._tidy(key)
        return taken

    def clear(self) -> None:
        """Take out everything."""
        self.things.clear()
        self._inside.clear()

    def _tidy(self, key: str) -> None:
        while key != ROOT and key not in self.things and key not in self._inside:
            above = split(key)[0]
            inside = self._inside.get(above)
            if inside is None:
                return
            inside.discard(key)
            if inside:
                return
            del self._inside[above]
            key = above
