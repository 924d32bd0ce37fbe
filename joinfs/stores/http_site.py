"""Where keys are on a web server, and what it lists: asked for once, and believed for a while."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from joinfs.errors import CorruptStore, StoreUnavailable, UsageError
from joinfs.stores.escape import is_piece, unescape
from joinfs.stores.http_files import Target
from joinfs.stores.http_listing import UNASKABLE, Entry, Listing, parse_listing, time_of
from joinfs.stores.http_server import Answer, Locks, Server
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.value import MEBIBYTE

log = logging.getLogger(__name__)

MOST_LISTING = 64 * MEBIBYTE
MOST_LISTINGS = 1000
MOST_NAMES = 1_000_000
HINT = (
    "a directory must be listed as JSON, as nginx does with 'autoindex on; autoindex_format json;' and no index page, "
    "or the URL must be that of a manifest, FILES.json"
)
_PLAIN = "/%:@!$&'()*+,;=~"


class Known(NamedTuple):
    """A listing, what the server says of its version, and until when it is believed."""

    listing: Listing
    etag: str
    modified: int | None
    until: float = 0.0


class Site:
    """What is below a URL. Several threads may ask; a listing is asked for by one of them.

    Args:
        server: Who is asked.
        url: A directory's, with ``/`` at its end, or a manifest's.
        freshness: Answers for how many seconds a listing is believed.
    """

    def __init__(self, server: Server, url: str, freshness: Callable[[], float]) -> None:
        self._server, self._url, self._freshness = server, url, freshness
        self._is_manifest = url.endswith(".json")
        self._base = url[: url.rindex("/") + 1]
        self._lock = threading.Lock()
        self._asking = Locks()
        self._known: OrderedDict[str, Known] = OrderedDict()

    # ---------------------------------------------------------------- places

    def home(self, directory: str) -> str:
        """Answer the directory whose listing has what is in ``directory``.

        That is itself, as a rule; a manifest has all, and the beginning of a name too long for one component
        is no directory of the server's.
        """
        if self._is_manifest:
            return ROOT
        while is_piece(directory):
            directory = split(directory)[0]
        return directory

    def url(self, key: str) -> str:
        """Answer where a key is, if it is where its name says.

        Raises:
            KeyError: The name leads elsewhere, so that nothing was listed by it.
        """
        name, beside = unescape(key.removesuffix("/")) if key else ("", False)
        if key and (not UNASKABLE.isdisjoint(name.split("/")) or (beside and is_directory_key(key))):
            raise KeyError(key)
        path = quote(name.encode("utf-8", "surrogateescape"), safe="/")
        return self._base + path + ("/" if key.endswith("/") else "")

    def target(self, key: str, entry: Entry) -> Target:
        """Answer where the data of a key is.

        Raises:
            StoreUnavailable: It is in a place that is not asked.
        """
        if entry.url is None:
            return Target(self.url(key), entry.size)
        url = urljoin(self._url, entry.url)
        if urlsplit(url).scheme not in {"https", urlsplit(self._url).scheme}:
            raise StoreUnavailable(f"{self._url} says that {key!r} is at {url}, which is not asked")
        return Target(url, entry.size)

    # ---------------------------------------------------------------- listings

    def modified(self) -> int | None:
        """Answer when the manifest was last changed, if that is known."""
        known = self._known.get(ROOT)
        return None if known is None else known.modified

    def entry(self, key: str) -> Entry:
        """Answer what is told of a key that is not the root's; KeyError if it is not there."""
        home = self.home(split(key)[0])
        return self.listing(home).entry(key.removeprefix(home))

    def lists_no(self, directory: str) -> bool:
        """Whether a listing that is at hand has no such directory: some servers answer anything for ``FILE/``."""
        home = self.home(split(directory)[0])
        known = self._known.get(home)
        if directory == ROOT or known is None or time.monotonic() >= known.until:
            return False
        try:
            known.listing.entry(directory.removeprefix(home))
        except KeyError:
            return True
        return False

    def listing(self, home: str) -> Listing:
        """Answer the listing of a directory that is its own home, as it is or was a moment ago.

        Raises:
            KeyError: There is no such directory.
            CorruptStore: What the server answers is no listing.
            PermissionDenied, StoreUnavailable: As for ``Server.ask``.
        """
        known = self._known.get(home)
        if known is not None and time.monotonic() < known.until:
            return known.listing
        with self._asking.of(home):
            known = self._known.get(home)  # of who asked while we waited
            if known is None or time.monotonic() >= known.until:
                known = self._ask(home, known)
            return known.listing

    def _ask(self, home: str, old: Known | None) -> Known:
        url = self._url if self._is_manifest else self.url(home)
        headers = {"Accept": "application/json"}
        if old is not None and old.etag:
            headers["If-None-Match"] = old.etag
        began = time.monotonic()
        try:
            found = self._server.ask(url, lambda answer: self._take_in(answer, old), headers)
        except KeyError:
            self._known.pop(home, None)
            raise KeyError(home) from None
        took = time.monotonic() - began
        found = found._replace(until=began + took + max(self._freshness(), 20 * took))
        self._keep(home, found)
        return found

    def _take_in(self, answer: Answer, old: Known | None) -> Known:
        if answer.status == 304 and old is not None:
            return old
        if answer.status != 200:
            raise StoreUnavailable(f"{answer.url} cannot be listed: the server answers with status {answer.status}")
        try:
            listing, left_out = parse_listing(answer.body(MOST_LISTING), self._is_manifest)
        except CorruptStore as error:
            kind = answer.header("content-type") or "something"
            raise CorruptStore(f"{answer.url} answers {kind}, and that is no listing: {error}; {HINT}") from error
        if left_out and old is None:
            log.warning("%s lists %d names that are left out; the first: %s", answer.url, len(left_out), left_out[0])
        return Known(listing, answer.header("etag"), time_of(answer.header("last-modified")))

    def _keep(self, home: str, known: Known) -> None:
        with self._lock:
            self._known[home] = known
            self._known.move_to_end(home)
            names = sum(len(other.listing) for other in self._known.values())
            while len(self._known) > 1 and (len(self._known) > MOST_LISTINGS or names > MOST_NAMES):
                names -= len(self._known.popitem(last=False)[1].listing)


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
