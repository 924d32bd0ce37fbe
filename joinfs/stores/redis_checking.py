"""Whether a ``RedisStore``'s keys are what its scripts make of them."""
from collections.abc import Iterator
from joinfs.stores.redis_server import Server

def broken_rules(server: Server) -> Iterator[str]:
    yield from ()
