"""URLs of ``PostgresStore``: ``postgres://[USER@][HOST[:PORT]]/DATABASE?schema=NAME``."""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from joinfs.errors import UsageError

DEFAULT_SCHEMA = "joinfs"
# What PostgreSQL keeps of a name, in bytes; the rest it would silently leave out.
LONGEST_NAME = 63
_FORM = "postgres://[USER@]HOST[:PORT]/DATABASE?schema=NAME"
# No '%', which psycopg has a meaning for, and nothing that cannot be read in a message.
_is_plain = re.compile(r"[^%\0-\x1f\x7f]+\Z").match


class Place(NamedTuple):
    """Where the tables of a store are.

    Attributes:
        host, port, user: Empty for what libpq takes then: PGHOST and the like, a service of PGSERVICE, the local socket.
        database: Its name.
        schema: Its name.
    """

    host: str
    port: str
    user: str
    database: str
    schema: str

    @property
    def name(self) -> str:
        """The URL, as messages have it."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"postgres://{user}{host}{port}/{self.database}?schema={self.schema}"

    def parameters(self) -> dict[str, str]:
        """What libpq is to be told; what is not said is its own to find."""
        given = {"host": self.host, "port": self.port, "user": self.user, "dbname": self.database}
        return {name: value for name, value in given.items() if value}


def parse_url(url: str, schema: str) -> Place:
    """Answer the place that a URL names.

    Args:
        url: What follows ``postgres:``.
        schema: The name of a schema; empty for ``joinfs``.

    Raises:
        UsageError: It is no such URL, or there is a password in it.
    """
    if not url.startswith("//") or not url.isprintable():
        raise UsageError(f"'postgres:{url}' names no database; it is {_FORM}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"a store's URL is {_FORM}: {error}") from None
    if parts.password is not None:
        raise UsageError("a password in a URL would be seen in logs and in /proc/mounts; put it into ~/.pgpass, PGPASSWORD or a service of PGSERVICE")
    database = unquote(parts.path.removeprefix("/"))
    if not database or parts.fragment:
        raise UsageError(f"'postgres:{url}' names no database; it is {_FORM}")
    place = Place(parts.hostname or "", "" if port is None else str(port), unquote(parts.username or ""), database, schema or DEFAULT_SCHEMA)
    for what, name in (("database", place.database), ("schema", place.schema), ("user", place.user or "-"), ("host", place.host or "-")):
        if not _is_plain(name) or len(name.encode("utf-8", "surrogatepass")) > (LONGEST_NAME if what != "host" else 255):
            raise UsageError(f"{name!r} is no name of a {what}")
    if set(place.schema) & set("'{}"):  # it is put into texts of functions
        raise UsageError(f"{place.schema!r} is no name of a schema here: it has a quote or a brace in it")
    return place
