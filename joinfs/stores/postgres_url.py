"""URLs of ``PostgresStore``: ``postgres://[USER@][HOST[:PORT]]/DATABASE?schema=NAME``, with libpq's ``OPTIONS`` of its own."""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from joinfs.errors import UsageError

DEFAULT_SCHEMA = "joinfs"
# Of libpq's parameters those that are no secret, and of which a join of two servers may need two.
OPTIONS = ("service", "sslmode", "sslrootcert")
# What PostgreSQL keeps of a name, in bytes; the rest it would silently leave out.
LONGEST_NAME = 63
_LONGER = {"host", *OPTIONS}
_FORM = "postgres://[USER@]HOST[:PORT]/DATABASE?schema=NAME"
# No '%', which psycopg has a meaning for, and nothing that cannot be read in a message.
_is_plain = re.compile(r"[^%\0-\x1f\x7f]+\Z").match


class Place(NamedTuple):
    """Where the tables of a store are.

    Attributes:
        host, port, user: Empty for what libpq takes then: PGHOST and the like, a service of PGSERVICE, the local socket.
        database: Its name.
        schema: Its name.
        options: Those of ``OPTIONS`` that are given, and their values.
    """

    host: str
    port: str
    user: str
    database: str
    schema: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The URL, as messages have it."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        # How the server is got at says nothing of which store it is, but for a service, which may name the server.
        service = "".join(f"&service={value}" for name, value in self.options if name == "service")
        return f"postgres://{user}{host}{port}/{self.database}?schema={self.schema}{service}"

    def parameters(self) -> dict[str, str]:
        """What libpq is to be told; what is not said is its own to find."""
        given = {"host": self.host, "port": self.port, "user": self.user, "dbname": self.database, **dict(self.options)}
        return {name: value for name, value in given.items() if value}


def parse_url(url: str, schema: str, **options: str) -> Place:
    """Answer the place that a URL names.

    Args:
        url: What follows ``postgres:``.
        schema: The name of a schema; empty for ``joinfs``.
        options: Some of ``OPTIONS``; what is empty is not given.

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
    given = tuple((name, value) for name, value in options.items() if value)
    place = Place(parts.hostname or "", "" if port is None else str(port), unquote(parts.username or ""), database, schema or DEFAULT_SCHEMA, given)
    for what, name in (("database", place.database), ("schema", place.schema), ("user", place.user or "-"), ("host", place.host or "-"), *given):
        if not _is_plain(name) or len(name.encode("utf-8", "surrogatepass")) > (255 if what in _LONGER else LONGEST_NAME):
            raise UsageError(f"{name!r} is no name of a {what}")
    if set(place.schema) & set("'{}"):  # it is put into texts of functions
        raise UsageError(f"{place.schema!r} is no name of a schema here: it has a quote or a brace in it")
    return place
