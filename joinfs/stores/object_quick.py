"""The commonest requests of a bucket of S3's, by obstore: they take a tenth of the processor's time that boto3's take.

It has no names as ``a//b``, ``dir/`` and what has a newline in it, and tells less of what went wrong. What it does not
answer, boto3 is asked again.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from joinfs.stores.object_bucket import Changed, Found, nanoseconds
from joinfs.stores.object_markers import told

# The names that obstore and S3 have for what boto3 calls ``ContentType``.
_SYSTEM = {name.replace("-", ""): name for name in ("Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type")}
_NAMES = {name: ours for ours, name in _SYSTEM.items()}
_TAKEN = {"storage-class", *(name.lower() for name in _NAMES)}
# How long credentials are used without asking for them again: those of a role are good for ten minutes at the least.
_CREDENTIALS_LAST = timedelta(minutes=5)
# After so many failures in a row nothing is tried for so many seconds: the server may be one that it does not understand.
MOST_FAILURES, PAUSE = 8, 60.0
_PAST_END = "416 Range Not Satisfiable"
# obstore takes settings from all variables that begin so, whatever it is told: another server, too. With any but these it is not asked.
_PREFIX = "AWS_"
_HARMLESS = {
    "ACCESS_KEY_ID", "CA_BUNDLE", "CONFIG_FILE", "CONTAINER_CREDENTIALS_FULL_URI", "CONTAINER_CREDENTIALS_RELATIVE_URI", "DEFAULT_PROFILE", "DEFAULT_REGION",
    "EC2_METADATA_DISABLED", "ENDPOINT_URL", "EXECUTION_ENV", "MAX_ATTEMPTS", "PAGER", "PROFILE", "REGION", "RETRY_MODE", "ROLE_ARN",
    "ROLE_SESSION_NAME", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "SHARED_CREDENTIALS_FILE", "STS_REGIONAL_ENDPOINTS", "WEB_IDENTITY_TOKEN_FILE",
}  # fmt: skip


class Unanswered(Exception):
    """boto3 is to be asked."""


class Clock:
    """The clock of a server, as its answers tell; never ahead of it."""

    def __init__(self) -> None:
        self._ahead: int | None = None

    def told(self, moment: int) -> int:
        """An answer that has just come has this time, in nanoseconds, which is answered."""
        if moment:
            self._ahead = moment - time.monotonic_ns()
        return moment

    def now(self) -> int:
        """Answer nanoseconds since the epoch; 0 if no answer has told."""
        return 0 if self._ahead is None else time.monotonic_ns() + self._ahead


class Quick:
    """A bucket, as far as obstore can be asked; several threads may ask.

    Args:
        name: The bucket.
        endpoint: The URL of the server.
        region: The region.
        session: Of boto3's: where there are credentials, if none are given.
        keys: Credentials, as ``boto3.client`` takes them; empty for the session's.
        timeout: Seconds for which the server may send nothing.
        clock: The server's.
    """

    def __init__(self, name: str, endpoint: str, region: str, session: Any, keys: dict[str, str], timeout: float, clock: Clock) -> None:
        import obstore  # noqa: PLC0415 - an extra
        from obstore import exceptions  # noqa: PLC0415
        from obstore.store import S3Store  # noqa: PLC0415

        self._obstore, self._errors, self._clock = obstore, exceptions, clock
        self._lock = threading.Lock()
        self._failures, self._paused_until = 0, float("inf")
        if _is_harmless(os.environ):
            seconds = timedelta(seconds=timeout)
            limits: Any = {"connect_timeout": seconds, "read_timeout": seconds, "timeout": seconds * 100}
            with contextlib.suppress(OSError, ValueError, exceptions.BaseError):  # then boto3 says what is wrong
                self._store = S3Store(
                    name,
                    endpoint=endpoint,
                    region=region,
                    virtual_hosted_style_request=False,
                    client_options=limits | _transport(endpoint),
                    retry_config={"max_retries": 0, "retry_timeout": seconds},
                    credential_provider=_credentials(session, keys),
                )
                self._paused_until = 0.0

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        if not _is_plain(name) or time.monotonic() < self._paused_until:
            raise Unanswered
        try:
            yield
        except (self._errors.PreconditionError, self._errors.AlreadyExistsError) as error:
            raise Changed(f"{name!r} is another version") from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise Unanswered from None
            raise KeyError(name) from None
        except (self._errors.BaseError, NotImplementedError, ValueError, OSError) as error:
            self._failed()
            raise Unanswered(str(error)) from None
        self._failures = 0

    def _failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self._failures, self._paused_until = 0, time.monotonic() + PAUSE

    def head(self, name: str) -> Found:
        """As ``Bucket.head``; ``Unanswered`` as for all."""
        with self._asking(name):
            return self._found(self._obstore.get(self._store, name, options={"head": True}))

    def read(self, name: str, offset: int, size: int, etag: str) -> tuple[bytes, Found]:
        """As ``Bucket.read``."""
        options: Any = {"range": (offset, offset + size)}
        if etag:
            options["if_match"] = etag
        with self._asking(name):
            try:
                got = self._obstore.get(self._store, name, options=options)
                return got.bytes().to_bytes(), self._found(got)
            except self._errors.GenericError as error:
                if _PAST_END not in str(error):
                    raise
        found = self.head(name)
        if offset < found.size:
            raise Unanswered("it was replaced in between")
        return b"", found

    def put(self, name: str, data: bytes, headers: dict[str, str], system: dict[str, str], etag: str | None) -> Found:
        """As ``Bucket.put``, of a small one."""
        if any(header in _TAKEN for header in headers):
            raise Unanswered("obstore would take that for another header")
        mode: Any = "overwrite" if etag is None else {"e_tag": etag} if etag else "create"
        attributes = headers | {_SYSTEM[ours]: value for ours, value in system.items()}
        with self._asking(name):
            answer = self._obstore.put(self._store, name, data, attributes=attributes, mode=mode, use_multipart=False)
        now = self._clock.now() or time.time_ns()
        return Found(len(data), answer["e_tag"] or "", now, headers, system, now)

    def delete(self, name: str) -> None:
        """Delete an object, which need not be there."""
        with self._asking(name), contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)

    def _found(self, got: Any) -> Found:
        meta, said = got.meta, dict(got.attributes)
        system = {_NAMES[name]: said[name] for name in _NAMES if name in said}
        # Metadata has small letters, what it says of the object itself has others.
        headers = {name: value for name, value in said.items() if name == name.lower()} | told(system.get("ContentType", ""))
        return Found(meta["size"], meta["e_tag"] or "", nanoseconds(meta["last_modified"]), headers, system, self._clock.now())


def _transport(endpoint: str) -> Any:
    """How the server is spoken to: with TLS whoever boto3 trusts is trusted, too. Raises ``OSError``, ``ValueError`` if that cannot be told."""
    if endpoint.startswith("http://"):
        return {"allow_http": True}
    bundle = os.environ.get(_PREFIX + "CA_BUNDLE")
    return {"root_certificate": Path(bundle).read_bytes()} if bundle else {}


def _is_harmless(environment: Mapping[str, str]) -> bool:
    return all(name.removeprefix(_PREFIX) in _HARMLESS for name in environment if name.startswith(_PREFIX))


def _credentials(session: Any, keys: dict[str, str]) -> Any:
    """Whom obstore is to ask for credentials, lest it take some of them from the environment; if there are none it fails, and boto3 says so."""
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - an extra

    if not keys and session.get_credentials() is not None:
        return Boto3CredentialProvider(session, ttl=_CREDENTIALS_LAST)

    def given() -> dict[str, Any]:
        return {
            "access_key_id": keys["aws_access_key_id"],
            "secret_access_key": keys["aws_secret_access_key"],
            "token": keys.get("aws_session_token"),
            "expires_at": None,
        }

    return given


def _is_plain(name: str) -> bool:
    """Whether obstore has such names: it takes ``/a`` and ``a/`` for others."""
    return name.isprintable() and all(piece not in {"", ".", ".."} for piece in name.split("/"))
