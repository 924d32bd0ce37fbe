"""The other store of a cache, as it is asked: it may be gone for a while, and is asked again later."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from joinfs.errors import AccessDenied, StoreUnavailable
from joinfs.stores.base import Store
from joinfs.stores.caching_facts import Fact

log = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds for which a server that is gone is not asked about what is known anyway.
REST = 5.0
# A server that says nothing for so many seconds is not waited for again: it is asked by a thread that does nothing else until it answers.
SILENT = 2.0
# What no store has, so that it has to ask its server.
_NOTHING = ".joinfs-is-it-there"


class Origin:
    """A store that is asked through a cache.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._credentials: Any = None
        self._connecting = threading.Lock()
        # A store that another thread is connecting may say that it is connected.
        self._is_connected = False
        self._lock = threading.Lock()
        self._gone: StoreUnavailable | None = None
        self._gone_at = 0.0
        self._ended = threading.Event()
        self._is_silent = False

    def connect(self, credentials: Any, may_be_gone: bool) -> None:
        """Connect the store; errors as for ``Store.connect``, but if it may be gone its being so is no error now."""
        self._credentials = credentials
        self._ended.clear()
        self._is_silent = False
        try:
            self._store.connect(credentials)
            self._is_connected = True
        except AccessDenied:
            raise
        except StoreUnavailable as error:
            if not may_be_gone:
                raise
            self._note_gone(error)

    def disconnect(self) -> None:
        """Disconnect the store."""
        self._ended.set()
        self._is_connected = False
        self._store.disconnect()

    def reconnect(self) -> None:
        """Connect the store if it was gone when that was tried last; errors as for ``Store.connect``."""
        if self._is_connected:
            return
        began = time.monotonic()
        with self._connecting:
            if self._is_connected:
                return
            gone = self._gone
            if gone is not None and self._gone_at > began:  # others have tried it while we waited
                raise StoreUnavailable(str(gone)) from gone
            try:
                self._store.connect(self._credentials)
            except StoreUnavailable as error:
                self._note_gone(error)
                raise
            self._is_connected = True

    def ask(self, method: Callable[..., T], *arguments: Any) -> T:
        """Answer what a method of the store does; its errors are as they are. Of a server that is silent they are known."""
        if self._is_silent and (gone := self._gone) is not None:
            raise StoreUnavailable(str(gone)) from gone
        began = time.monotonic()
        try:
            self.reconnect()
            answer = method(*arguments)
        except AccessDenied:
            raise
        except StoreUnavailable as error:
            self._note_gone(error)
            if time.monotonic() - began > SILENT:
                self._note_silent()
            raise
        except KeyError:
            self._note_back()
            raise
        self._note_back()
        return answer

    def renewed(self, fact: Fact | None, ask: Callable[[], Any]) -> Any:
        """Answer what is asked for now; of a store that is gone, what it said once, if it did."""
        if fact is not None and self.is_resting():
            return fact.what
        try:
            return ask()
        except AccessDenied:
            raise
        except StoreUnavailable:
            if fact is None:
                raise
            return fact.what

    def is_resting(self) -> bool:
        """Whether it was gone a moment ago, or is silent."""
        return self._gone is not None and (self._is_silent or time.monotonic() < self._gone_at + REST)

    def _note_gone(self, error: StoreUnavailable) -> None:
        with self._lock:
            is_news, self._gone, self._gone_at = self._gone is None, error, time.monotonic()
        if is_news:
            log.warning("%s cannot be asked, so what was kept of it is answered: %s", self._store.name, error)

    def _note_silent(self) -> None:
        with self._lock:
            if self._is_silent or self._ended.is_set():
                return
            self._is_silent = True
        threading.Thread(target=self._ask_until_it_answers, name="joinfs asks again", daemon=True).start()

    def _ask_until_it_answers(self) -> None:
        while not self._ended.wait(REST):
            if self._answers():
                self._note_back()
                return

    def _answers(self) -> bool:
        try:
            self.reconnect()
            self._store.lookup(_NOTHING)
        except (KeyError, AccessDenied):
            return True
        except Exception as error:  # whatever it is, it was not answered
            log.debug("%s: %s", self._store.name, error)
            return False
        return True

    def _note_back(self) -> None:
        if self._gone is not None:
            self._gone, self._is_silent = None, False
            log.info("%s answers again", self._store.name)
