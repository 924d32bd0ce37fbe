"""Writes that are sent later. SEMANTICS.md, Writing back."""

import pytest

import joinfs
from joinfs.stores.object import ObjectStore
from joinfs.stores.writeback import WriteBackStore
from joinfs.testing import StoreContract


class TestWriteBack(StoreContract):
    """Over a store in memory: what waits, and what has arrived."""

    def make_store(self, place):
        return WriteBackStore(joinfs.MemoryStore(), place / "waiting")


class TestWriteBackToBucket(StoreContract):
    @pytest.fixture(autouse=True)
    def served(self, moto):
        self.server = moto

    def make_store(self, place):
        bucket = self.server.new_bucket()
        return WriteBackStore(ObjectStore(f"//{bucket}", endpoint=self.server.endpoint), place / "waiting")
