"""Asking a web server: with bounds on how long it may take, how often it is asked, and where it may send us.

A request is made again when the server fails in a way that may be over in a moment, and when its answer
breaks off; so what takes in the answer is called again from the start. Redirects are followed over http
and https, never from https to http, and credentials go to no other server than the one they are for.
"""

import contextlib
import netrc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from joinfs.errors import AccessDenied, NotConnected, StoreUnavailable, UsageError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MOST_REDIRECTS = 10
# Bytes a second. What comes more slowly is not meant to arrive.
SLOWEST = 4096
FIRST_PAUSE = 0.1
# Those of servers that do not know HEAD, too: it is asked otherwise then.
_TAKEN = {200, 206, 304, 405, 416, 501}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_PLAIN = "/%:@!$&'()*+,;=~"


class Failed(Exception):
    """The server failed in a way that may be over in a moment, or after ``pause`` seconds if it said so."""

    def __init__(self, words: str, pause: float = 0.0) -> None:
        super().__init__(words)
        self.pause = pause


class Forbidden(AccessDenied):
    """The server refuses this, whoever asks."""


class Locks:
    """A lock for each of any number of names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    def of(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Answer the lock of a name; all who ask while somebody has it get the same one."""
        with self._lock:
            lock: contextlib.AbstractContextManager[Any] = self._locks.setdefault(name, threading.Lock())
            return lock


class Answer:
    """What the server answered; its body is read once, in pieces or whole.

    Attributes:
        url: What was asked for.
        status: The status.
    """

    def __init__(self, url: str, response: "httpx.Response", timeout: float) -> None:
        self.url = url
        self.status = response.status_code
        self._response = response
        self._timeout = timeout

    def header(self, name: str) -> str:
        """Answer a header; empty if it is not there, or could not be sent back, not being ASCII."""
        text = str(self._response.headers.get(name, "")).strip()
        return text if text.isascii() else ""

    @property
    def length(self) -> int | None:
        """How many bytes the body has, if the server says so."""
        text = self.header("content-length")
        return int(text) if text.isdigit() and len(text) < 20 else None

    @property
    def is_delimited(self) -> bool:
        """Whether HTTP tells where the body ends, so that one that is cut off is noticed."""
        return self.length is not None or "chunked" in self.header("transfer-encoding").lower()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body, as it was sent; how long the caller takes over a piece is not the server's fault."""
        body, size, waited = self._response.iter_raw(), 0, 0.0
        while True:
            began = time.monotonic()
            piece = next(body, b"")
            waited += time.monotonic() - began
            size += len(piece)
            if waited > self._timeout + size / SLOWEST:
                raise Failed(f"next to nothing came within {waited:.0f} seconds")
            if not piece:
                return
            yield piece

    def body(self, most: int) -> bytes:
        """Answer the whole body.

        Raises:
            StoreUnavailable: It has more than ``most`` bytes.
        """
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > most:
                raise StoreUnavailable(f"{self.url} answers more than the {most} bytes that there can be")
        return bytes(data)


class Server:
    """A web server, as it is asked by one store; several threads may.

    Args:
        credentials: ``(user, password)``, a token (str), or None for what ``~/.netrc`` has.
        timeout: Seconds for which the server may send nothing.
        tries: How often a request that fails is made.

    Raises:
        UsageError: httpx is not installed, or the credentials are something else.
    """

    def __init__(self, credentials: Any, timeout: float, tries: int) -> None:
        self._httpx = _library()
        self._timeout, self._tries = timeout, tries
        headers = {"Accept-Encoding": "identity", "User-Agent": "joinfs"}
        self._client = self._httpx.Client(auth=self._authorisation(credentials), headers=headers, timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _authorisation(self, credentials: Any) -> Any:
        if credentials is None:
            return self._from_netrc()
        if isinstance(credentials, str):
            return _bearer(credentials)
        try:
            user, password = credentials
            return self._httpx.BasicAuth(user, password)
        except (TypeError, ValueError):
            raise UsageError("credentials for a web server are (user, password), or a token as a str") from None

    def _from_netrc(self) -> Any:
        try:
            return self._httpx.NetRCAuth()
        except OSError:
            return None
        except netrc.NetrcParseError as error:
            raise UsageError(f"the credentials in {error.filename} cannot be read: line {error.lineno}: {error.msg}") from None

    def ask(
        self,
        url: str,
        take: Callable[[Answer], T],
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> T:
        """Ask for ``url`` and answer what ``take`` makes of the answer.

        Args:
            url: An absolute URL, percent-encoded, without credentials.
            take: Called with an answer of the status 200, 206, 304, 405, 416 or 501; called again, with another one,
                if the body breaks off or ``take`` raises ``Failed``.
            headers: To send, beside those of every request.
            method: ``GET`` or ``HEAD``.

        Raises:
            KeyError: There is nothing of that URL.
            AccessDenied: The server does not let us have it.
            StoreUnavailable: It cannot be reached, keeps failing, or answers something that makes no sense.
        """
        for attempt in range(1, self._tries + 1):
            try:
                with self._answer(method, url, headers or {}) as answer:
                    _check_status(answer)
                    return take(answer)
            except Failed as error:
                if attempt == self._tries or error.pause > self._timeout:
                    raise StoreUnavailable(f"{url} cannot be read: {error}") from error
                time.sleep(error.pause or FIRST_PAUSE * 2**attempt)
        raise AssertionError("a server is asked at least once")

    @contextlib.contextmanager
    def _answer(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        if self._client.is_closed:
            raise NotConnected(f"{url} cannot be read: the store was disconnected")
        try:
            with contextlib.closing(self._follow(self._client.build_request(method, url, headers=dict(headers)))) as response:
                yield Answer(url, response, self._timeout)
        except (self._httpx.InvalidURL, self._httpx.UnsupportedProtocol) as error:
            raise StoreUnavailable(f"{url} cannot be read: {error}") from error
        except self._httpx.TransportError as error:
            raise Failed(str(error) or type(error).__name__) from error

    def _follow(self, request: "httpx.Request") -> "httpx.Response":
        """Send a request, and again where the server says that the thing is elsewhere.

        httpx would read the body of a redirect, however long. It leaves out the credentials where a redirect
        leads to another server, and must not add them again.
        """
        first: httpx.Request = request
        response: httpx.Response = self._client.send(request, stream=True)
        for _ in range(MOST_REDIRECTS):
            following = response.next_request
            if following is None:
                return response
            response.close()
            _check_redirect(first, request, following)
            request = following
            response = self._client.send(request, stream=True, auth=None)
        response.close()
        raise StoreUnavailable(f"{first.url} cannot be read: it leads from one redirect to the next")


def _library() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("files of web servers need a library; install it with: pip install 'joinfs[http]'") from None
    return httpx


def _bearer(token: str) -> Callable[["httpx.Request"], "httpx.Request"]:
    def authorise(request: "httpx.Request") -> "httpx.Request":
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorise


def _check_redirect(first: "httpx.Request", last: "httpx.Request", following: "httpx.Request") -> None:
    allowed = {"https"} if last.url.scheme == "https" else {"http", "https"}
    if following.url.scheme not in allowed:
        raise StoreUnavailable(f"{first.url} cannot be read: it redirects to {following.url.scheme}:, which is not followed")


def _check_status(answer: Answer) -> None:
    status, url = answer.status, answer.url
    if status in _TAKEN:
        return
    if status in {404, 410}:
        raise KeyError(url)
    if status == 401:
        raise AccessDenied(f"{url} needs a name and a password, or others than were given: put them into ~/.netrc, or into the URL")
    if status == 403:
        raise Forbidden(f"{url} is forbidden to us by the server")
    if status in _PASSING:
        raise Failed(f"the server answers with status {status}", _retry_after(answer))
    raise StoreUnavailable(f"{url} cannot be read: the server answers with status {status}")


def _retry_after(answer: Answer) -> float:
    """Seconds to wait, if the server says so as a number; where it names a date, our own pause will do."""
    text = answer.header("retry-after")
    return float(text) if text.isdigit() and len(text) < 6 else 0.0


def parse_url(url: str) -> tuple[str, tuple[str, str] | None]:
    """Answer the URL without credentials, with ``/`` at its end if it is a directory's; and the credentials.

    Raises:
        UsageError: It is no web server's.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, SplitResult("", "", "", "", "")
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError("a web server's URL is http://HOST/DIRECTORY/, or https://, with a number if there is a port")
    if parts.query or parts.fragment:
        raise UsageError(f"'?' and '#' must be '%3F' and '%23' in the URL of {host}")
    place = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    path = parts.path if parts.path.endswith((".json", "/")) else parts.path + "/"
    quoted = quote(path.encode("utf-8", "surrogateescape"), safe=_PLAIN)
    credentials = None
    if parts.username is not None or parts.password is not None:
        credentials = unquote(parts.username or ""), unquote(parts.password or "")
    return f"{parts.scheme}://{place}{quoted}", credentials
