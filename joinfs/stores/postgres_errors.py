"""What the errors of a PostgreSQL server, and of the way to it, mean."""

import contextlib
from collections.abc import Iterator
from typing import Any

from joinfs.errors import AccessDenied, CorruptStore, OutOfSpace, ReadOnly, StoreError, StoreLocked, StoreUnavailable, UsageError

# The statement was undone because others were at the same rows; it can be done again as it is.
AGAIN = {"40001", "40P01"}
# By SQLSTATE, or its first two characters. https://www.postgresql.org/docs/15/errcodes-appendix.html
_MEANINGS: dict[str, tuple[type[StoreError], str]] = {
    "08": (StoreUnavailable, "the connection failed"),
    "22": (CorruptStore, "something in it is not as joinfs writes it"),
    "23": (CorruptStore, "something in it is not as joinfs writes it"),
    "25006": (ReadOnly, "the server takes no writes"),
    "28": (AccessDenied, "the server does not let us in"),
    "3D000": (StoreUnavailable, "there is no such database; make it with createdb"),
    "3F000": (CorruptStore, "its tables are gone"),
    "40": (StoreLocked, "others write the same all the time"),
    "42501": (AccessDenied, "the server does not let us do this"),
    "42": (CorruptStore, "its tables are not those of a joinfs store"),
    "53100": (OutOfSpace, "the server's disk is full"),
    "53": (StoreUnavailable, "the server has no room for this"),
    "54": (OutOfSpace, "this is more than the server takes"),
    "55P03": (StoreLocked, "others have been writing for too long"),
    "57014": (StoreUnavailable, "the server took too long, and was stopped"),
    "57": (StoreUnavailable, "the server is going down, or not yet there"),
    "XX001": (CorruptStore, "the server finds its data damaged"),
    "XX002": (CorruptStore, "the server finds an index damaged"),
}
_FOREIGN = "the server is not known to be the one that is meant, as sslmode and sslrootcert (PGSSLROOTCERT) say"
_UNCLEAR = "what libpq is told of the server makes no sense"
# What is refused while connecting libpq says in words only.
_IN_WORDS: dict[str, tuple[type[StoreError], str]] = {
    "no password supplied": (AccessDenied, "the server wants a password, which libpq takes from PGPASSWORD, ~/.pgpass or a service"),
    "password authentication failed": (AccessDenied, "the server does not take this user with this password"),
    "client certificate": (AccessDenied, "the server wants a certificate of ours, which libpq takes from PGSSLCERT and PGSSLKEY"),
    "private key file": (AccessDenied, "our certificate cannot be shown to the server"),
    "does not support SSL": (StoreUnavailable, "the server speaks no TLS, which sslmode demands"),
    "certificate verify failed": (StoreUnavailable, _FOREIGN),
    "does not match host name": (StoreUnavailable, _FOREIGN),
    "root certificate": (StoreUnavailable, _FOREIGN),
    "definition of service": (StoreUnavailable, _UNCLEAR),
    "service file": (StoreUnavailable, _UNCLEAR),
    "sslmode value": (StoreUnavailable, _UNCLEAR),
    "password": (AccessDenied, "the server does not let us in"),
    "authentication": (AccessDenied, "the server does not let us in"),
    "pg_hba.conf": (AccessDenied, "the server does not let us in"),
    "role ": (AccessDenied, "the server does not let us in"),
    "permission denied": (AccessDenied, "the server does not let us in"),
    "database ": (StoreUnavailable, "there is no such database, or not for us; createdb makes one"),
}


def library() -> Any:
    """Answer psycopg.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import psycopg  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"stores in PostgreSQL need psycopg: pip install 'joinfs[postgres]' ({error})") from None
    return psycopg


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Around what asks the server: its errors are ours."""
    psycopg = library()
    try:
        yield
    except psycopg.Error as error:
        raise explanation(name, error) from error


def explanation(name: str, error: Any) -> StoreError:
    """Answer one of our errors for one of psycopg's.

    Args:
        name: What messages call the store.
        error: A ``psycopg.Error``.
    """
    state = error.sqlstate or ""
    cls, words = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or (StoreUnavailable, "the server cannot be reached, or does not answer")
    said = _said(error)
    if not state:
        cls, words = next((meaning for text, meaning in _IN_WORDS.items() if text in said), (cls, words))
    return cls(f"{name}: {words}" + (f": {said}" if said else ""))


def _said(error: Any) -> str:
    """What the server says, without where in a statement; of an attempt with TLS and one without what both say once."""
    lines = (error.diag.message_primary or str(error)).splitlines()
    return " ".join(dict.fromkeys(" ".join(line.split()).removeprefix("connection failed: ") for line in lines))


def is_lost(connection: Any) -> bool:
    """Whether nothing can be asked of a connection any more."""
    return bool(connection.closed or connection.broken)
