"""What is on the way from a ``PostgresStore`` to its server: files that libpq reads for each connection, and a pooler such as PgBouncer."""

import os
from collections.abc import Callable
from typing import Any

from joinfs.errors import UsageError
from joinfs.stores.postgres_errors import explained

# Parameters of libpq that name files; "system" is the one value of theirs that is none.
_FILES = ("passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir")
# Seconds for which what was told may be on its way.
PATIENCE = 5.0


def files_of(connection: Any) -> dict[str, str]:
    """Answer the files that a connection was made with, as parameters that mean the same when the process is in another directory."""
    found = connection.info.get_parameters()
    return {name: os.path.abspath(found[name]) for name in _FILES if name in found and found[name] != "system" and os.path.exists(found[name])}


def check_sessions(connection: Any, another: Callable[[], Any], name: str) -> None:
    """See to it that a connection is one to the server, from its beginning to its end.

    A pooler that gives each transaction to any of its own connections loses what is set, prepared and listened for. Which it does it tells
    nobody. That there is a pooler is seen from the number of the server's process, which it does not know; and that it keeps us and
    a process together, from what one connection is told that asks for nothing.

    Args:
        connection: One of psycopg's, in no transaction.
        another: Makes one more.
        name: What messages call the store.

    Raises:
        UsageError: They are not kept together.
        psycopg.Error: As the server reports it.
    """
    process, standby = connection.execute("SELECT pg_backend_pid(), pg_is_in_recovery()").fetchone()
    if process == connection.info.backend_pid:
        return
    if standby:  # which tells nothing, and lets nothing be listened for
        raise UsageError(f"{name}: a standby is read without a pooler such as PgBouncer before it; name the server itself")
    channel = f"joinfs_{os.urandom(8).hex()}"
    connection.execute(f"LISTEN {channel}")
    other = another()
    try:
        with explained(name):
            other.execute(f"NOTIFY {channel}")
    finally:
        other.close()
    is_told = any(True for _ in connection.notifies(timeout=PATIENCE, stop_after=1))
    connection.execute("UNLISTEN *")
    if not is_told:
        raise UsageError(
            f"{name}: a pooler hands each transaction to another connection of the server, which a store cannot be on; "
            "have it keep sessions (PgBouncer: pool_mode=session for this database), or name the server itself"
        )
