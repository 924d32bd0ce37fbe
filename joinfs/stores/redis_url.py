"""What a ``redis:`` URL names, and what the environment says of how to get there."""

import os
import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from joinfs.errors import UsageError

PORT = 6379
# redis-cli's own, after joinfs's.
PASSWORDS = ("JOINFS_REDIS_PASSWORD", "REDISCLI_AUTH")
# Files of certificates, as redis-cli's options are called, and what redis-py calls them.
AUTHORITY, CERTIFICATE, KEY = "JOINFS_REDIS_CACERT", "JOINFS_REDIS_CERT", "JOINFS_REDIS_KEY"
_FILES = (("SSL_CERT_FILE", "ssl_ca_certs"), (AUTHORITY, "ssl_ca_certs"), (CERTIFICATE, "ssl_certfile"), (KEY, "ssl_keyfile"))
# What may stand in a prefix as it is, beside letters and digits.
_PLAIN = "/-._~!$&'()*+,;=:@"
FORM = "redis://[USER@]HOST[:PORT]/DATABASE/PREFIX"


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        host, port: Of the server.
        database: Its number.
        prefix: What the store's keys begin with, in braces.
        user: Whom to be there; empty for the default user.
        encrypted: Whether TLS is spoken.
    """

    host: str
    port: int
    database: int
    prefix: str
    user: str
    encrypted: bool

    @property
    def name(self) -> str:
        """The URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"redis{'s' * self.encrypted}://{user}{host}:{self.port}/{self.database}/{quote(self.prefix, safe=_PLAIN)}"


def parse_url(url: str) -> Address:
    """Answer what a URL names.

    Raises:
        UsageError: It is none, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        port, host, password = parts.port or PORT, parts.hostname or "", parts.password
    except ValueError as error:
        raise UsageError(f"{url}: {error}; it is {FORM}") from None
    if password is not None:
        raise UsageError(f"a password in a URL is seen by others; leave it out, and put it into {PASSWORDS[0]} in the environment")
    database, _, prefix = parts.path.removeprefix("/").partition("/")
    prefix = unquote(prefix.rstrip("/"))
    if parts.scheme not in {"redis", "rediss"} or not host or not re.fullmatch("[0-9]{1,6}", database) or parts.query or parts.fragment:
        raise UsageError(f"{url} does not say where a store is: it is {FORM}, with the number of a database")
    if not prefix or not prefix.isprintable() or set(prefix) & set("{}"):
        raise UsageError(f"{url}: a store needs a prefix of its own, without braces: it is {FORM}")
    return Address(host, port, int(database), prefix, unquote(parts.username or ""), parts.scheme == "rediss")


def login(address: Address, credentials: Any) -> tuple[str | None, str | None]:
    """Answer the user's name and the password; None for what there is not.

    Args:
        address: Whose user counts unless the credentials say another.
        credentials: A password, or ``(user, password)``; None for what the environment says.

    Raises:
        UsageError: There is no making sense of the credentials.
    """
    user: str | None = address.user or None
    if credentials is None:
        return user, next((os.environ[name] for name in PASSWORDS if os.environ.get(name)), None)
    if isinstance(credentials, str):
        return user, credentials
    if isinstance(credentials, tuple | list) and len(credentials) == 2 and all(isinstance(one, str) for one in credentials):
        return credentials[0], credentials[1]
    raise UsageError("credentials for a Redis server are a password, or (user, password)")


def certificates() -> dict[str, str]:
    """Answer the files of certificates that the environment names, as redis-py is told of them, wherever the process goes from here.

    Raises:
        UsageError: One of them is not there.
    """
    found = {}
    for name, parameter in _FILES:
        if path := os.environ.get(name):
            if not os.path.isfile(path):
                raise UsageError(f"{name} in the environment names {path}, and there is no such file")
            found[parameter] = os.path.abspath(path)
    return found
