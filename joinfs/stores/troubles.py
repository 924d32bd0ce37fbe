"""Why a server cannot be asked, for the log: who uses a mount is told a number only."""

import logging
from typing import TypeVar

from joinfs.errors import StoreError

log = logging.getLogger(__name__)

Error = TypeVar("Error", bound=StoreError)


class Troubles:
    """Logs what is wrong with a server once for as long as it lasts, after it has answered for the first time. Until then it is for who connects to say.

    Args:
        name: What messages call the store.
    """

    def __init__(self, name: str) -> None:
        self._name, self._last = name, ""
        self._has_answered = False

    def told(self, error: Error) -> Error:
        """Answer what the caller is about to raise."""
        if self._has_answered and str(error) != self._last:
            self._last = str(error)
            log.warning("%s", error)
        return error

    def end(self) -> None:
        """The server has answered."""
        self._has_answered = True
        if self._last:
            self._last = ""
            log.info("%s answers again", self._name)
