"""Tables of a PostgreSQL server, on a real one. SEMANTICS.md, Tables of a server."""

import io

import pytest

from joinfs.joined.store import JoinedStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.postgres import PostgresStore
from joinfs.testing import ReadOnlyContract, StoreContract


class OnPostgres:
    @pytest.fixture(autouse=True)
    def served(self, postgres):
        self.server = postgres

    def new(self, **given):
        self.schema = self.server.new_schema()
        return PostgresStore(self.server.url(), schema=self.schema, **given)


class TestPostgres(OnPostgres, StoreContract):
    scheme = "postgres"

    def make_store(self, place):
        return self.new()

    def raw(self, place, key):
        above, name = key.encode().split(b"/")
        with self.server.connect() as connection:
            query = (
                f"SELECT n.data FROM {self.schema}.entry d JOIN {self.schema}.entry e ON e.parent = d.node"
                f" JOIN {self.schema}.node n ON n.id = e.node WHERE d.parent = 1 AND d.name = %s AND e.name = %s"
            )
            return connection.execute(query, (above, name)).fetchone()[0]

    def seed(self, place, key, content):
        with PostgresStore(self.server.url(), schema=self.schema) as other:
            other.set_data(key, io.BytesIO(content))
        return True


class TestReadOnly(OnPostgres, ReadOnlyContract):
    def make_filled(self, place):
        with self.new() as store:
            for key, content in self.CONTENTS.items():
                store.set_data(key, io.BytesIO(content))
        return PostgresStore(self.server.url(), schema=self.schema, read_only=True)


class TestJoinOver(OnPostgres, StoreContract):
    def make_store(self, place):
        return JoinedStore([self.new(), MemoryStore()])
