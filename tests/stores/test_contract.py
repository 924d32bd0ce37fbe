"""The contract, over every store that is registered. SEMANTICS.md, Keys and paths; Transactions."""

import io
import re
import sqlite3
import zipfile
from pathlib import Path

from joinfs.joined.store import JoinedStore
from joinfs.stores import REGISTRY
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.zip import ZipStore
from joinfs.testing import ReadOnlyContract, StoreContract


class TestMemory(StoreContract):
    scheme = "memory"

    def make_store(self, place):
        return MemoryStore()


class TestDirectory(StoreContract):
    scheme = "dir"

    def make_store(self, place):
        (place / "medium").mkdir()
        return DirectoryStore(place / "medium")

    def raw(self, place, key):
        return (place / "medium" / key).read_bytes()

    def seed(self, place, key, content):
        (place / "medium" / key).write_bytes(content)
        return True


class TestSQLite(StoreContract):
    scheme = "sqlite"

    def make_store(self, place):
        return SQLiteStore(place / "medium.db")

    def raw(self, place, key):
        with sqlite3.connect(place / "medium.db") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            return database.execute(
                "SELECT n.data FROM entry d JOIN entry e ON e.parent = d.node JOIN node n ON n.id = e.node"
                " WHERE d.parent = 1 AND d.name = ? AND e.name = ?",
                key.encode().split(b"/"),
            ).fetchone()[0]

    def seed(self, place, key, content):
        with SQLiteStore(place / "medium.db") as other:
            other.set_data(key, io.BytesIO(content))
        return True


class TestZip(ReadOnlyContract):
    scheme = "zip"

    def make_filled(self, place):
        with zipfile.ZipFile(place / "medium.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for key, content in self.CONTENTS.items():
                archive.writestr(key, content)
        return ZipStore(place / "medium.zip")


class TestJoinOverMemory(StoreContract):
    def make_store(self, place):
        return JoinedStore([MemoryStore(), MemoryStore()])


class TestJoinOverDirectory(StoreContract):
    def make_store(self, place):
        (place / "upper").mkdir()
        return JoinedStore([DirectoryStore(place / "upper"), MemoryStore(), MemoryStore()])


class TestJoinOverSQLite(StoreContract):
    def make_store(self, place):
        return JoinedStore([SQLiteStore(place / "upper.db"), MemoryStore()])


class TestJoinWithAllInTheLower(StoreContract):
    """What is there is all in the lower store: everything that is written is copied up first."""

    def make_store(self, place):
        return JoinedStore([MemoryStore(), MemoryStore()])

    def make_filled(self, place):
        lower = TestMemory().make_filled(place)
        return JoinedStore([MemoryStore(), lower])


class TestReadOnlyDirectory(ReadOnlyContract):
    def make_filled(self, place):
        for key, content in self.CONTENTS.items():
            (place / "medium" / key).parent.mkdir(parents=True, exist_ok=True)
            (place / "medium" / key).write_bytes(content)
        return DirectoryStore(place / "medium", read_only=True)


class TestReadOnlySQLite(ReadOnlyContract):
    def make_filled(self, place):
        with TestSQLite().make_filled(place):
            pass
        return SQLiteStore(place / "medium.db", read_only=True)


class TestReadOnlyJoin(ReadOnlyContract):
    def make_filled(self, place):
        return JoinedStore([TestZip().make_filled(place), MemoryStore()])


def test_every_scheme_is_tested():
    """Here, or in another file of tests."""
    tested = {s for path in Path(__file__).parents[1].rglob("test_*.py") for s in re.findall(r'^    scheme = "(\w+)"$', path.read_text(), re.MULTILINE)}
    assert set(REGISTRY) == tested
