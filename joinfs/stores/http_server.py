"""Asking a web server: with bounds on how long it may take, how often it is asked, and where it may send us.

A request is made again when the server fails in a way that may be over in a moment, and when its answer
breaks off; so what takes in the answer is called again from the start. Redirects are followed over http
and https, never from https to http, and credentials go to no other server than the one they are for.
"""

import contextlib
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from joinfs.errors import NotConnected, PermissionDenied, StoreUnavailable, UsageError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MOST_REDIRECTS = 10
SLOWEST = 4096
FIRST_PAUSE = 0.1
_TAKEN = {200, 206, 304, 416}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_SUCH_METHOD = {400, 405, 501}


class Failed(Exception):
    """The server failed in a way that may be over in a moment, or after ``pause`` seconds if it said so."""

    def __init__(self, words: str, pause: float = 0.0) -> None:
        super().__init__(words)
        self.pause = pause


class MethodRefused(StoreUnavailable):
    """The server does not answer requests of this kind."""


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


class Patience:
    """How long a server may go on sending nothing, or next to nothing.

    Given to httpx where it takes a number of seconds: it hands that to ``socket.settimeout`` before each
    receive, which asks ``__index__``. A plain number would let a server that sends one byte of its headers
    every few seconds hold us for days.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def __index__(self) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing, or next to nothing, came within {self._seconds:g} seconds")
        return math.ceil(left)

    def received(self, size: int) -> None:
        """The server sent some bytes, which buy it time."""
        self._end = min(self._end + size / SLOWEST, time.monotonic() + self._seconds)

    @contextlib.contextmanager
    def waiting_for_us(self) -> Iterator[None]:
        """Around what the server is not to blame for."""
        began = time.monotonic()
        yield
        self._end += time.monotonic() - began


class Answer:
    """What the server answered; its body is read once, in pieces or whole.

    Attributes:
        url: What was asked for.
        status: The status.
        headers: The headers; names in any case.
    """

    def __init__(self, url: str, response: "httpx.Response", patience: Patience) -> None:
        self.url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._patience = patience

    def header(self, name: str) -> str:
        """Answer a header; empty if it is not there, or could not be sent back, not being ASCII."""
        text = self.headers.get(name, "").strip()
        return text if text.isascii() else ""

    @property
    def is_delimited(self) -> bool:
        """Whether HTTP tells where the body ends, so that one that is cut off is noticed."""
        return "content-length" in self.headers or "chunked" in self.header("transfer-encoding").lower()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body, as it was sent."""
        for piece in self._response.iter_raw():
            self._patience.received(len(piece))
            with self._patience.waiting_for_us():
                yield piece

    def body(self, most: int) -> bytes:
        """Answer the whole body.

        Raises:
            StoreUnavailable: It has more than ``most`` bytes.
        """
        pieces, size = [], 0
        for piece in self.pieces():
            size += len(piece)
            if size > most:
                raise StoreUnavailable(f"{self.url} answers more than the {most} bytes that there can be")
            pieces.append(piece)
        return b"".join(pieces)


class Server:
    """A web server, as it is asked by one store; several threads may.

    Args:
        url: The server's, or of something on it; only this server gets the credentials.
        credentials: ``(user, password)``, a token (str), or None for what ``~/.netrc`` has.
        timeout: Seconds in which all tries of a request must get something from the server.
        tries: How often a request that fails is made.

    Raises:
        UsageError: httpx is not installed, the credentials are something else, or the URL is none.
    """

    def __init__(self, url: str, credentials: Any, timeout: float, tries: int) -> None:
        self._httpx = _library()
        self._timeout, self._tries = timeout, tries
        self._auth = self._authorisation(credentials)
        try:
            self._origin = _origin(self._httpx.URL(url))
        except self._httpx.InvalidURL as error:
            raise UsageError(f"{url} is no web server's URL: {error}") from error
        self._client = self._httpx.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": "joinfs"}, follow_redirects=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _authorisation(self, credentials: Any) -> Any:
        if credentials is None:
            with contextlib.suppress(OSError):
                return self._httpx.NetRCAuth()
            return None
        if isinstance(credentials, str):
            return _bearer(credentials)
        try:
            user, password = credentials
            return self._httpx.BasicAuth(user, password)
        except (TypeError, ValueError):
            raise UsageError("credentials for a web server are (user, password), or a token as a str") from None

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
            take: Called with an answer of the status 200, 206, 304 or 416; called again, with another one,
                if the body breaks off or ``take`` raises ``Failed``.
            headers: To send, beside those of every request.
            method: ``GET`` or ``HEAD``.

        Raises:
            KeyError: There is nothing of that URL.
            PermissionDenied: The server does not let us have it.
            StoreUnavailable: It cannot be reached, keeps failing, or answers something that makes no sense.
        """
        began = time.monotonic()
        attempt = 1
        while True:
            try:
                with self._answer(method, url, headers or {}) as answer:
                    _check_status(answer, method)
                    return take(answer)
            except Failed as error:
                left = began + self._timeout - time.monotonic()
                pause = error.pause or FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
                if attempt >= self._tries or pause > left:
                    raise StoreUnavailable(f"{url} cannot be read: {error}") from error
            time.sleep(pause)
            attempt += 1

    @contextlib.contextmanager
    def _answer(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        patience = Patience(self._timeout / self._tries)
        timeouts = dict.fromkeys(("connect", "read", "write"), patience) | {"pool": self._timeout}
        library = self._httpx
        try:
            request = self._client.build_request(method, url, headers=dict(headers), extensions={"timeout": timeouts})
            with contextlib.closing(self._follow(request)) as response:
                yield Answer(url, response, patience)
        except (library.InvalidURL, library.UnsupportedProtocol) as error:
            raise StoreUnavailable(f"{url} cannot be read: {error}") from error
        except library.TransportError as error:
            raise Failed(str(error) or type(error).__name__) from error

    def _follow(self, request: "httpx.Request") -> "httpx.Response":
        """Send a request, and again where the server says that the thing is elsewhere."""
        if self._client.is_closed:
            raise NotConnected(f"{request.url} cannot be read: the store was disconnected")
        first, auth = request, self._auth if _origin(request.url) == self._origin else None
        for _ in range(MOST_REDIRECTS + 1):
            response: httpx.Response = self._client.send(request, stream=True, auth=auth)
            if response.next_request is None:
                return response
            response.close()
            _check_redirect(first, request, response.next_request)
            # httpx leaves out the Authorization header where this is another server.
            request, auth = response.next_request, None
        raise StoreUnavailable(f"{first.url} cannot be read: it leads from one redirect to the next")


def _library() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("files of web servers need a library; install it with: pip install 'joinfs[http]'") from None
    return httpx


def _origin(url: "httpx.URL") -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _bearer(token: str) -> Callable[["httpx.Request"], "httpx.Request"]:
    def authorise(request: "httpx.Request") -> "httpx.Request":
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorise


def _check_redirect(first: "httpx.Request", last: "httpx.Request", following: "httpx.Request") -> None:
    allowed = {"https"} if last.url.scheme == "https" else {"http", "https"}
    if following.url.scheme not in allowed:
        raise StoreUnavailable(f"{first.url} cannot be read: it redirects to {following.url.scheme}:, which is not followed")


def _check_status(answer: Answer, method: str) -> None:
    status, url = answer.status, answer.url
    if status in _TAKEN:
        return
    if status in {404, 410}:
        raise KeyError(url)
    if status == 401:
        raise PermissionDenied(f"{url} needs a name and a password, or others than were given: connect with them, or put them into the URL")
    if status == 403:
        raise PermissionDenied(f"{url} is forbidden to us by the server")
    if status in _PASSING:
        raise Failed(f"the server answers with status {status}", _retry_after(answer))
    if method == "HEAD" and status in _NO_SUCH_METHOD:
        raise MethodRefused(f"{url} does not answer to {method}")
    raise StoreUnavailable(f"{url} cannot be read: the server answers with status {status}")


def _retry_after(answer: Answer) -> float:
    """Seconds to wait if the server says so as a number; it may also be a date, which needs no more than our own pause."""
    text = answer.header("retry-after")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
