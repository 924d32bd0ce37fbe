"""The other store of a cache, as it is asked: it may be gone for a while, and is asked again later."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from joinfs.errors import AccessDenied, StoreUnavailable
from joinfs.stores.base import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds for which a server that is gone is not asked about what is known anyway.
REST = 5.0


class Origin:
    """A store that is asked through a cache.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._credentials: Any = None
        self._connecting = threading.Lock()
        self._gone_until: float | None = None

    def connect(self, credentials: Any, may_be_gone: bool) -> None:
        """Connect the store; errors as for ``Store.connect``, but if it may be gone its being so is no error now."""
        self._credentials = credentials
        try:
            self._store.connect(credentials)
        except AccessDenied:
            raise
        except StoreUnavailable as error:
            if not may_be_gone:
                raise
            self._note_gone(error)

    def reconnect(self) -> None:
        """Connect the store if it was gone when that was tried last; errors as for ``Store.connect``."""
        if not self._store.is_connected():
            with self._connecting:
                self._store.connect(self._credentials)

    def ask(self, method: Callable[..., T], *arguments: Any) -> T:
        """Answer what a method of the store does; its errors are as they are."""
        try:
            self.reconnect()
            answer = method(*arguments)
        except AccessDenied:
            raise
        except StoreUnavailable as error:
            self._note_gone(error)
            raise
        except KeyError:
            self._note_back()
            raise
        self._note_back()
        return answer

    def is_resting(self) -> bool:
        """Whether it was gone a moment ago."""
        return self._gone_until is not None and time.monotonic() < self._gone_until

    def _note_gone(self, error: StoreUnavailable) -> None:
        if self._gone_until is None:
            log.warning("%s cannot be asked, so what was kept of it is answered: %s", self._store.name, error)
        self._gone_until = time.monotonic() + REST

    def _note_back(self) -> None:
        if self._gone_until is not None:
            self._gone_until = None
            log.info("%s answers again", self._store.name)
