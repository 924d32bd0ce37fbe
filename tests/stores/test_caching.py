"""Stores with a cache on local disk. SEMANTICS.md, Caches on disk."""

import pytest

from joinfs.stores import value
from joinfs.stores.caching import CachingStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.http import HTTPStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.object import ObjectStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.testing import ReadOnlyContract, StoreContract


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """What was written just now is kept as well: the clocks here are not of whole seconds."""
    monkeypatch.setattr(value, "SETTLED", 0)


class TestOverMemory(StoreContract):
    def make_store(self, place):
        return CachingStore(MemoryStore(), place / "cache", ttl=1000)


class TestOverDirectory(StoreContract):
    def make_store(self, place):
        (place / "medium").mkdir()
        return CachingStore(DirectoryStore(place / "medium"), place / "cache", ttl=1000)


class TestOverSQLite(StoreContract):
    def make_store(self, place):
        return CachingStore(SQLiteStore(place / "medium.db"), place / "cache", ttl=1000)


class TestThatBelievesNothing(StoreContract):
    def make_store(self, place):
        return CachingStore(MemoryStore(), place / "cache", ttl=0)


class TestOverMoto(StoreContract):
    @pytest.fixture(autouse=True)
    def served(self, moto):
        self.server = moto

    def make_store(self, place):
        self.bucket, self.prefix = self.server.new_place()
        store = ObjectStore(f"//{self.bucket}/{self.prefix}", endpoint=self.server.endpoint)
        return CachingStore(store, place / "cache", ttl=1000)

    def raw(self, place, key):
        return self.server.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()


class TestOverWebServer(ReadOnlyContract):
    @pytest.fixture(autouse=True)
    def served(self, nginx):
        self.nginx = nginx

    def make_filled(self, place):
        for key, content in self.CONTENTS.items():
            path = self.nginx.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return CachingStore(HTTPStore(self.nginx.url), place / "cache", ttl=1000)
