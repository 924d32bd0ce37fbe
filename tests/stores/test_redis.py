"""Stores on a Redis server. SEMANTICS.md, Redis."""

import io

import pytest

from joinfs.stores.redis_store import RedisStore
from joinfs.testing import StoreContract


class TestRedis(StoreContract):
    scheme = "redis"

    @pytest.fixture(autouse=True)
    def served(self, redis_server):
        self.server = redis_server

    def make_store(self, place):
        self.url = self.server.url()
        return RedisStore(self.url)

    def raw(self, place, key):
        tag, node = self.server.tag(self.url), b"1"
        for name in key.encode().split(b"/"):
            entries = self.server.client.zrange(f"{tag}:d:{node.decode()}", 0, -1)
            node = next(entry.split(b"\0")[1] for entry in entries if entry.split(b"\0")[0] == name)
        return self.server.client.get(f"{tag}:v:{node.decode()}")

    def seed(self, place, key, content):
        with RedisStore(self.url) as other:
            other.set_data(key, io.BytesIO(content))
        return True
