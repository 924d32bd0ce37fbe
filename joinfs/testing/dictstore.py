"""The smallest store there can be: an example for authors, and the one that tests run on."""

import io
from collections.abc import Iterable
from typing import BinaryIO

from joinfs.stores.flat import FlatStore
from joinfs.stores.value import Metadata, Value


class DictStore(FlatStore):
    """A dict of ``name: (bytes, metadata)`` as a store."""

    name = "a dict"

    def __init__(self, medium: dict[str, tuple[bytes, Metadata]]) -> None:
        super().__init__()
        self.medium = medium

    def _names(self) -> Iterable[str]:
        return tuple(self.medium)

    def _load(self, name: str) -> Value:
        data, metadata = self.medium[name]
        return Value(lambda: io.BytesIO(data), metadata, len(data))

    def _save(self, name: str, data: BinaryIO, size: int, metadata: Metadata) -> None:
        self.medium[name] = (data.read(), metadata)

    def _remove(self, name: str) -> None:
        del self.medium[name]
