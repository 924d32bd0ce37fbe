"""What a Redis server is, and whether what it acknowledges is safe there."""

import contextlib
from typing import Any, NamedTuple

from joinfs.errors import AccessDenied, StoreUnavailable, UsageError
from joinfs.stores.redis_server import Server

# The first whose scripts say what they need: that they only read, or make room.
OLDEST = (7, 0)


class Facts(NamedTuple):
    """What a server says of itself.

    Attributes:
        version: Of Redis, or of what it is as good as.
        is_replica: Whether it takes its data from another, and so no writes.
        appends: Whether it logs what is written to a file (``appendonly``).
        synced: When it waits for that to be on the disk (``appendfsync``): ``always``, ``everysec``, ``no``; empty if it does not say.
        policy: What it deletes when it is full (``maxmemory-policy``).
    """

    version: tuple[int, ...]
    is_replica: bool
    appends: bool
    synced: str
    policy: str

    def risk(self) -> str:
        """How it may lose what it has acknowledged, as a sentence; empty if it does not."""
        if not self.appends:
            return "it keeps no log (appendonly is off), so that what was written since its last snapshot is lost when it dies"
        if self.synced != "always":
            when = f"appendfsync is {self.synced}" if self.synced else "it does not say what appendfsync is"
            return f"it does not wait for its disk ({when}), so that the last second or more is lost when its machine dies"
        return ""


def info(server: Server, section: str) -> dict[str, str]:
    """Answer a section of what the server says of itself; errors as for ``Server.ask``."""
    text: bytes = server.ask("INFO", section)
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def probe(server: Server) -> Facts:
    """Answer what a server is.

    Raises:
        UsageError: It is too old, or deletes keys when it is full.
        StoreError: As for ``Server.ask``.
    """
    said: dict[str, str] = {}
    for section in ("server", "replication", "persistence", "memory"):
        said |= info(server, section)
    facts = Facts(
        _version(said.get("redis_version", "")),
        said.get("role") == "slave",
        said.get("aof_enabled") == "1",
        _configured(server, "appendfsync"),
        said.get("maxmemory_policy", ""),
    )
    if facts.version < OLDEST:
        raise UsageError(f"{server.name}: the server is Redis {said.get('redis_version')}, and what joinfs asks of it came with 7.0")
    if facts.policy not in {"noeviction", ""}:
        raise UsageError(f"{server.name}: the server deletes keys when it is full (maxmemory-policy is {facts.policy}); a store needs noeviction")
    return facts


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _configured(server: Server, name: str) -> str:
    # Hosted servers do not tell.
    with contextlib.suppress(AccessDenied, StoreUnavailable):
        answer: list[Any] = server.ask("CONFIG", "GET", name)
        return answer[1].decode() if len(answer) == 2 else ""
    return ""
