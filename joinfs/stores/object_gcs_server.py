"""How Google Cloud Storage is asked: credentials, connections, trying again, and what failures mean.

Requests go through google-auth's own transport over urllib3: google-cloud-storage answers neither the headers that are needed
here (when the server answered, which generation a range is of), nor what an object says beside its data, and takes four times as long for each request.
"""

import json
import logging
import os
import re
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from joinfs.errors import AccessDenied, OutOfSpace, StoreUnavailable, UsageError
from joinfs.stores.object_bucket import CONNECTIONS, Changed, moment_in
from joinfs.version import VERSION

GOOGLE = "https://storage.googleapis.com"
# The environment's name for the URL of a server to test with, as Google's own clients have it.
EMULATOR = "STORAGE_EMULATOR_HOST"
# What is answered by who is busy, and goes away by itself; an object that is written more often than once a second is 429.
BUSY = (408, 429, 500, 502, 503, 504)
# How often who is busy is asked again, and by what the waits in between (of which the first is none) grow: about 8 seconds together.
_BUSY_TRIES = 5
_BACKOFF = 0.25
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_{}"
_BUCKET = re.compile(r"(?=.{3,222}$)[a-z0-9][a-z0-9._-]*[a-z0-9]", re.ASCII)


class Answer(NamedTuple):
    """What a server answers.

    Attributes:
        status, headers: As HTTP has them.
        data: The body.
        again: Whether it was asked more than once.
    """

    status: int
    headers: Any
    data: bytes
    again: bool

    def json(self) -> dict[str, Any]:
        """The body of a request that succeeded, as an object of JSON; StoreUnavailable if it is none."""
        try:
            said = json.loads(self.data)
        except ValueError:
            raise self.nonsense() from None
        if not isinstance(said, dict):
            raise self.nonsense()
        return said

    def nonsense(self) -> StoreUnavailable:
        """What is raised because of an answer that makes no sense."""
        return StoreUnavailable(f"a bucket's server answers {self.data[:40]!r}, which Google's would not")

    def asked(self) -> int:
        """When the server answered, by its own clock, in nanoseconds."""
        return moment_in(self.headers.get("Date", ""))

    def error(self) -> str:
        """What it says of a failure, on one line."""
        try:
            text = str(json.loads(self.data)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            text = self.data[:200].decode(errors="replace")
        return text.strip().partition("\n")[0]


class GoogleServer:
    """A server, as it is asked for one bucket; several threads may.

    Args:
        bucket: The bucket's name.
        endpoint: URL of the server; empty for what ``STORAGE_EMULATOR_HOST`` says, or Google's.
        credentials: Those of google-auth; None to look for some.
        read_only: Whether they are to be good for reading only.
        timeout: Seconds for which the server may send nothing.
        tries: How often a server that cannot be reached is asked.

    Attributes:
        is_for_reading: Whether there are no credentials, where some are needed for writing.

    Raises:
        UsageError: google-auth is not installed, or there is no making sense of bucket, credentials or endpoint.
    """

    def __init__(self, bucket: str, endpoint: str, credentials: Any, read_only: bool, timeout: float, tries: int) -> None:
        self._auth, self._transport, self._urllib3 = _library()
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"{bucket!r} is no bucket of Google's: those have 3 to 222 small letters, digits, '-', '_' and '.'")
        self._bucket, self._tries = bucket, tries
        self._url = _url(endpoint or os.environ.get(EMULATOR, "") or GOOGLE)
        self.is_for_reading = False
        self._timeout = self._urllib3.Timeout(connect=timeout, read=timeout)
        self._http: Any = self._connected(credentials, _SCOPE.format("only" if read_only else "write"))

    def _connected(self, credentials: Any, scope: str) -> Any:
        if credentials is None:
            # They are a token, which who reads it can use.
            credentials = self._found_credentials(scope) if self._url.startswith("https:") else None
        elif not isinstance(credentials, self._auth.credentials.Credentials):
            raise UsageError("credentials for a bucket of Google's are those of google-auth")
        pool = _pool(self._urllib3, self._url)
        if credentials is not None:
            return self._transport.AuthorizedHttp(credentials, pool)
        return pool

    def _found_credentials(self, scope: str) -> Any:
        try:
            return self._auth.default(scopes=[scope])[0]
        except self._auth.exceptions.DefaultCredentialsError as error:
            if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):  # which is to be used, or there is a mistake in it
                raise UsageError(f"GOOGLE_APPLICATION_CREDENTIALS is of no use: {_line(error)}") from None
        except self._auth.exceptions.GoogleAuthError as error:
            raise AccessDenied(f"bucket {self._bucket} cannot be asked with the credentials that were found: {_line(error)}") from None
        self.is_for_reading = True
        return None

    def close(self) -> None:
        getattr(self._http, "http", self._http).clear()

    # ---------------------------------------------------------------- asking

    def ask(self, name: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Ask until there is an answer that is no failure.

        Args:
            name: The object that is asked for, for what is told of failures.
            method, path: Of the request.
            body, headers: The same; the body is JSON if no header says otherwise.

        Raises:
            KeyError, Changed, StoreError: As for ``Bucket``.
        """
        answer = self.send(method, path, body, headers)
        if answer.status >= 300:
            raise self.refused(name, answer)
        return answer

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, once: bool = False) -> Answer:
        """The same, with any answer, and only one try if it is to be asked ``once``; ``path`` may be a whole URL.

        Raises:
            AccessDenied: The credentials are refused.
            StoreUnavailable: There is no answer.
        """
        given = {"User-Agent": f"joinfs/{VERSION}", "Accept-Encoding": "gzip", **({"Content-Type": "application/json"} if body else {}), **(headers or {})}
        url = path if path.startswith("http") else self._url + path
        tries = False if once else self._urllib3.Retry(
            total=None, connect=self._tries - 1, read=self._tries - 1, other=self._tries - 1, status=_BUSY_TRIES, status_forcelist=BUSY,
            allowed_methods=None, backoff_factor=_BACKOFF, backoff_jitter=_BACKOFF, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        try:
            said = self._http.urlopen(
                method, url, body=body, headers=given, retries=tries, timeout=self._timeout, redirect=False, decode_content=False
            )
        except self._urllib3.exceptions.HTTPError as error:
            # Of the last try, without the whole URL.
            raise StoreUnavailable(f"bucket {self._bucket} cannot be reached: {_line(getattr(error, 'reason', error))}") from error
        except self._auth.exceptions.TransportError as error:
            raise StoreUnavailable(f"bucket {self._bucket}: who gives out credentials cannot be reached: {_line(error)}") from error
        except self._auth.exceptions.GoogleAuthError as error:
            raise AccessDenied(f"bucket {self._bucket} cannot be asked with these credentials: {_line(error)}") from None
        return Answer(said.status, said.headers, _stored(said), bool(said.retries and said.retries.history))

    def refused(self, name: str, answer: Answer) -> Exception:
        """Answer the exception that a failure is."""
        said = answer.error()
        words = f"bucket {self._bucket} answers {answer.status}: {said}"
        if answer.status == 404:
            is_bucket = not name or "bucket does not exist" in said
            return StoreUnavailable(f"there is no bucket {self._bucket}") if is_bucket else KeyError(name)
        if answer.status in {401, 403}:
            return AccessDenied(f"{words}; there are no credentials of Google's, so only what is public can be read" if self.is_for_reading else words)
        if answer.status == 412:
            return Changed(words)
        return OutOfSpace(words) if answer.status in {413, 507} else StoreUnavailable(words)


def _library() -> tuple[Any, Any, Any]:
    try:
        import google.auth.credentials  # noqa: PLC0415 - an extra
        import google.auth.exceptions  # noqa: PLC0415
        import google.auth.transport.urllib3 as transport  # noqa: PLC0415
        import urllib3  # noqa: PLC0415
    except ImportError:
        raise UsageError("buckets of Google's need a library; install it with: pip install 'joinfs[gcs]'") from None
    # It would tell of each time that it looks in vain whether this is a machine of Google's.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    return google.auth, transport, urllib3


def _url(endpoint: str) -> str:
    """The URL of a server without a ``/`` at its end; an emulator's may be given as ``HOST:PORT``."""
    url = endpoint.rstrip("/")
    return url if "://" in url else f"http://{url}"


def _pool(urllib3: Any, url: str) -> Any:
    """Connections, of which as many are kept as are used at a time; through the proxy of the environment, if there is one."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(maxsize=CONNECTIONS)
    who = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=unquote(who)) if who else None
    return urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, proxy_headers=headers)


def _stored(said: Any) -> bytes:
    """A body as it is stored: what was compressed but on its way is not any more."""
    is_compressed = said.headers.get("Content-Encoding") == "gzip" and said.headers.get("X-Goog-Stored-Content-Encoding", "identity") == "identity"
    if not is_compressed:
        return bytes(said.data)
    import gzip  # noqa: PLC0415 - for those that do

    return gzip.decompress(said.data)


def _line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
